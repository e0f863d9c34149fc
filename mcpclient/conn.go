package mcpclient

import (
	"errors"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// conn is the transport under one session of the SDK. The SDK ends its session
// for good when it meets an answer that it cannot take, or a broken stream. So
// conn gives it answers that it can take, or an error of that one request. Between
// SDK and server there are three ways: POST (post), GET (openStream) and DELETE.
//
// Each part of what conn remembers has a type and a mutex of its own: the parts
// have nothing to do with each other, and no part is locked while a request is
// under way.
type conn struct {
	*settings
	auth   *authorizer
	bounds bounds

	attempt attempt
	session mcpSession
	givenUp givenUp
	hints   toolHints
	lists   lists
	parked  parkedStreams
	owed    owed
}

func newConn(a *authorizer) *conn {
	a.signIns.forgive() // somebody has called Connect, and so wants to try again
	c := &conn{settings: a.settings, auth: a, bounds: bounds{most: a.maxAnswer, asksUser: a.mcp != nil && a.mcp.ElicitationHandler != nil}}
	c.session.reviving = make(chan struct{}, 1)
	return c
}

// connected ends the connection attempt with what the SDK's Connect returned,
// and returns the error to show for it.
func (c *conn) connected(err error) error {
	forbidden := c.attempt.end()
	if err != nil && forbidden != nil {
		err = forbidden
	}
	return at(StepConnect, err)
}

// RoundTrip sends req for the SDK. It implements [http.RoundTripper].
func (c *conn) RoundTrip(req *http.Request) (*http.Response, error) {
	if !c.auth.owns(req) {
		return c.rt.RoundTrip(req) // a redirect that the SDK's client did not follow by itself
	}
	switch req.Method {
	case http.MethodGet:
		return c.openStream(req), nil
	case http.MethodPost:
		return c.post(req)
	}
	// The DELETE that ends the session. The SDK does not look at the answer, and the
	// session may have ended already. So a refusal is an answer as any other.
	r, _ := c.session.tag(req)
	resp, err := c.followed(r, nil, askNever, nil)
	if resp != nil {
		return resp, nil
	}
	return nil, err
}

// followed sends req as authorized does, and follows redirects at and below the
// server's address. A redirect never reaches the SDK, which would end the session
// over one.
func (c *conn) followed(req *http.Request, asked *call, may mayAsk, latch *latch) (*http.Response, error) {
	for n := 0; ; n++ {
		resp, err := c.auth.authorized(req, asked, may, latch)
		if err != nil || n == mostRedirects || resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusPermanentRedirect {
			return resp, err
		}
		to, err := resp.Location()
		if err != nil || !oauthhttp.Below(to, c.server) || !resendable(req) {
			return resp, nil
		}
		oauthhttp.Drain(resp)
		req = req.Clone(req.Context())
		req.URL = to
		if req.Body, err = newBody(req); err != nil {
			return nil, err
		}
	}
}

// post sends a message of the SDK's: a call, a notification, or the answer to
// a request of the server's.
func (c *conn) post(req *http.Request) (*http.Response, error) {
	asked := parseCall(req)
	switch {
	case asked.method == "notifications/cancelled" && c.dropsNotice(asked.cancels):
		closeBody(req)
		return accepted(req), nil
	case asked.method == "" && asked.id.IsValid(): // the answer to a request of the server's
		defer c.owed.settle(asked.id)
	case asked.method == "initialize":
		c.session.keep(req, asked.method)
		if err := c.attempt.mustWait(); err != nil {
			closeBody(req)
			return nil, err
		}
	case asked.method == "notifications/initialized":
		c.session.keep(req, asked.method)
	}
	resp, err := c.ask(req, asked, askForCalls)
	// An error with a step comes from before the call was sent, or from after
	// the server refused it. After an error of the network the server may be at
	// work on the call, and has to hear that it is cancelled.
	if asked.wanted && req.Context().Err() != nil && errors.As(err, new(*StepError)) {
		c.givenUp.add(asked.id)
	}
	if asked.method == "server/discover" {
		c.attempt.postpone(err)
	}
	switch {
	case err != nil && asked.method == methodSubscribe && passes(err) && req.Context().Err() == nil:
		// The SDK does not look at this error, and its user would never hear of
		// a change again. So the SDK gets a stream. It is over at once without an
		// answer, and so repeats the call.
		return eventAnswer(req, (&stream{conn: c, req: req, asked: asked}).body(http.NoBody)), nil
	case errors.Is(err, ErrNoAnswer):
		return c.repeat(req, asked, err)
	}
	return resp, err
}

// accepted is the answer to a notification that is not sent.
func accepted(req *http.Request) *http.Response {
	return &http.Response{
		Status: "202 Accepted", StatusCode: http.StatusAccepted,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: req,
	}
}

// dropsNotice reports whether to drop the SDK's notice that the call with id is
// cancelled: the call was never sent or is already refused, or Connect is still
// running. During Connect the call may be initialize, which must not be
// cancelled (MCP 2025-11-25, "Cancellation"). Connect also waits until a notice is
// sent, and the notice would wait for a token or for a silent server.
func (c *conn) dropsNotice(id jsonrpc.ID) bool {
	return c.givenUp.take(id) || c.attempt.running()
}

// ask sends req in the session that the server knows, and returns an answer
// that the SDK can take. If the server has forgotten the session, ask begins a
// new one and sends req once more: only once, since a server that forgets a new
// session at once keeps none.
func (c *conn) ask(req *http.Request, asked call, may mayAsk) (*http.Response, error) {
	for revived := false; ; revived = true {
		r, id := c.session.tag(req)
		if revived {
			body, err := newBody(req)
			if err != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
		resp, err := c.followed(r, &asked, may, &c.attempt.latch)
		if forbids(err) {
			if c.rpcError(resp) != nil {
				return resp, nil // the SDK gives the server's own words to the caller
			}
			if asked.method == "server/discover" {
				c.attempt.forbid(err)
			}
		}
		if err != nil {
			return nil, errorOnly(resp, err)
		}
		// Without a session a 404 is an answer as any other.
		if resp.StatusCode != http.StatusNotFound || id == "" || revived {
			return c.answer(req, asked, resp)
		}
		// MCP 2025-11-25, "Session Management": with 404 the server has
		// forgotten the session. It has not carried out the call, so any call
		// may be sent again.
		oauthhttp.Drain(resp)
		if err := c.revive(req.Context(), id, asked); err != nil {
			return nil, at(StepConnect, err)
		}
	}
}

// forbids reports whether err is a 403 that no sign-in can mend.
func forbids(err error) bool {
	return errors.As(err, new(*ForbiddenError)) && !errors.Is(err, ErrLoginRequired)
}

// errorOnly drops resp, which authorized returned together with err, and returns
// err as an error of step 7. An error without an answer has its step already, or is
// the network's, which says nothing about a step.
func errorOnly(resp *http.Response, err error) error {
	if resp == nil {
		return err
	}
	oauthhttp.Drain(resp)
	return at(StepConnect, err)
}
