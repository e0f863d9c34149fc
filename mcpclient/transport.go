package mcpclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// authorizer is the transport of [Client.HTTPClient].
type authorizer struct{ state *state }

func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	s := a.state
	if !s.owns(req) {
		return s.rt.RoundTrip(req)
	}
	resp, err := s.authorized(req, nil, askForRequests, nil)
	if resp != nil {
		return resp, nil // the verdict on it is the caller's
	}
	return nil, err
}

// owns reports whether the server's token may go along with req: to the
// server's origin alone, and where a redirect leads only if [oauthhttp.Below]
// has it at the server's address or at the one that the caller asked for. A
// Host header chooses among the servers at one address, and so counts too.
func (s *state) owns(req *http.Request) bool {
	if req.Host != "" && oauthhttp.Origin(&url.URL{Scheme: req.URL.Scheme, Host: req.Host}) != oauthhttp.Origin(s.server) {
		return false
	}
	asked := req
	for asked.Response != nil && asked.Response.Request != nil {
		asked = asked.Response.Request
	}
	return oauthhttp.Origin(asked.URL) == oauthhttp.Origin(s.server) &&
		(asked == req || oauthhttp.Below(req.URL, s.server) || oauthhttp.Below(req.URL, asked.URL))
}

const (
	// mostSends bounds the answers that one request may draw: without a
	// token, with an old one, a refreshed one, a new one, a stepped-up one.
	mostSends = 6
	// mostStepUps bounds the sign-ins for more scopes that one operation may
	// start until it succeeds.
	mostStepUps = 2
)

// authorized sends req with an access token, and again after a refresh or a
// sign-in for as long as that helps. asked is what req asks for: nil has it
// found out if the server refuses req. may says whether a sign-in may be started
// then; latch, if not nil, holds the failure of an earlier sign-in that is not to
// be tried again.
//
// It returns the last answer, together with an error if that was a 401 or a
// 403; or an error alone. The caller closes the body.
func (s *state) authorized(req *http.Request, asked *call, may mayAsk, latch *latch) (*http.Response, error) {
	ctx := req.Context()
	asks := func() call { // most requests are not refused, and a body may be long
		if asked == nil {
			c := parseCall(req)
			asked = &c
		}
		return *asked
	}
	access, why := s.source.Access(ctx)
	var useless *refresh.Access     // what there is instead
	var to *discovery.Configuration // where the server has moved to
	if why != nil && !errors.Is(why, ErrLoginRequired) {
		if useless, to = s.astray(ctx, req, asks, why); useless == nil {
			closeBody(req)
			return nil, noToken(why)
		}
		why = fmt.Errorf("%w: the server has moved to another authorization server: %w", ErrLoginRequired, why)
	}
	var signedIn, steppedUp bool
	for n := range mostSends {
		resp, err := s.send(req, access, n > 0)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			if steppedUp && resp.StatusCode < 300 {
				s.stepUps.succeed(asks().operation)
			}
			return resp, nil
		}
		challenge := challengeOf(resp, access)
		if !resendable(req) {
			return resp, refusal(resp, challenge, why)
		}
		c := asks()
		want := signIn{challenge: challenge, refused: cmp.Or(access, useless)}

		if resp.StatusCode == http.StatusForbidden {
			if challenge.Error != "insufficient_scope" || access == nil {
				return resp, refusal(resp, challenge, nil)
			}
			want.scopes = union(access.ScopesRequested, challenge.Scopes())
			forbidden := refusal(resp, challenge, nil).(*ForbiddenError)
			if needed := challenge.Scopes(); len(needed) > 0 && len(union(access.Scopes, needed)) == len(access.Scopes) {
				forbidden.Scopes = needed // it has them: a sign-in yields no more
				return resp, forbidden
			}
			if !s.interactive || !may.allows(ctx, c) {
				forbidden.SignInFor = want.scopes
				return resp, at(StepAuthorize, fmt.Errorf("%w for the scopes %s: %w", ErrLoginRequired, text.Quotes(want.scopes), forbidden))
			}
			if !s.stepUps.try(c.operation, access.Generation, mostStepUps) {
				forbidden.Scopes = challenge.Scopes()
				return resp, forbidden
			}
			steppedUp = true
		} else if access != nil {
			next, err := s.source.Refused(ctx, access.Generation)
			switch {
			case err == nil:
				oauthhttp.Drain(resp)
				access = next
				continue
			case errors.Is(err, ErrLoginRequired):
				why = err
			case errors.Is(err, refresh.ErrRefused):
				// Fresh from the authorization server, and refused: either the
				// two do not agree, or the resource has moved to another one.
				var named string
				if named, to = s.moved(ctx, challenge, access.Issuer); to == nil {
					return resp, at(StepConnect, &TokenRefusedError{
						Resource: access.Resource, Issuer: access.Issuer, Named: named,
						Code: challenge.Error, Description: challenge.ErrorDescription, Clock: clockAhead(resp.Header),
					})
				}
				why = err
			case errors.As(err, new(*refresh.RetryError)):
				if to = s.left(ctx, access.Issuer, &challenge); to == nil {
					oauthhttp.Drain(resp)
					return nil, noToken(err)
				}
				why = fmt.Errorf("%w: the server has moved to another authorization server: %w", ErrLoginRequired, err)
			default:
				oauthhttp.Drain(resp)
				return nil, noToken(err)
			}
		}

		if !s.interactive || !may.allows(ctx, c) || (signedIn && resp.StatusCode == http.StatusUnauthorized) {
			return resp, refusal(resp, challenge, why)
		}
		if err := latch.get(); err != nil {
			oauthhttp.Drain(resp)
			return nil, err
		}
		oauthhttp.Drain(resp)
		want.cfg, to = to, nil // whoever names one issuer and then another moves to the first
		if access, err = s.signIn(ctx, want); err != nil {
			latch.set(ctx, err)
			return nil, err
		}
		signedIn, why = true, nil
	}
	return nil, at(StepConnect, fmt.Errorf("the server refused the request %d times, each with another token", mostSends))
}

