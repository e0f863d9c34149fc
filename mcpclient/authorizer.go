package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/refresh"
)

// An authorizer sends requests to the server with the access token, and has
// that refreshed, or the user sign in, where the server refuses one. It is the
// transport of [Client.HTTPClient], and conn sends by way of it. Safe for
// concurrent use.
type authorizer struct {
	*settings
	source  *refresh.Source
	signIns *signIns
	stepUps stepUps
	moves   moves
}

// RoundTrip sends req for the caller of [Client.HTTPClient]. It implements
// [http.RoundTripper].
func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	if !a.owns(req) {
		return a.rt.RoundTrip(req)
	}
	resp, err := a.authorized(req, nil, askForRequests, nil)
	if resp != nil {
		return resp, nil // the caller judges the answer, a refusal too
	}
	return nil, err
}

// owns reports whether the server's token may go along with req: to the
// server's origin alone. A Host header chooses among the servers at one address,
// and so has to name the server too. A redirect is owned if it leads to or below
// ([oauthhttp.Below]) the server's address or the address that was asked for.
func (a *authorizer) owns(req *http.Request) bool {
	if req.Host != "" && oauthhttp.Origin(&url.URL{Scheme: req.URL.Scheme, Host: req.Host}) != oauthhttp.Origin(a.server) {
		return false
	}
	// net/http sets Response in a request that follows a redirect. The first request
	// of the chain is the one that the caller made.
	first := req
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	return oauthhttp.Origin(first.URL) == oauthhttp.Origin(a.server) &&
		(first == req || oauthhttp.Below(req.URL, a.server) || oauthhttp.Below(req.URL, first.URL))
}

// mostRedirects bounds redirects below the server's address.
const mostRedirects = 5

// follow is the [http.Client.CheckRedirect] of both clients, that of
// [Client.HTTPClient] and the SDK's. A request to the server may not be redirected
// to another server, which its body is not meant for, nor to where the token may not
// go. Requests that began elsewhere, and stay there, are no concern of ours.
func (a *authorizer) follow(req *http.Request, via []*http.Request) error {
	elsewhere := oauthhttp.Origin(req.URL) == oauthhttp.Origin(via[0].URL) && oauthhttp.Origin(req.URL) != oauthhttp.Origin(a.server)
	if len(via) > mostRedirects || !elsewhere && !a.owns(req) {
		return http.ErrUseLastResponse // the caller gets the redirect itself
	}
	return nil
}

const (
	// mostSends bounds how often one request is sent: without a token, with an
	// old one, a refreshed one, a new one, and a new one for more scopes.
	mostSends = 6
	// mostStepUps bounds the sign-ins for more scopes that one operation may
	// start until it succeeds.
	mostStepUps = 2
)

// A trip is one request on its way through [authorizer.authorized], with what
// has been found out on the way.
type trip struct {
	req   *http.Request
	asked *call // nil: req was not parsed yet
	may   mayAsk
	latch *latch

	access *refresh.Access          // to send req with; nil: there is no token
	stale  *refresh.Access          // if access is nil: an expired token that cannot be renewed
	why    error                    // why there is no token, or no other one
	to     *discovery.Configuration // the authorization server to sign in at; nil: the announced one

	signedIn  bool // for this request
	steppedUp bool // signed in for more scopes, for this request
}

// call returns what the request asks for. The request is parsed only when somebody
// wants to know: most requests of [Client.HTTPClient] are not refused, and a body
// may be long.
func (t *trip) call() call {
	if t.asked == nil {
		c := parseCall(t.req)
		t.asked = &c
	}
	return *t.asked
}

// A course is how authorized goes on after an answer.
type course int

const (
	stands  course = iota // the answer is the caller's, with next.err if that is set
	fails                 // the answer is dropped, and next.err is the caller's
	resends               // the request is sent again, with next.access
	signsIn               // the user signs in as next.want says, and the request is sent again
)

