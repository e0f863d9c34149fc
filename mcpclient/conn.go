package mcpclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// conn is the transport under one session of the SDK. The SDK ends its session
// for good when it meets an answer that it cannot take. So conn hands over
// answers that the SDK can take, and returns an error of the one request
// otherwise.
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
	a.signIns.forgive()
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
	// The DELETE that ends the session. The SDK does not look at the answer, and
	// the session may have ended already: no answer to it is an error.
	r, _ := c.session.tag(req)
	resp, err := c.followed(r, nil, askNever, nil)
	if resp != nil {
		return resp, nil
	}
	return nil, err
}

// followed is authorized that follows redirects at and below the server's
// address. They must not reach the SDK's http.Client: it would follow them with
// requests that conn has not prepared, or hand the redirect to the SDK, which
// then ends the session.
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
	case asked.method == "" && asked.id.IsValid():
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
		// a change again. So the SDK gets a stream, and that is begun again.
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
// cancelled (MCP 2025-11-25, "Cancellation"), and Connect waits for its notices,
// which would wait for a token or for a silent server.
func (c *conn) dropsNotice(id jsonrpc.ID) bool {
	return c.givenUp.take(id) || c.attempt.running()
}

// ask sends req in the session that the server knows, and returns an answer
// that the SDK can take. If the server has forgotten the session, ask begins a
// new one and sends req once more.
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
				return resp, nil // the server's own words for it, which the SDK gives to the caller
			}
			if asked.method == "server/discover" {
				c.attempt.forbid(err)
			}
		}
		if err != nil {
			return nil, stepped(resp, err)
		}
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

// stepped returns err, which authorized returned together with resp. Where
// there is an answer it drops that, and the error is one of step 7.
func stepped(resp *http.Response, err error) error {
	if resp == nil {
		return err
	}
	oauthhttp.Drain(resp)
	return at(StepConnect, err)
}

// An attempt is what conn knows of one run of the SDK's Connect: it asks for
// server/discover, and where that fails for initialize.
type attempt struct {
	latch latch // of the sign-ins that both requests may want

	mu        sync.Mutex // guards what follows
	ended     bool
	forbidden error // server/discover was answered 403: reported if initialize fails too
	postponed error // server/discover was answered with Retry-After: returned for initialize, which is not sent
}

// end ends the attempt. It returns the error for server/discover if that was
// forbidden: the SDK goes on to initialize then, and knows only the error of
// that.
func (a *attempt) end() (forbidden error) {
	a.latch.release()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	return a.forbidden
}

func (a *attempt) running() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.ended
}

func (a *attempt) forbid(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forbidden = err
}

// postpone remembers err, that of server/discover, if the server has asked to
// come again later. The SDK would send initialize at once.
func (a *attempt) postpone(err error) {
	if answer := new(AnswerError); errors.As(err, &answer) && answer.RetryAfter > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.postponed = err
	}
}

func (a *attempt) mustWait() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.postponed
}

// givenUp holds calls that were cancelled before they were sent, or after they
// were refused, until the SDK sends its notice. The server gets no such notice.
type givenUp struct {
	mu    sync.Mutex // guards calls
	calls map[jsonrpc.ID]bool
}

func (g *givenUp) add(id jsonrpc.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == nil {
		g.calls = make(map[jsonrpc.ID]bool)
	}
	g.calls[id] = true
}

func (g *givenUp) take(id jsonrpc.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.calls[id]
	delete(g.calls, id)
	return found
}

// mostOwed bounds the requests of the server's that wait for an answer at a
// time. For each the SDK keeps a goroutine, which may wait for a person, and
// later a connection.
const mostOwed = 100

var errOwed = errors.New("the server has sent more requests than may wait for an answer")

// owed holds the requests of the server's that have no answer yet.
type owed struct {
	mu    sync.Mutex // guards bytes
	bytes map[jsonrpc.ID]int
}

// add takes one more request, and reports whether the SDK may have it. All
// requests together may have so many bytes; one alone may always wait.
func (o *owed) add(id jsonrpc.ID, bytes, most int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := bytes
	for _, n := range o.bytes {
		all += n
	}
	if _, twice := o.bytes[id]; twice || len(o.bytes) == mostOwed || len(o.bytes) > 0 && all > most {
		return false
	}
	if o.bytes == nil {
		o.bytes = make(map[jsonrpc.ID]int)
	}
	o.bytes[id] = bytes
	return true
}

