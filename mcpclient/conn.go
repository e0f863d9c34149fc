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

const (
	sessionHeader     = "Mcp-Session-Id"
	versionHeader     = "Mcp-Protocol-Version"
	lastEventIDHeader = "Last-Event-Id"
)

// conn is the transport under one session of the SDK. Whatever the server and
// the network do, the SDK sees answers that it can take or an error of that
// one request: anything else would end the session for good.
type conn struct {
	*state
	latch *latch

	mu          sync.Mutex
	initialize  *message // as the SDK sent them, to be sent again
	initialized *message
	known       string // the session ID that the SDK knows
	live        string // the one that the server knows by now
	reviving    chan struct{}
	forbidden   error // what became of server/discover
	busy        error // the same, if the server asked to come again later: initialize would be too soon

	connecting bool                // the SDK's Connect has not returned
	unasked    map[jsonrpc.ID]bool // calls that were given up before the server had them, or had a use for them

	tools     map[string]bool    // operation → whether the server says that it may be repeated
	suspended map[string]*stream // by the event at which the SDK will resume it
	lists     map[string]pages   // by method
	owed      map[jsonrpc.ID]int // requests of the server's without an answer yet, with their bytes
}

// A message is a POST that can be made again.
type message struct {
	header http.Header
	body   []byte
}

func newConn(s *state) *conn {
	s.forgive()
	return &conn{state: s, latch: new(latch), reviving: make(chan struct{}, 1), connecting: true}
}

// connected says that the connection attempt is over, and returns the error
// for it. If the account may not even ask for server/discover the SDK goes on
// to initialize, and its error is about that.
func (c *conn) connected(err error) error {
	c.latch.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connecting = false
	if err != nil && c.forbidden != nil {
		err = c.forbidden
	}
	return at(StepConnect, err)
}

// liveCall is the conn's answer to whether a sign-in may be started.
func liveCall(c call) bool { return c.live }

func never(call) bool { return false }

func (c *conn) RoundTrip(req *http.Request) (*http.Response, error) {
	if !c.owns(req) {
		return c.rt.RoundTrip(req) // a redirect that the SDK's client did not follow by itself
	}
	switch req.Method {
	case http.MethodGet:
		return c.stream(req), nil
	case http.MethodPost:
		return c.post(req)
	}
	r, _ := c.inSession(req)
	resp, err := c.authorized(r, never, nil)
	if resp != nil {
		return resp, nil // the end of a session that may have ended: the SDK does not look at it
	}
	return nil, err
}

// authorized follows redirects at and below the server's address, which never
// reach the SDK's http.Client: to the SDK they would be the end of the session.
func (c *conn) authorized(req *http.Request, ask func(call) bool, latch *latch) (*http.Response, error) {
	for n := 0; ; n++ {
		resp, err := c.state.authorized(req, ask, latch)
		if err != nil || n == mostRedirects || resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusPermanentRedirect {
			return resp, err
		}
		to, err := resp.Location()
		if err != nil || !oauthhttp.Below(to, c.server) || !repeatable(req) {
			return resp, nil
		}
		drain(resp)
		req = req.Clone(req.Context())
		req.URL = to
		if req.Body, err = again(req); err != nil {
			return nil, err
		}
	}
}

// inSession returns req with the session ID that the server knows, and that ID.
func (c *conn) inSession(req *http.Request) (*http.Request, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.Header.Get(sessionHeader) == "" {
		return req, ""
	}
	req = req.Clone(req.Context())
	if c.live == "" {
		req.Header.Del(sessionHeader)
	} else {
		req.Header.Set(sessionHeader, c.live)
	}
	return req, c.live
}

func (c *conn) post(req *http.Request) (*http.Response, error) {
	asked := parseCall(req)
	if asked.method == "notifications/cancelled" && c.moot(asked.cancels) {
		closeBody(req)
		return &http.Response{
			Status: "202 Accepted", StatusCode: http.StatusAccepted,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: http.NoBody, Request: req,
		}, nil
	}
	if asked.method == "" && asked.id.IsValid() {
		defer c.settle(asked.id)
	}
	if asked.method == "initialize" || asked.method == "notifications/initialized" {
		c.keep(req, asked.method)
	}
	c.mu.Lock()
	busy := c.busy
	c.mu.Unlock()
	if busy != nil && asked.method == "initialize" {
		closeBody(req)
		return nil, busy
	}
	resp, err := c.ask(req, asked, liveCall)
	// A step fails before the server takes a call, or once it has refused it;
	// after an error of the network it may be at work on it.
	if asked.wanted && req.Context().Err() != nil && errors.As(err, new(*StepError)) {
		c.mu.Lock()
		if c.unasked == nil {
			c.unasked = make(map[jsonrpc.ID]bool)
		}
		c.unasked[asked.id] = true // until the SDK cancels it
		c.mu.Unlock()
	}
	if wrong := new(AnswerError); asked.method == "server/discover" && errors.As(err, &wrong) && wrong.RetryAfter > 0 {
		c.mu.Lock()
		c.busy = err
		c.mu.Unlock()
	}
	switch {
	case err != nil && asked.method == listen && passes(err) && req.Context().Err() == nil:
		// The SDK does not look at the error, and would never hear of a change.
		return events(req, (&stream{conn: c, req: req, asked: asked}).body(http.NoBody)), nil
	case errors.Is(err, ErrNoAnswer):
		return c.repeat(req, asked, err)
	}
	return resp, err
}