// next is what follows from an answer.
type next struct {
	course course
	err    error
	access *refresh.Access
	want   signInRequest
}

// authorized sends req with an access token, and again after a refresh or a
// sign-in for as long as that helps. asked describes the call in req; if nil, req
// is parsed when the server refuses it. may says whether a sign-in may be started
// then. latch, if not nil, holds the failure of an earlier sign-in, which is not
// tried again.
//
// It returns the last answer, together with an error if that was a 401 or a
// 403; or an error alone. The caller closes the body.
func (a *authorizer) authorized(req *http.Request, asked *call, may mayAsk, latch *latch) (*http.Response, error) {
	ctx := req.Context()
	t := &trip{req: req, asked: asked, may: may, latch: latch}
	if err := a.findToken(ctx, t); err != nil {
		closeBody(req)
		return nil, err
	}
	for n := range mostSends {
		resp, err := a.send(req, t.access, n > 0)
		if err != nil {
			return nil, err
		}
		then := a.after(ctx, t, resp)
		if then.course == stands {
			return resp, then.err
		}
		oauthhttp.Drain(resp)
		switch then.course {
		case fails:
			return nil, then.err
		case resends:
			t.access = then.access
		case signsIn:
			if t.access, err = a.signIns.join(ctx, then.want); err != nil {
				latch.set(ctx, err)
				return nil, err
			}
			// The findings about the old token say nothing about the new one.
			t.signedIn, t.why, t.to = true, nil, nil
		}
	}
	return nil, at(StepConnect, fmt.Errorf("the server refused the request %d times, each with another token", mostSends))
}

// findToken looks for a token to send the request with. Without one the request is
// sent all the same: the server's challenge says what a sign-in needs, and a
// request that needs no token gets its answer.
//
// If it cannot be found out whether there is a token, the request is not sent:
// a challenge would lead to a sign-in, and the authorization server or the store is
// only out of order. The exception is a server that has moved away from that
// authorization server.
func (a *authorizer) findToken(ctx context.Context, t *trip) error {
	t.access, t.why = a.source.Access(ctx)
	if t.why == nil || errors.Is(t.why, ErrLoginRequired) {
		return nil
	}
	if t.stale, t.to = a.abandoned(ctx, t); t.stale == nil {
		return noToken(t.why)
	}
	t.why = movedAway(t.why)
	return nil
}

// after returns what follows from the server's answer to a trip's request.
func (a *authorizer) after(ctx context.Context, t *trip, resp *http.Response) next {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return a.after401(ctx, t, resp)
	case http.StatusForbidden:
		return a.after403(ctx, t, resp)
	}
	if t.steppedUp && resp.StatusCode < 300 {
		a.stepUps.succeed(t.call().operation)
	}
	return next{course: stands}
}

// after401 tries, in this order: the token that another process has got
// meanwhile, a refresh, a sign-in. The first two are [refresh.Source.Refused].
func (a *authorizer) after401(ctx context.Context, t *trip, resp *http.Response) next {
	challenge := challengeOf(resp, t.access)
	if !resendable(t.req) {
		return next{course: stands, err: unauthorized(t.why)}
	}
	if t.access != nil {
		access, err := a.source.Refused(ctx, t.access.Generation)
		switch {
		case err == nil:
			return next{course: resends, access: access}
		case errors.Is(err, ErrLoginRequired):
			t.why = err // no refresh token, or the authorization server refuses it
		case errors.Is(err, refresh.ErrRefused):
			// The token is fresh from the authorization server. Either the two
			// servers do not agree, and a sign-in there yields no better one, or
			// the server has moved to another authorization server.
			named, to := a.announced(ctx, challenge, t.access.Issuer)
			if to == nil {
				return next{course: stands, err: at(StepConnect, &TokenRefusedError{
					Resource: t.access.Resource, Issuer: t.access.Issuer, Named: named,
					Code: challenge.Error, Description: challenge.ErrorDescription, Clock: clockAhead(resp.Header),
				})}
			}
			t.why, t.to = err, to
		case errors.As(err, new(*refresh.RetryError)):
			// The authorization server is unreachable. If the server still names
			// that one, a sign-in would fail too, and the user has to wait.
			to := a.movedFrom(ctx, t.access.Issuer, &challenge)
			if to == nil {
				return next{course: fails, err: noToken(err)}
			}
			t.why, t.to = movedAway(err), to
		default:
			return next{course: fails, err: noToken(err)}
		}
	}
	// The token of a sign-in during this very request was refused: the next one
	// would be too.
	if t.signedIn || !a.maySignIn(ctx, t) {
		return next{course: stands, err: unauthorized(t.why)}
	}
	// The sign-in goes where t.to leads. A server that is asked again may name yet
	// another authorization server.
	return t.signIn(signInRequest{challenge: challenge, cfg: t.to, refusedToken: cmp.Or(t.access, t.stale)})
}

