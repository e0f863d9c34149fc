package mcpclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/refresh"
)

// authorizer is the transport of [Client.HTTPClient].
type authorizer struct{ state *state }

func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	s := a.state
	if !s.owns(req.URL) {
		return s.rt.RoundTrip(req)
	}
	resp, err := s.authorized(req, func(c call) bool { return !c.mcp || c.live }, nil)
	if resp != nil {
		return resp, nil // the verdict on it is the caller's
	}
	return nil, err
}

// owns reports whether u is at the server's origin, where alone its tokens go.
func (s *state) owns(u *url.URL) bool {
	return u.Scheme == s.server.Scheme && u.Host == s.server.Host
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
// sign-in for as long as that helps. ask says of a refused request whether a
// sign-in may be started for it; latch, if not nil, holds the failure of an
// earlier sign-in that is not to be tried again.
//
// It returns the last answer, together with an error if that was a 401 or a
// 403; or an error alone. The caller closes the body.
func (s *state) authorized(req *http.Request, ask func(call) bool, latch *latch) (*http.Response, error) {
	ctx := req.Context()
	access, why := s.source.Access(ctx)
	if why != nil && !errors.Is(why, ErrLoginRequired) {
		closeBody(req)
		return nil, at(StepRefresh, why)
	}
	body := req.Body
	var signedIn, steppedUp bool
	for range mostSends {
		resp, err := s.send(req, body, access)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			if steppedUp && resp.StatusCode < 300 {
				s.stepUps.succeed(parseCall(req).operation)
			}
			return resp, nil
		}
		challenge := discovery.ParseChallenge(resp.Header)
		if body, err = again(req); err != nil {
			return resp, refusal(resp, challenge, why)
		}
		c := parseCall(req)
		want := signIn{challenge: challenge, refused: access}

		if resp.StatusCode == http.StatusForbidden {
			if challenge.Error != "insufficient_scope" || access == nil {
				return resp, refusal(resp, challenge, nil)
			}
			want.scopes = union(access.ScopesRequested, challenge.Scopes())
			forbidden := refusal(resp, challenge, nil).(*ForbiddenError)
			if !s.interactive || !ask(c) {
				return resp, at(StepAuthorize, fmt.Errorf("%w for the scopes %q: %w", ErrLoginRequired, want.scopes, forbidden))
			}
			if !s.stepUps.try(c.operation, mostStepUps) {
				forbidden.Scopes = challenge.Scopes()
				return resp, forbidden
			}
			steppedUp = true
		} else if access != nil {
			next, err := s.source.Refused(ctx, access.Generation)
			switch {
			case err == nil:
				drain(resp)
				access = next
				continue
			case errors.Is(err, ErrLoginRequired):
				why = err
			case errors.Is(err, refresh.ErrRefused):
				// Fresh from the authorization server, and refused: either the
				// two do not agree, or the resource has moved to another one.
				if !s.moved(ctx, challenge, access.Issuer) {
					return resp, at(StepConnect, &TokenRefusedError{Resource: access.Resource, Issuer: access.Issuer, Code: challenge.Error, Description: challenge.ErrorDescription})
				}
				why = err
			default:
				drain(resp)
				return nil, at(StepRefresh, err)
			}
		}

		if !s.interactive || !ask(c) || (signedIn && resp.StatusCode == http.StatusUnauthorized) {
			return resp, refusal(resp, challenge, why)
		}
		if err := latch.get(); err != nil {
			drain(resp)
			return nil, err
		}
		drain(resp)
		if access, err = s.signIn(ctx, want); err != nil {
			latch.set(ctx, err)
			return nil, err
		}
		signedIn, why = true, nil
	}
	closeBody(&http.Request{Body: body})
	return nil, at(StepConnect, fmt.Errorf("the server refused the request %d times, each with another token", mostSends))
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

// send sends one copy of req with its body and access, which may be nil.
func (s *state) send(req *http.Request, body io.ReadCloser, access *refresh.Access) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Body = body
	req.Header.Del("Authorization")
	if access != nil {
		req.Header.Set("Authorization", "Bearer "+access.Token.Reveal())
	}
	return s.rt.RoundTrip(req)
}

// again returns a new copy of req's body, or an error if there is none.
func again(req *http.Request) (io.ReadCloser, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req.Body, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("body cannot be sent again")
	}
	return req.GetBody()
}

// drain finishes an answer that nobody will read, so that its connection can
// be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// A call is what a request asks for, as far as sign-in is concerned.
type call struct {
	mcp       bool   // it belongs to the MCP transport
	live      bool   // it is a JSON-RPC call that somebody waits for
	method    string // of JSON-RPC
	operation string // what a step-up is counted by
}

// parseCall looks into req, whose body can be read again.
func parseCall(req *http.Request) call {
	c := call{operation: req.Method + " " + req.URL.Path}
	if req.Method != http.MethodPost {
		c.mcp = req.Header.Get("Accept") == "text/event-stream" || req.Header.Get(sessionHeader) != ""
		return c
	}
	body, err := again(req)
	if err != nil || body == nil {
		return c
	}
	defer body.Close()
	var msg struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Method  string          `json:"method"`
		Params  struct {
			Name string `json:"name"`
			URI  string `json:"uri"`
		} `json:"params"`
	}
	var fault *json.UnmarshalTypeError // of params, which are none of ours
	if err := json.NewDecoder(body).Decode(&msg); err != nil && !errors.As(err, &fault) || msg.Version == "" {
		return c
	}
	c.mcp, c.method = true, msg.Method
	c.live = msg.Method != "" && len(msg.ID) > 0 && req.Context().Err() == nil
	c.operation = msg.Method + " " + msg.Params.Name + msg.Params.URI
	return c
}

// moved reports whether the server announces another authorization server
// than issuer by now (MCP specification, "Authorization Server Binding").
func (s *state) moved(ctx context.Context, c discovery.Challenge, issuer string) bool {
	cfg, err := s.discover(ctx, c)
	return err == nil && cfg.Issuer != issuer
}

func union(a, b []string) []string {
	u := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(u, s) {
			u = append(u, s)
		}
	}
	return u
}