const (
	elicit = "elicitation/create"

	// mostOwed bounds the requests of the server's that wait for an answer at a time. For each
	// the SDK keeps a goroutine, which may wait for a person, and then a connection.
	mostOwed = 100
)

// owe takes a request of the server's, and reports whether the SDK may have it.
func (c *conn) owe(id jsonrpc.ID, bytes int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := bytes
	for _, n := range c.owed {
		all += n
	}
	if _, twice := c.owed[id]; twice || len(c.owed) == mostOwed || len(c.owed) > 0 && all > mostAnswers*c.maxAnswer {
		return false
	}
	if c.owed == nil {
		c.owed = make(map[jsonrpc.ID]int)
	}
	c.owed[id] = bytes
	return true
}

func (c *conn) settle(id jsonrpc.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.owed, id)
}

// moot reports whether the server is not to hear that the call with id is
// cancelled. It may not if the call was never with it, or is initialize (MCP
// 2025-11-25, "Cancellation"); and the SDK's Connect waits for its notices,
// which wait for a token, or for a server that is silent.
func (c *conn) moot(id jsonrpc.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	unasked := c.unasked[id]
	delete(c.unasked, id)
	return unasked || c.connecting
}

// ask sends req, in the session that the server knows, and returns an answer
// that the SDK can take.
func (c *conn) ask(req *http.Request, asked call, ask func(call) bool) (*http.Response, error) {
	for revived := false; ; revived = true {
		r, id := c.inSession(req)
		if revived {
			body, err := again(req)
			if err != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
		resp, err := c.authorized(r, ask, c.latch)
		fe := new(ForbiddenError)
		switch forbidden := errors.As(err, &fe) && !errors.Is(err, ErrLoginRequired); {
		case forbidden && c.rpcError(resp) != nil:
			return resp, nil
		case forbidden && asked.method == "server/discover":
			c.mu.Lock()
			c.forbidden = err
			c.mu.Unlock()
		}
		if err != nil {
			return nil, refused(resp, err)
		}
		if resp.StatusCode != http.StatusNotFound || id == "" || revived {
			return c.answer(req, asked, resp)
		}
		// MCP 2025-11-25, "Session Management": the server has forgotten the
		// session and carried out nothing.
		drain(resp)
		if err := c.revive(req.Context(), id, asked); err != nil {
			return nil, at(StepConnect, err)
		}
	}
}

// refused closes resp, if there is one, and returns the error for it.
func refused(resp *http.Response, err error) error {
	if resp == nil {
		return err
	}
	drain(resp)
	return at(StepConnect, err)
}

// mostRefusal bounds a refusal, in bytes.
const mostRefusal = 1 << 20

// rpcError returns the JSON-RPC error that is the body of resp, which can be
// read again, or nil. The SDK reads all there is. Neither shows the token that
// was sent.
func (c *conn) rpcError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostRefusal+1))
	_ = resp.Body.Close()
	resp.Body = http.NoBody
	if err != nil || len(body) > mostRefusal {
		return nil
	}
	if _, err := c.bounded(body); err != nil {
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
	mine := c.withoutToken(r, resp)
	if mine != r {
		if body, err = jsonrpc.EncodeMessage(mine); err != nil {
			return nil
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return mine.Error
}

// answer makes of resp, the answer to req, what the SDK can take.
func (c *conn) answer(req *http.Request, asked call, resp *http.Response) (*http.Response, error) {
	c.mu.Lock()
	if id := resp.Header.Get(sessionHeader); id != "" {
		if c.known == "" {
			c.known = id
			c.live = id
		}
		if asked.method == "initialize" {
			c.live = id // any other answer may be an old session's
		}
		resp.Header.Set(sessionHeader, c.known)
	}
	c.mu.Unlock()

	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	wrong := func(err error) error {
		return &AnswerError{
			Status: resp.StatusCode, ContentType: text.Without(mediaType, c.sentWith(resp)...), RetryAfter: oauthhttp.RetryAfter(resp.Header), Err: err,
		}
	}
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		rpc := c.rpcError(resp)
		if rpc != nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			// The SDK wants to see it, to find another protocol version for
			// one: it looks for no code in an error of its transport.
			return resp, nil
		}
		drain(resp)
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
	drain(resp)
	return nil, wrong(nil)
}

// whole returns what the SDK gets for body, which is that of resp, the answer
// to what was asked.
func (c *conn) whole(resp *http.Response, body []byte, asked call) ([]byte, error) {
	w, err := c.bounded(body)
	if err != nil {
		return nil, err
	}
	given, err := answers(body, asked.id)
	if err != nil {
		return nil, err
	}
	r := c.withoutToken(given, resp)
	if r.ID != asked.id {
		return nil, r.Error // of a server that could not make out the ID
	}
	page, err := c.paged(asked, r, w)
	if err != nil {
		return nil, err
	}
	c.learn(asked, page)
	if page == given && asked.id == asked.given {
		return body, nil
	}
	return asked.response(page)
}

// answers returns body if it is the response to the request with id, or an error
// without that ID: the SDK would end the session over anything else, or wait for ever.
func answers(body []byte, id jsonrpc.ID) (*jsonrpc.Response, error) {
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

var errNoMessage = errors.New("it is no JSON-RPC message")

func (c *conn) droppedEvent(why error) {
	c.log.Warn("the server sent an event that is of no use", "step", StepConnect.String(), "why", why)
}

// keep remembers the handshake.
func (c *conn) keep(req *http.Request, method string) {
	body, err := again(req)
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if method == "initialize" {
		c.initialize = m
	} else {
		c.initialized = m
	}
}

// revive begins a new session at the server in place of stale, which it has
// forgotten, unless somebody has done so already.
func (c *conn) revive(ctx context.Context, stale string, asked call) error {
	select {
	case c.reviving <- struct{}{}:
		defer func() { <-c.reviving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	first, second, live := c.initialize, c.initialized, c.live
	c.mu.Unlock()
	if live != stale {
		return nil
	}
	if first == nil || second == nil {
		return mcp.ErrSessionMissing
	}
	start := time.Now()
	id, version, err := c.handshake(ctx, first, asked)
	if want := second.header.Get(versionHeader); err == nil && version != want {
		err = fmt.Errorf("the server came back with protocol version %s, the session has %s", text.Quote(version), text.Quote(want))
	}
	if err == nil {
		_, err = c.replay(ctx, second, id, asked, nil)
	}
	c.audit(ctx, StepConnect, "new session", "", start, err)
	if errors.Is(err, ErrNoAnswer) {
		err = errors.New(err.Error()) // the handshake had none; the call was not carried out
	}
	if err != nil {
		return fmt.Errorf("the server has forgotten the session and takes no new one: %w", err)
	}
	c.log.Warn("the server had forgotten the session; what it kept in memory for it is lost", "step", StepConnect.String())
	c.mu.Lock()
	c.live = id
	c.tools = nil // it may be another version by now
	c.mu.Unlock()
	return nil
}

// handshake sends initialize and returns the new session's ID and version.
func (c *conn) handshake(ctx context.Context, m *message, asked call) (id, version string, err error) {
	resp, err := c.replay(ctx, m, "", asked, func(resp *http.Response) error {
		var data []byte
		if mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mediaType == "text/event-stream" {
			events := c.newEventReader(resp.Body)
			for data == nil {
				e, err := events.next()
				if err != nil {
					return err
				}
				if e.response {
					data = eventData(e.raw)
				}
			}
		} else if data, err = io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1)); err != nil {
			return err
		}
		if _, err := c.bounded(data); err != nil {
			return err
		}
		msg, err := jsonrpc.DecodeMessage(data)
		if err != nil {
			return err
		}
		r, ok := msg.(*jsonrpc.Response)
		if !ok {
			return errors.New("answer to initialize is no response")
		}
		if r.Error != nil {
			return c.withoutToken(r, resp).Error
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

// replay posts a kept message and has read look at a good answer.
func (c *conn) replay(ctx context.Context, m *message, id string, asked call, read func(*http.Response) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.serverURL, bytes.NewReader(m.body))
	if err != nil {
		return nil, err
	}
	req.Header = m.header.Clone()
	if id != "" {
		req.Header.Set(sessionHeader, id)
	}
	resp, err := c.authorized(req, func(call) bool { return asked.live }, c.latch)
	if err != nil {
		return nil, refused(resp, err)
	}
	defer drain(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &AnswerError{Status: resp.StatusCode}
	}
	if read != nil {
		err = read(resp)
	}
	return resp, err
}

func eventData(raw []byte) []byte {
	var data []byte
	for line := range bytes.Lines(raw) {
		if value, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("data:")); ok {
			data = append(append(data, value...), '\n')
		}
	}
	return bytes.TrimSpace(data)
}

// stream answers a GET at once and feeds it from as many upstream streams as
// it takes: one that is refused would block the SDK's Connect, and an outage
// would end its session.
func (c *conn) stream(req *http.Request) *http.Response {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(req.Context())
	go func() { w.CloseWithError(c.feed(ctx, req, w)) }()
	return events(req, &streamBody{r, cancel})
}

// events is an answer that begins at once.
func events(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/event-stream"}},
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

type streamBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *streamBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

const (
	// resumeTries bounds how often the stream of a call is asked for again.
	resumeTries = 5
	backoffMin  = time.Second
	backoffMax  = 30 * time.Second
)

// feed copies events to w until ctx ends or, for the stream of a call, until
// that is answered or cannot be had any more.
func (c *conn) feed(ctx context.Context, req *http.Request, w io.Writer) error {
	last := req.Header.Get(lastEventIDHeader)
	resuming := last != ""
	answers := c.resume(last)
	if answers == nil {
		answers = &stream{conn: c, req: req} // none that is known, or the standalone one
	}
	var session string            // that last belongs to
	var streamed string           // the last session that had a stream
	var wait, retry time.Duration // until the next try; at least, as the server wants it
	failures := 0
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		r, id := c.inSession(req.Clone(ctx))
		if !first && id != session {
			if resuming {
				return c.lose(answers, w, io.EOF) // the answer went with the session
			}
			last = ""
			r.Header.Del(lastEventIDHeader)
		}
		session = id
		if last != "" {
			r.Header.Set(lastEventIDHeader, last)
		}
		resp, err := c.authorized(r, never, nil)
		wait = 0
		var why error
		var progress, silent bool
		switch {
		case err != nil:
			silent = errors.Is(err, ErrClosed) || errors.As(err, new(*ForbiddenError)) && !errors.Is(err, ErrLoginRequired)
			if resp != nil {
				drain(resp)
			}
		case isEvents(resp):
			streamed = id
			answers.from = resp
			for upstream := c.newEventReader(resp.Body); ; {
				e, err := upstream.next()
				if why = err; err != nil {
					break
				}
				progress = true
				answers.see(&e)
				if len(e.raw) == 0 {
					continue
				}
				last = cmp.Or(e.id, last)
				if e.retry > 0 {
					retry = min(e.retry, backoffMax)
				}
				if _, err := w.Write(e.raw); err != nil || resuming && e.response {
					_ = resp.Body.Close()
					return cmp.Or(err, io.EOF) // closed by the SDK, or all it waits for
				}
			}
			_ = resp.Body.Close()
		case resp.StatusCode == http.StatusNotFound && id != "":
			drain(resp)
			// Of a session that never had a stream it means what 405 does.
			silent = resuming || streamed != id
			progress = !silent && c.revive(ctx, id, call{}) == nil
		default:
			// 405 and its like: the server has nothing to say on its own.
			silent = resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests
			wait = oauthhttp.RetryAfter(resp.Header)
			drain(resp)
		}
		if failures++; progress {
			failures = 0
		}
		if errors.Is(why, ErrTooLarge) {
			if resuming {
				return c.lose(answers, w, why)
			}
			last = "" // or it would come again
		}
		switch {
		case resuming && (silent || failures >= resumeTries || wait > backoffMax):
			return c.lose(answers, w, io.EOF)
		case silent:
			// For as long as this session lasts: a POST may begin another one.
			for live := id; live == id; _, live = c.inSession(req) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(backoffMax):
				}
			}
			failures = 0
		}
		wait = max(wait, retry, backoff(failures))
	}
}

// lose ends the stream of a call that cannot be had any more.
func (c *conn) lose(s *stream, w io.Writer, why error) error {
	if s.asked.wanted {
		rest := s.instead(why)
		defer rest.Close()
		if _, err := io.Copy(w, rest); err != nil {
			return err
		}
	}
	return io.EOF
}

func isEvents(resp *http.Response) bool {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return resp.StatusCode == http.StatusOK && mediaType == "text/event-stream"
}

// backoff returns how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	d := backoffMin << min(failures, 6)
	d = min(d, backoffMax)
	return d/2 + rand.N(d/2)
}
