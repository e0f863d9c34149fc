package mcpclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// mostRepeats bounds how often a call is repeated that is safe to repeat.
const mostRepeats = 2

const (
	listTools = "tools/list"
	callTools = "tools/call"
	listen    = "subscriptions/listen" // its answer is a stream that never ends
)

// repeats reports whether asked may be carried out once more, by somebody who
// does not know whether it was carried out before: it reads, or it is a call
// of a tool that says, in the last list of tools that came by, that it is read-only
// or idempotent.
func (c *conn) repeats(asked call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch asked.method {
	case listen:
		return true // until nobody listens
	case callTools:
		return asked.repeats < mostRepeats && c.tools[asked.operation]
	case "server/discover", "ping", listTools, "prompts/list", "prompts/get", "resources/list", "resources/templates/list", "resources/read", "completion/complete":
		return asked.repeats < mostRepeats
	}
	return false
}

// learn remembers of which tools a list says that they are safe to repeat.
func (c *conn) learn(asked call, list *jsonrpc.Response) {
	var result struct {
		Tools []struct {
			Name        string `json:"name"`
			Annotations struct {
				ReadOnly   bool `json:"readOnlyHint"`
				Idempotent bool `json:"idempotentHint"`
			} `json:"annotations"`
		} `json:"tools"`
	}
	if asked.method != listTools || list.Error != nil || json.Unmarshal(list.Result, &result) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tools == nil || asked.cursor == "" { // the first page of a list in place of the last one
		c.tools = make(map[string]bool)
	}
	for _, t := range result.Tools {
		c.tools[callTools+" "+t.Name] = t.Annotations.ReadOnly || t.Annotations.Idempotent
	}
}

// heard looks at an event on its way to the SDK, and takes its message out if
// the SDK may not have it.
func (c *conn) heard(e *event) {
	switch r, ok := e.msg.(*jsonrpc.Request); {
	case !ok:
	case r.IsCall() && !c.owe(r.ID, len(e.raw)):
		c.droppedEvent(errOwed)
		*e, _ = only(e.id)
	case r.Method == "notifications/tools/list_changed":
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tools = nil
	}
}

var errOwed = errors.New("more requests of the server's wait for an answer than may")

// repeat makes a call again that was lost, for as long as that is safe. A
// repetition has an ID of its own, since the server may still be at work on the
// first one; the SDK gets to see the one that it gave.
func (c *conn) repeat(req *http.Request, asked call, lost error) (*http.Response, error) {
	ask := liveCall
	if asked.method == listen {
		ask = never // nobody waits for it
	}
	var wait time.Duration // as the server asks for
	var last error
	for c.repeats(asked) {
		select {
		case <-time.After(max(wait, backoff(asked.repeats))):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
		asked.repeats++
		r, err := renamed(req, &asked)
		if err != nil {
			return nil, lost
		}
		resp, err := c.ask(r, asked, ask)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err
		}
		last, wait = err, 0
		if answer := new(AnswerError); errors.As(err, &answer) {
			wait = answer.RetryAfter
		}
		if wait > backoffMax && asked.method != listen || !passes(err) && (asked.method != listen || !errors.Is(err, ErrLoginRequired)) {
			break
		}
	}
	if last != nil {
		lost = fmt.Errorf("%w; and when it was repeated: %w", lost, last)
	}
	return nil, lost
}

// passes reports whether another try may find that err has passed by itself.
func passes(err error) bool {
	if answer := new(AnswerError); errors.As(err, &answer) && !errors.Is(err, ErrNoAnswer) {
		return answer.Status >= 500 || answer.Status == http.StatusTooManyRequests
	}
	return !errors.Is(err, ErrClosed) && !errors.Is(err, ErrLoginRequired) && !errors.As(err, new(*ForbiddenError)) && !errors.As(err, new(*TokenRefusedError))
}

// renamed returns a copy of a request with another ID, which it sets in asked.
func renamed(req *http.Request, asked *call) (*http.Request, error) {
	body, err := again(req)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var msg map[string]json.RawMessage
	if err := json.NewDecoder(body).Decode(&msg); err != nil {
		return nil, err
	}
	id := rand.Text()
	if msg["id"], err = json.Marshal(id); err != nil {
		return nil, err
	}
	data, err := json.Marshal(msg)
	if err != nil {
		return nil, err
	}
	if asked.id, err = jsonrpc.MakeID(id); err != nil {
		return nil, err
	}
	r := req.Clone(req.Context())
	r.ContentLength = int64(len(data))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	r.Body, err = r.GetBody()
	return r, err
}