// noToken is the error for a request that cannot be made, since there is no
// telling whether there is a token for it.
func noToken(err error) error {
	if errors.Is(err, refresh.ErrClosed) {
		return ErrClosed
	}
	return at(StepRefresh, err)
}

// challengeOf reads the challenge of an answer to a request with access, whose
// token the server may not make us show.
func challengeOf(resp *http.Response, access *refresh.Access) discovery.Challenge {
	c := discovery.ParseChallenge(resp.Header)
	if access != nil {
		for _, s := range []*string{&c.ResourceMetadata, &c.Scope, &c.Error, &c.ErrorDescription} {
			*s = text.Redact(*s, access.Token.Reveal())
		}
	}
	return c
}

// refusal is the error for a 401 or 403 that stands.
func refusal(resp *http.Response, c discovery.Challenge, why error) error {
	if resp.StatusCode == http.StatusForbidden {
		return &ForbiddenError{Code: c.Error, Description: c.ErrorDescription}
	}
	if why == nil {
		why = ErrLoginRequired
	}
	if errors.Is(why, refresh.ErrRefused) {
		why = fmt.Errorf("%w: %w", ErrLoginRequired, why)
	}
	return at(StepAuthorize, why)
}

// send sends a copy of req with access, which may be nil; with its body, or
// with a copy of that if it is sent again.
func (s *state) send(req *http.Request, access *refresh.Access, resend bool) (*http.Response, error) {
	ctx, outcome := oauthhttp.Watch(req.Context())
	r := req.Clone(ctx)
	if resend {
		var err error
		if r.Body, err = newBody(req); err != nil {
			return nil, err
		}
	}
	r.Header.Del("Authorization")
	if access != nil {
		r.Header.Set("Authorization", "Bearer "+access.Token.Reveal())
	}
	resp, err := s.rt.RoundTrip(r)
	if err == nil && resp.Request == nil {
		resp.Request = r
	}
	if err != nil && req.Context().Err() == nil && outcome(err) == oauthhttp.Unknown {
		err = noAnswer{err}
	}
	return resp, err
}