func (o *owed) settle(id jsonrpc.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.bytes, id)
}

// mostRefusal bounds a refusal, in bytes.
const mostRefusal = 1 << 20

// rpcError returns the JSON-RPC error that is the body of resp, or nil. It
// leaves a body that can be read again: the SDK reads it too. Neither shows the
// token that was sent.
func (c *conn) rpcError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostRefusal+1))
	_ = resp.Body.Close()
	resp.Body = http.NoBody
	if err != nil || len(body) > mostRefusal {
		return nil
	}
	if _, err := c.bounds.check(body); err != nil {
		return nil
	}
	msg, err := jsonrpc.DecodeMessage(body)
	if err != nil {
		return nil
	}
	r, ok := msg.(*jsonrpc.Response)
	if !ok || r.Error == nil {
		return nil
	}
	mine := c.auth.withoutToken(r, resp)
	if mine != r {
		if body, err = jsonrpc.EncodeMessage(mine); err != nil {
			return nil
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return mine.Error
}

// answer returns resp, the answer to req, as the SDK can take it.
func (c *conn) answer(req *http.Request, asked call, resp *http.Response) (*http.Response, error) {
	c.session.note(resp.Header, asked.method == "initialize")
	mediaType := mediaTypeOf(resp)
	wrong := func(err error) error {
		return &AnswerError{
			Status: resp.StatusCode, ContentType: text.Without(mediaType, c.auth.sentWith(resp)...), RetryAfter: oauthhttp.RetryAfter(resp.Header), Err: err,
		}
	}
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		rpc := c.rpcError(resp)
		if rpc != nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			// The SDK wants to see the answer itself, for one to find another
			// protocol version: it looks for no code in an error of its
			// transport.
			return resp, nil
		}
		oauthhttp.Drain(resp)
		return nil, wrong(rpc)
	case !asked.wanted:
		return resp, nil
	case mediaType == "text/event-stream":
		resp.Body = (&stream{conn: c, req: req, asked: asked, from: resp}).body(resp.Body)
		return resp, nil
	case mediaType == "application/json":
		body, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1))
		_ = resp.Body.Close()
		if err != nil {
			return nil, wrong(fmt.Errorf("%w: read answer: %w", ErrNoAnswer, err))
		}
		if body, err = c.whole(resp, body, asked); err != nil {
			return nil, wrong(err)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	oauthhttp.Drain(resp)
	return nil, wrong(nil)
}

func mediaTypeOf(resp *http.Response) string {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return mediaType
}

func isEvents(resp *http.Response) bool {
	return resp.StatusCode == http.StatusOK && mediaTypeOf(resp) == "text/event-stream"
}

// whole returns what the SDK gets in place of body, the JSON in resp.
func (c *conn) whole(resp *http.Response, body []byte, asked call) ([]byte, error) {
	w, err := c.bounds.check(body)
	if err != nil {
		return nil, err
	}
	given, err := responseTo(asked.id, body)
	if err != nil {
		return nil, err
	}
	r := c.auth.withoutToken(given, resp)
	if r.ID != asked.id {
		return nil, r.Error // the server could not make out the ID
	}
	page, err := c.paged(asked, r, w)
	if err != nil {
		return nil, err
	}
	c.hints.learn(asked, page)
	if page == given && asked.id == asked.sdkID {
		return body, nil
	}
	return asked.encode(page)
}

// responseTo decodes body, which must be the response to the request with id,
// or an error without an ID. Over anything else the SDK would end the session,
// or wait for ever.
func responseTo(id jsonrpc.ID, body []byte) (*jsonrpc.Response, error) {
	msg, err := jsonrpc.DecodeMessage(body)
	if err != nil {
		return nil, errors.New("answer is no JSON-RPC message")
	}
	switch r, ok := msg.(*jsonrpc.Response); {
	case !ok:
		return nil, errors.New("answer is no JSON-RPC response")
	case r.ID == id || r.Error != nil:
		return r, nil
	}
	return nil, errors.New("answer is the response to another request")
}