// A stream answers a call with events, over one connection or, where it can be
// resumed, over several.
type stream struct {
	*conn
	req      *http.Request // the call's
	asked    call
	from     *http.Response // whose events these are
	last     string         // ID of the last event
	begun    time.Time
	answered bool
	forget   func() bool // see suspend
}

// body returns what the SDK reads in place of body. The SDK's own error for a
// stream that ends without the answer has no type: [ErrNoAnswer] comes instead,
// or the answer to a repetition, unless the SDK will resume the stream.
func (s *stream) body(body io.ReadCloser) io.ReadCloser {
	s.begun = time.Now()
	return &eventBody{
		events: s.newEventReader(body),
		body:   body,
		seen:   s.see,
		ended: func(err error) io.ReadCloser {
			switch {
			case s.answered || s.req.Context().Err() != nil:
				return nil
			case errors.Is(err, ErrTooLarge):
			case s.last != "" && s.asked.method != listen:
				s.suspend(s)
				return nil
			}
			return s.instead(err)
		},
	}
}

// see looks at an event on its way to the SDK.
func (s *stream) see(e *event) {
	s.last = cmp.Or(e.id, s.last)
	s.heard(e)
	if s.asked.method == listen && time.Since(s.begun) > backoffMax { // not one that is acknowledged and ended
		s.asked.repeats = 0
	}
	given, ok := e.msg.(*jsonrpc.Response)
	if !ok {
		return
	}
	r := s.withoutToken(given, s.from)
	if r.ID != s.asked.id {
		if r != given { // of another call, on a stream that is resumed
			e.rewrite(r)
		}
		return
	}
	s.answered = true
	page, err := s.paged(s.asked, r, e.weight)
	if err != nil {
		page = &jsonrpc.Response{ID: r.ID, Error: wireError(err, ErrTooLarge)}
	}
	s.learn(s.asked, page)
	if page != given || s.asked.id != s.asked.given {
		e.raw = s.event(page)
	}
}

// instead returns what comes for the rest of a stream that ended, for that
// reason, before the answer.
func (s *stream) instead(why error) io.ReadCloser {
	if errors.Is(why, ErrTooLarge) && s.asked.method != listen { // and would be again
		return io.NopCloser(bytes.NewReader(s.event(&jsonrpc.Response{Error: wireError(why, ErrTooLarge)})))
	}
	lost := ErrNoAnswer
	if !errors.Is(why, io.EOF) {
		lost = fmt.Errorf("%w: %w", ErrNoAnswer, why)
	}
	resp, err := s.repeat(s.req, s.asked, lost)
	if err == nil && isEvents(resp) {
		return resp.Body
	}
	r := &jsonrpc.Response{}
	if err == nil {
		var body []byte
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil {
			var msg jsonrpc.Message
			if msg, err = jsonrpc.DecodeMessage(body); err == nil {
				r, _ = msg.(*jsonrpc.Response) // c.answer has checked it
			}
		}
	}
	if err != nil {
		kind := ErrNoAnswer
		if errors.Is(err, ErrTooLarge) {
			kind = ErrTooLarge
		}
		r.Error = wireError(err, kind)
	}
	return io.NopCloser(bytes.NewReader(s.event(r)))
}

// wireError is err as it goes through the SDK, as one of that kind.
func wireError(err, kind error) error {
	return &jsonrpc.Error{Code: kind.(*jsonrpc.Error).Code, Message: err.Error()}
}

// event returns r as an event for the SDK.
func (s *stream) event(r *jsonrpc.Response) []byte {
	mine := *r
	mine.ID = s.asked.given
	return encodeEvent(&mine)
}

func encodeEvent(r *jsonrpc.Response) []byte {
	data, err := jsonrpc.EncodeMessage(r)
	if err != nil {
		return nil // r was decoded from what is encoded here
	}
	return fmt.Appendf(nil, "data: %s\n\n", data)
}

// response encodes r as the response to what the SDK sent.
func (asked call) response(r *jsonrpc.Response) ([]byte, error) {
	mine := *r
	mine.ID = asked.given
	return jsonrpc.EncodeMessage(&mine)
}

// suspend keeps s for the SDK to resume it at its last event.
func (c *conn) suspend(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.suspended == nil {
		c.suspended = make(map[string]*stream)
	}
	last := s.last
	if c.suspended[last] != nil {
		return // of another stream with the same ID: that one is not taken from it
	}
	c.suspended[last] = s
	s.forget = context.AfterFunc(s.req.Context(), func() { c.resume(last) })
}

// resume returns the stream that was suspended at an event, or nil.
func (c *conn) resume(last string) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspended[last]
	if s != nil {
		delete(c.suspended, last)
		s.forget()
	}
	return s
}