// resendable reports whether req can be sent a second time.
func resendable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// newBody returns a new copy of req's body, or an error if there is none.
func newBody(req *http.Request) (io.ReadCloser, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req.Body, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("body cannot be sent again")
	}
	return req.GetBody()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// A call is what a request asks for, as far as sign-in is concerned.
type call struct {
	mcp       bool       // it belongs to the MCP transport
	method    string     // of JSON-RPC
	wanted    bool       // it is a JSON-RPC call, to be answered
	id        jsonrpc.ID // if so
	operation string     // what a step-up is counted by

	cancels jsonrpc.ID // the call that it cancels, if it does
	cursor  string     // of a list: the page that is asked for, "" for the first

	sdkID       jsonrpc.ID // as the SDK knows it; id is another one after a repetition
	repetitions int
}

// awaited reports whether somebody waits for the answer.
func (c call) awaited(ctx context.Context) bool { return c.wanted && ctx.Err() == nil }

// mayAsk says for which refused requests a sign-in may be started.
type mayAsk int

const (
	askNever       mayAsk = iota
	askForCalls           // for a JSON-RPC call that somebody waits for
	askForRequests        // also for a request that does not belong to MCP
	askAlways             // somebody waits for a call that this request is part of
)

// allows reports whether a sign-in may be started for c.
func (m mayAsk) allows(ctx context.Context, c call) bool {
	switch m {
	case askForCalls:
		return c.awaited(ctx)
	case askForRequests:
		return !c.mcp || c.awaited(ctx)
	case askAlways:
		return true
	}
	return false
}

// parseCall looks into req, whose body can be read again.
func parseCall(req *http.Request) call {
	c := call{operation: req.Method + " " + req.URL.Path}
	if req.Method != http.MethodPost {
		c.mcp = req.Header.Get("Accept") == "text/event-stream" || req.Header.Get(sessionHeader) != ""
		return c
	}
	body, err := newBody(req)
	if err != nil || body == nil {
		return c
	}
	defer body.Close()
	var msg struct {
		Version string `json:"jsonrpc"`
		ID      any    `json:"id"`
		Method  string `json:"method"`
		Params  struct {
			Name    string `json:"name"`
			URI     string `json:"uri"`
			Cursor  string `json:"cursor"`
			Cancels any    `json:"requestId"`
		} `json:"params"`
	}
	var fault *json.UnmarshalTypeError // of params, which are none of ours
	if err := json.NewDecoder(body).Decode(&msg); err != nil && !errors.As(err, &fault) || msg.Version == "" {
		return c
	}
	c.mcp, c.method = true, msg.Method
	c.wanted = msg.Method != "" && msg.ID != nil
	c.id, _ = jsonrpc.MakeID(msg.ID)
	c.sdkID, c.cursor = c.id, msg.Params.Cursor
	c.cancels, _ = jsonrpc.MakeID(msg.Params.Cancels)
	c.operation = msg.Method + " " + msg.Params.Name + msg.Params.URI
	return c
}

// moved returns the issuer that the server announces by now, if that is another
// one than issuer, and what a sign-in there needs (MCP specification,
// "Authorization Server Binding"): nil if a person named issuer.
func (s *state) moved(ctx context.Context, c discovery.Challenge, issuer string) (named string, to *discovery.Configuration) {
	pin := s.issuer
	if held, err := s.held(ctx); err == nil && held.Grant != nil && held.Grant.IssuerUnlisted && held.Grant.Issuer == issuer {
		pin = issuer // of the client that signed in, if not of this one
	}
	cfg, err := s.discoverAt(ctx, c, pin)
	switch {
	case err != nil:
		return "", nil
	case cfg.IssuerUnlisted && cfg.ProtectedResource != nil && len(cfg.ProtectedResource.AuthorizationServers) > 0:
		return cfg.ProtectedResource.AuthorizationServers[0], nil
	case pin != "" || cfg.Issuer == issuer:
		return "", nil
	}
	return cfg.Issuer, cfg
}