// encode returns r as the response to asked, with the ID that the SDK gave.
func (asked call) encode(r *jsonrpc.Response) ([]byte, error) {
	mine := *r
	mine.ID = asked.sdkID
	return jsonrpc.EncodeMessage(&mine)
}

// A message is a POST that can be made again.
type message struct {
	header http.Header
	body   []byte
}

// mcpSession is the session at the server, and what it takes to begin another
// one in its place (MCP 2025-11-25, "Session Management"). The SDK does not
// learn of the new one: it goes on with the first session ID.
type mcpSession struct {
	// reviving has one place, taken by whoever begins a new session. It is no
	// mutex, since those who wait for the place may be cancelled.
	reviving chan struct{}

	mu          sync.Mutex // guards what follows
	initialize  *message   // as the SDK sent it
	initialized *message   // as the SDK sent it
	known       string     // the session ID that the SDK knows
	live        string     // the session ID that the server knows
}

// tag returns req with the session ID that the server knows, and that ID. A
// request without a session ID stays without.
func (s *mcpSession) tag(req *http.Request) (*http.Request, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Header.Get(sessionHeader) == "" {
		return req, ""
	}
	req = req.Clone(req.Context())
	if s.live == "" {
		req.Header.Del(sessionHeader)
	} else {
		req.Header.Set(sessionHeader, s.live)
	}
	return req, s.live
}

// note takes the session ID from an answer's header, if it has one, and puts
// the one there that the SDK knows. Only the answer to initialize begins a
// session: any other answer may belong to an older one.
func (s *mcpSession) note(header http.Header, initialize bool) {
	id := header.Get(sessionHeader)
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == "" {
		s.known = id
		s.live = id
	}
	if initialize {
		s.live = id
	}
	header.Set(sessionHeader, s.known)
}

// keep remembers a message of the handshake, to send it again.
func (s *mcpSession) keep(req *http.Request, method string) {
	body, err := newBody(req)
	if err != nil || body == nil {
		return
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return
	}
	m := &message{req.Header.Clone(), data}
	m.header.Del(sessionHeader)
	m.header.Del("Authorization")
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == "initialize" {
		s.initialize = m
	} else {
		s.initialized = m
	}
}

// current returns the kept handshake and the session ID that the server knows.
func (s *mcpSession) current() (initialize, initialized *message, live string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.initialize, s.initialized, s.live
}

func (s *mcpSession) replace(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = id
}