// after403 has the user sign in for more scopes (MCP specification, "Step-Up
// Authorization Flow") if the server asks for scopes that the token has not.
func (a *authorizer) after403(ctx context.Context, t *trip, resp *http.Response) next {
	challenge := challengeOf(resp, t.access)
	forbidden := forbiddenBy(challenge)
	if !resendable(t.req) || challenge.Error != "insufficient_scope" || t.access == nil {
		return next{course: stands, err: forbidden}
	}
	// A challenge may name no scopes (RFC 6750 §3). Then a sign-in for the former
	// ones is all that can be tried.
	needed := challenge.Scopes()
	if len(needed) > 0 && len(union(t.access.Scopes, needed)) == len(t.access.Scopes) {
		forbidden.Scopes = needed // the token has them all: a sign-in yields no more
		return next{course: stands, err: forbidden}
	}
	scopes := union(t.access.ScopesRequested, needed)
	if !a.maySignIn(ctx, t) {
		forbidden.SignInFor = scopes
		return next{course: stands, err: needsScopes(scopes, forbidden)}
	}
	if !a.stepUps.try(t.call().operation, t.access.Generation, mostStepUps) {
		forbidden.Scopes = needed
		return next{course: stands, err: forbidden}
	}
	t.steppedUp = true
	return t.signIn(signInRequest{challenge: challenge, cfg: t.to, scopes: scopes, refusedToken: t.access})
}

// maySignIn reports whether a sign-in may be started for the trip's request.
func (a *authorizer) maySignIn(ctx context.Context, t *trip) bool {
	return a.interactive && t.may.allows(ctx, t.call())
}

// signIn is the course to a sign-in. If one has failed during this connection
// attempt, the error of that one is the outcome of this one too.
func (t *trip) signIn(want signInRequest) next {
	if err := t.latch.get(); err != nil {
		return next{course: fails, err: err}
	}
	return next{course: signsIn, want: want}
}

// send sends a copy of req with access, or without a token if access is nil. again
// says that req's body was sent before: a new copy of the body is sent then.
func (a *authorizer) send(req *http.Request, access *refresh.Access, again bool) (*http.Response, error) {
	ctx, outcome := oauthhttp.Watch(req.Context())
	r := req.Clone(ctx)
	if again {
		var err error
		if r.Body, err = newBody(req); err != nil {
			return nil, err
		}
	}
	// A header of the caller's own would hold no token of this grant.
	r.Header.Del("Authorization")
	if access != nil {
		r.Header.Set("Authorization", "Bearer "+access.Token.Reveal())
	}
	resp, err := a.rt.RoundTrip(r)
	if err == nil && resp.Request == nil {
		resp.Request = r // which net/http sets, and a transport of the caller's may not
	}
	// After a cancellation nobody asks whether the server has carried it out.
	if err != nil && req.Context().Err() == nil && outcome(err) == oauthhttp.Unknown {
		err = noAnswer{err}
	}
	return resp, err
}