// moveEvery is how often a sign-in that nobody asked for may go to another
// issuer than the grant's.
const moveEvery = 24 * time.Hour

// mayMove returns an error if a sign-in at another issuer than the grant's has
// to wait until somebody asks for it, and else remembers this one, for other
// processes too: before a browser opens, since what it shows may never end.
func (s *state) mayMove(ctx context.Context, from, to string) error {
	if from == to || s.issuer != "" {
		return nil // the server has no say in it
	}
	return s.store.Update(ctx, s.key, func(ctx context.Context, l *tokenstore.Locked) error {
		mark, err := l.Mark(ctx)
		if err != nil {
			return err
		}
		now := clock.Now()
		if now.Sub(mark.NewIssuerAt).Abs() < moveEvery {
			return &IssuerChangedError{Issuer: from, Named: to}
		}
		mark.NewIssuerAt = now
		return l.SetMark(ctx, mark)
	})
}

// asked forgets, after a sign-in that somebody asked for, where others went. If
// it cannot, the next one has to be asked for too.
func (s *state) asked(ctx context.Context) {
	_ = s.store.Update(ctx, s.key, func(ctx context.Context, l *tokenstore.Locked) error {
		mark, err := l.Mark(ctx)
		if err != nil || mark.NewIssuerAt.IsZero() {
			return err
		}
		mark.NewIssuerAt = time.Time{}
		return l.SetMark(ctx, mark)
	})
}

// A look is one for another authorization server than that of the grant.
type look struct {
	issuer string // of the grant
	at     time.Time
	to     *discovery.Configuration // the server's other one, if it has one
}

const (
	lookEvery   = time.Minute
	lookTimeout = 10 * time.Second
)

// astray returns what is held of a grant that cannot be renewed now because its
// authorization server does not answer, if that is not the server's any more:
// then it never will be. It returns nil otherwise, and for requests for which
// nobody waits.
func (s *state) astray(ctx context.Context, req *http.Request, asks func() call, why error) (*refresh.Access, *discovery.Configuration) {
	if c := asks(); !errors.As(why, new(*refresh.RetryError)) || c.mcp && !c.awaited(ctx) || !resendable(req) {
		return nil, nil
	}
	held := s.source.Held()
	if held == nil {
		return nil, nil
	}
	to := s.left(ctx, held.Issuer, nil)
	if to == nil {
		return nil, nil
	}
	return held, to
}

// left returns the other authorization server than issuer that the server
// announces, if it does. It does not look again within a minute. Without a
// challenge it asks for one.
func (s *state) left(ctx context.Context, issuer string, c *discovery.Challenge) *discovery.Configuration {
	now := clock.Now()
	s.mu.Lock()
	l := s.look
	if l.issuer == issuer && now.Sub(l.at).Abs() < lookEvery {
		s.mu.Unlock()
		return l.to
	}
	s.look = look{issuer: issuer, at: now}
	s.mu.Unlock()
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	to := func() *discovery.Configuration {
		if c == nil {
			asked, _, err := s.challenge(looking)
			if err != nil {
				return nil
			}
			c = &asked
		}
		_, to := s.moved(looking, *c, issuer)
		return to
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case to != nil:
		s.look = look{issuer, now, to}
	case ctx.Err() != nil:
		s.look = look{} // nobody has looked
	}
	return to
}

// clockAhead returns by how much the server's clock is ahead of ours, if that
// is enough to matter.
func clockAhead(h http.Header) time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	if ahead := date.Sub(clock.Now()).Round(time.Second); ahead.Abs() >= time.Minute {
		return ahead
	}
	return 0
}

// union returns a and what of b is not in it. It looks once at each: a challenge may name
// a hundred thousand.
func union(a, b []string) []string {
	u := slices.Clone(a)
	known := make(map[string]bool, len(a))
	for _, s := range a {
		known[s] = true
	}
	for _, s := range b {
		if !known[s] {
			known[s] = true
			u = append(u, s)
		}
	}
	return u
}