// revive begins a new session at the server in place of stale, which the server
// has forgotten. It does nothing if another goroutine has done so already.
func (c *conn) revive(ctx context.Context, stale string, asked call) error {
	select {
	case c.session.reviving <- struct{}{}:
		defer func() { <-c.session.reviving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	first, second, live := c.session.current()
	if live != stale {
		return nil
	}
	if first == nil || second == nil {
		return mcp.ErrSessionMissing
	}
	start := time.Now()
	id, version, err := c.handshake(ctx, first, asked)
	if want := second.header.Get(versionHeader); err == nil && version != want {
		// The SDK speaks the version of the first handshake and cannot change.
		err = fmt.Errorf("the server came back with protocol version %s, the session has %s", text.Quote(version), text.Quote(want))
	}
	if err == nil {
		_, err = c.replay(ctx, second, id, asked, nil)
	}
	c.audit(ctx, StepConnect, "new session", "", start, err)
	if errors.Is(err, ErrNoAnswer) {
		// The handshake had no answer. The call itself was not carried out, so
		// its error must not wrap ErrNoAnswer.
		err = errors.New(err.Error())
	}
	if err != nil {
		return fmt.Errorf("the server has forgotten the session and takes no new one: %w", err)
	}
	c.log.Warn("the server had forgotten the session; what it kept in memory for it is lost", "step", StepConnect.String())
	c.session.replace(id)
	c.hints.forget() // the server may be another version by now
	return nil
}

// handshake sends initialize, for the call that was asked, and returns the new
// session's ID and protocol version.
func (c *conn) handshake(ctx context.Context, initialize *message, asked call) (id, version string, err error) {
	resp, err := c.replay(ctx, initialize, "", asked, func(resp *http.Response) error {
		r, err := c.firstResponse(resp)
		if err != nil {
			return err
		}
		if r.Error != nil {
			return c.auth.withoutToken(r, resp).Error
		}
		var result struct {
			Version string `json:"protocolVersion"`
		}
		err = json.Unmarshal(r.Result, &result)
		version = result.Version
		return err
	})
	if err != nil {
		return "", "", err
	}
	return resp.Header.Get(sessionHeader), version, nil
}

// firstResponse reads the answer to initialize: JSON, or the first response
// among events.
func (c *conn) firstResponse(resp *http.Response) (*jsonrpc.Response, error) {
	if mediaTypeOf(resp) == "text/event-stream" {
		for events := c.newEventReader(resp.Body); ; {
			e, err := events.next()
			if err != nil {
				return nil, err
			}
			if r, ok := e.msg.(*jsonrpc.Response); ok {
				return r, nil
			}
		}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1))
	if err != nil {
		return nil, err
	}
	if _, err := c.bounds.check(data); err != nil {
		return nil, err
	}
	msg, err := jsonrpc.DecodeMessage(data)
	if err != nil {
		return nil, err
	}
	r, ok := msg.(*jsonrpc.Response)
	if !ok {
		return nil, errors.New("answer to initialize is no response")
	}
	return r, nil
}

// replay posts a kept message in the session with id and has read look at a
// good answer. A sign-in may be started for it if somebody waits for the call
// that was asked.
func (c *conn) replay(ctx context.Context, m *message, id string, asked call, read func(*http.Response) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.serverURL, bytes.NewReader(m.body))
	if err != nil {
		return nil, err
	}
	req.Header = m.header.Clone()
	if id != "" {
		req.Header.Set(sessionHeader, id)
	}
	may := askNever
	if asked.wanted {
		may = askAlways
	}
	resp, err := c.followed(req, nil, may, &c.attempt.latch)
	if err != nil {
		return nil, stepped(resp, err)
	}
	defer oauthhttp.Drain(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &AnswerError{Status: resp.StatusCode}
	}
	if read != nil {
		err = read(resp)
	}
	return resp, err
}

// openStream answers a GET at once and feeds it from as many upstream streams
// as it takes. The SDK's Connect would wait for a stream that is refused, and
// an outage would end its session.
func (c *conn) openStream(req *http.Request) *http.Response {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(req.Context())
	f := c.newFeed(req, w)
	go func() { w.CloseWithError(f.run(ctx)) }()
	return eventAnswer(req, &feedBody{r, cancel})
}

// eventAnswer is an answer that begins at once.
func eventAnswer(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/event-stream"}},
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

// feedBody is what the SDK reads of a feed. Closing it ends the feed.
type feedBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *feedBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

const (
	// resumeTries bounds how often the stream of a call is asked for again.
	resumeTries = 5
	backoffMin  = time.Second
	backoffMax  = 30 * time.Second
)

// A feed is the answer to one GET of the SDK's: the standalone stream, or the
// stream of a call that the SDK resumes. One goroutine runs it, and nothing
// else touches its fields.
type feed struct {
	conn *conn
	req  *http.Request
	w    io.Writer // to the SDK

	resuming bool    // it is the stream of a call, and ends with the answer
	call     *stream // that call; an empty one if resuming is false, or the call is not known

	asked    bool          // the server was asked at least once
	last     string        // ID of the last event, at which the server is to go on
	session  string        // that the ID belongs to
	streamed string        // the last session in which the server had a stream
	retry    time.Duration // between two tries, as the server wants it
	wait     time.Duration // before the next try, as an answer to this one asks for
	failures int           // tries in a row without an event
}

func (c *conn) newFeed(req *http.Request, w io.Writer) *feed {
	f := &feed{conn: c, req: req, w: w, last: req.Header.Get(lastEventIDHeader)}
	f.resuming = f.last != ""
	if f.call = c.parked.take(f.last); f.call == nil {
		f.call = &stream{conn: c, req: req}
	}
	return f
}

// A verdict is what one try of a feed has come to.
type verdict int

const (
	failed  verdict = iota // there was no event: try again, after a longer wait each time
	moved                  // there were events, or a new session: try again
	quiet                  // the server has nothing to say in this session
	lost                   // the call's answer cannot be had any more
	written                // the SDK has all that it wants
)

// run copies events to the SDK until ctx ends or, for the stream of a call,
// until that is answered or cannot be had any more.
func (f *feed) run(ctx context.Context) error {
	for wait := time.Duration(0); ; wait = max(f.wait, f.retry, backoff(f.failures)) {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		verdict, why := f.once(ctx)
		switch verdict {
		case moved:
			f.failures = 0
		case failed:
			// A caller waits for the answer: it hears soon that there is none.
			if f.failures++; f.resuming && (f.failures >= resumeTries || f.wait > backoffMax) {
				return f.lose(io.EOF)
			}
		case quiet:
			if f.resuming {
				return f.lose(io.EOF)
			}
			if err := f.nextSession(ctx); err != nil {
				return err
			}
			f.failures = 0
		case lost:
			return f.lose(why)
		case written:
			return why
		}
	}
}

// once asks the server for its stream and copies what comes. The error belongs
// to the verdicts lost and written.
func (f *feed) once(ctx context.Context) (verdict, error) {
	f.wait = 0
	r, id := f.conn.session.tag(f.req.Clone(ctx))
	if f.asked && id != f.session {
		if f.resuming {
			return lost, io.EOF // the answer went with the session
		}
		f.last = "" // event IDs mean nothing in another session
		r.Header.Del(lastEventIDHeader)
	}
	f.asked, f.session = true, id
	if f.last != "" {
		r.Header.Set(lastEventIDHeader, f.last)
	}
	resp, err := f.conn.followed(r, nil, askNever, nil) // nobody waits for this stream
	switch {
	case err != nil:
		if resp != nil {
			oauthhttp.Drain(resp)
		}
		if errors.Is(err, ErrClosed) || forbids(err) {
			return quiet, nil
		}
		return failed, nil
	case isEvents(resp):
		return f.copy(resp)
	}
	oauthhttp.Drain(resp)
	if resp.StatusCode == http.StatusNotFound && id != "" {
		if f.resuming || f.streamed != id {
			return quiet, nil // of a session that never had a stream, 404 means what 405 does
		}
		if f.conn.revive(ctx, id, call{}) != nil {
			return failed, nil
		}
		return moved, nil
	}
	f.wait = oauthhttp.RetryAfter(resp.Header)
	if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
		return quiet, nil // 405 and its like: the server has nothing to say on its own
	}
	return failed, nil
}

// copy copies the events of resp to the SDK.
func (f *feed) copy(resp *http.Response) (verdict, error) {
	defer resp.Body.Close()
	f.streamed, f.call.from = f.session, resp
	done := failed
	for events := f.conn.newEventReader(resp.Body); ; {
		e, err := events.next()
		switch {
		case errors.Is(err, ErrTooLarge) && f.resuming:
			return lost, err
		case errors.Is(err, ErrTooLarge):
			f.last = "" // or the event would come again
			return done, nil
		case err != nil:
			return done, nil
		}
		done = moved
		f.call.see(&e)
		if len(e.raw) == 0 {
			continue
		}
		f.last = cmp.Or(e.id, f.last)
		if e.retry > 0 {
			f.retry = min(e.retry, backoffMax)
		}
		if _, err := f.w.Write(e.raw); err != nil {
			return written, err // the SDK has closed its side
		}
		if f.resuming && e.isResponse() {
			return written, io.EOF
		}
	}
}

// nextSession waits until the session is another one. The server had nothing to
// say in this one, but a POST may begin another.
func (f *feed) nextSession(ctx context.Context) error {
	for live := f.session; live == f.session; _, live = f.conn.session.tag(f.req) {
		if err := sleep(ctx, backoffMax); err != nil {
			return err
		}
	}
	return nil
}

// lose ends the stream of a call whose answer cannot be had any more, with what
// comes in place of that.
func (f *feed) lose(why error) error {
	if f.call.asked.wanted {
		instead := f.call.instead(why)
		defer instead.Close()
		if _, err := io.Copy(f.w, instead); err != nil {
			return err
		}
	}
	return io.EOF
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// backoff returns how long to wait after so many failures in a row: half of it
// for certain and half by chance, so that clients do not come back all at once.
func backoff(failures int) time.Duration {
	d := backoffMin << min(failures, 6)
	d = min(d, backoffMax)
	return d/2 + rand.N(d/2)
}
