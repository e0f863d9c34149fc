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
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// mostRepeats bounds how often a call is repeated that is safe to repeat.
const mostRepeats = 2

const (
	methodListTools = "tools/list"
	methodCallTool  = "tools/call"
	methodElicit    = "elicitation/create"
	methodSubscribe = "subscriptions/listen" // its answer is a stream that never ends
)

// mayRepeat reports whether asked may be carried out twice: nobody knows
// whether the server has carried it out before. A call that reads may, and a
// call of a tool that the last list of tools has as read-only or idempotent.
func (c *conn) mayRepeat(asked call) bool {
	switch asked.method {
	case methodSubscribe:
		return true // until nobody listens
	case methodCallTool:
		return asked.repetitions < mostRepeats && c.hints.safe(asked.operation)
	case "server/discover", "ping", methodListTools, "prompts/list", "prompts/get", "resources/list", "resources/templates/list", "resources/read", "completion/complete":
		return asked.repetitions < mostRepeats
	}
	return false
}

// toolHints holds what the last list of tools says of each (MCP
// ToolAnnotations). They are hints of the server's own about its own tools: who
// trusts it with a call may trust it with the repetition.
type toolHints struct {
	mu         sync.Mutex      // guards repeatable
	repeatable map[string]bool // by [call.operation]
}

func (h *toolHints) safe(operation string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repeatable[operation]
}

// forget forgets all hints, since the tools may have changed.
func (h *toolHints) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.repeatable = nil
}

// learn takes the hints from list, if that is what was asked for.
func (h *toolHints) learn(asked call, list *jsonrpc.Response) {
	var result struct {
		Tools []struct {
			Name        string `json:"name"`
			Annotations struct {
				ReadOnly   bool `json:"readOnlyHint"`
				Idempotent bool `json:"idempotentHint"`
			} `json:"annotations"`
		} `json:"tools"`
	}
	if asked.method != methodListTools || list.Error != nil || json.Unmarshal(list.Result, &result) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repeatable == nil || asked.cursor == "" { // a first page begins a list anew
		h.repeatable = make(map[string]bool)
	}
	for _, t := range result.Tools {
		h.repeatable[methodCallTool+" "+t.Name] = t.Annotations.ReadOnly || t.Annotations.Idempotent
	}
}

// repeat makes a call again whose answer was lost, for as long as that is safe,
// and returns the answer. Its error wraps lost. A repetition has an ID of its
// own, since the server may still be at work on the first call; the SDK gets the
// answer with the ID that it gave.
func (c *conn) repeat(req *http.Request, asked call, lost error) (*http.Response, error) {
	may := askForCalls
	if asked.method == methodSubscribe {
		may = askNever // no person waits for a subscription
	}
	var wait time.Duration // as the server asks for
	var last error
	for c.mayRepeat(asked) {
		if err := sleep(req.Context(), max(wait, backoff(asked.repetitions))); err != nil {
			return nil, err
		}
		asked.repetitions++
		r, err := renamed(req, &asked)
		if err != nil {
			return nil, lost
		}
		resp, err := c.ask(r, asked, may)
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
		if !worthwhile(asked, err, wait) {
			break
		}
	}
	if last != nil {
		lost = fmt.Errorf("%w; and when it was repeated: %w", lost, last)
	}
	return nil, lost
}

// worthwhile reports whether to repeat a call after a repetition failed with err
// and the server asks for a wait. A subscription may wait for long, and for a
// person to sign in elsewhere.
func worthwhile(asked call, err error, wait time.Duration) bool {
	if asked.method == methodSubscribe {
		return passes(err) || errors.Is(err, ErrLoginRequired)
	}
	return passes(err) && wait <= backoffMax
}

// passes reports whether err may be gone at the next try.
func passes(err error) bool {
	if answer := new(AnswerError); errors.As(err, &answer) && !errors.Is(err, ErrNoAnswer) {
		return answer.Status >= 500 || answer.Status == http.StatusTooManyRequests
	}
	return !errors.Is(err, ErrClosed) && !errors.Is(err, ErrLoginRequired) && !errors.As(err, new(*ForbiddenError)) && !errors.As(err, new(*TokenRefusedError))
}

// renamed returns a copy of a request with a new ID, and sets that in asked.
func renamed(req *http.Request, asked *call) (*http.Request, error) {
	body, err := newBody(req)
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

// A stream is the answer to one call as events, over one connection or, where
// it can be resumed, over several.
type stream struct {
	conn     *conn
	req      *http.Request // the call's
	asked    call
	from     *http.Response // that the events come from
	last     string         // ID of the last event
	begun    time.Time
	answered bool
	unpark   func() bool // see [parkedStreams.park]
}

// body returns what the SDK reads in place of body. When body ends without the
// answer, the SDK resumes the stream if it had an event ID. Otherwise its own
// error would have no type: the answer to a repetition comes instead, or an
// [ErrNoAnswer].
func (s *stream) body(body io.ReadCloser) io.ReadCloser {
	s.begun = time.Now()
	return &eventBody{
		events: s.conn.newEventReader(body),
		body:   body,
		seen:   s.see,
		ended: func(err error) io.ReadCloser {
			switch {
			case s.answered || s.req.Context().Err() != nil:
				return nil
			case errors.Is(err, ErrTooLarge):
			case s.last != "" && s.asked.method != methodSubscribe:
				s.conn.parked.park(s)
				return nil
			}
			return s.instead(err)
		},
	}
}

// see looks at an event on its way to the SDK, and may change it: requests that
// the SDK may not have are taken out, the token that was sent is hidden, and a
// repetition's answer gets the ID that the SDK knows.
func (s *stream) see(e *event) {
	c := s.conn
	s.last = cmp.Or(e.id, s.last)
	c.screen(e)
	// A subscription that lives for a while may be begun anew as often as it
	// ends. One that is acknowledged and ended at once has its repetitions counted.
	if s.asked.method == methodSubscribe && time.Since(s.begun) > backoffMax {
		s.asked.repetitions = 0
	}
	given, ok := e.msg.(*jsonrpc.Response)
	if !ok {
		return
	}
	r := c.auth.withoutToken(given, s.from)
	if r.ID != s.asked.id {
		if r != given { // of a call that is not known here, on a stream that is resumed
			e.rewrite(r)
		}
		return
	}
	s.answered = true
	page, err := c.paged(s.asked, r, e.weight)
	if err != nil {
		page = &jsonrpc.Response{ID: r.ID, Error: wireError(err, ErrTooLarge)}
	}
	c.hints.learn(s.asked, page)
	if page != given || s.asked.id != s.asked.sdkID {
		e.raw = s.event(page)
	}
}

// screen takes the message out of e if it is a request that the SDK may not
// have, and looks for a notice that the tools have changed.
func (c *conn) screen(e *event) {
	switch r, ok := e.msg.(*jsonrpc.Request); {
	case !ok:
	case r.IsCall() && !c.owed.add(r.ID, len(e.raw), mostAnswers*c.maxAnswer):
		c.droppedEvent(errOwed)
		*e, _ = only(e.id)
	case r.Method == "notifications/tools/list_changed":
		c.hints.forget()
	}
}

// instead returns what comes for the rest of a stream that ended, for the
// reason why, before the answer: the answer to a repetition, or an error.
func (s *stream) instead(why error) io.ReadCloser {
	if errors.Is(why, ErrTooLarge) && s.asked.method != methodSubscribe {
		// A repetition's answer would be too large again.
		return io.NopCloser(bytes.NewReader(s.event(&jsonrpc.Response{Error: wireError(why, ErrTooLarge)})))
	}
	lost := ErrNoAnswer
	if !errors.Is(why, io.EOF) {
		lost = fmt.Errorf("%w: %w", ErrNoAnswer, why)
	}
	resp, err := s.conn.repeat(s.req, s.asked, lost)
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
				r, _ = msg.(*jsonrpc.Response) // conn.answer has checked it
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

// event returns r as an event with the ID that the SDK gave to its call.
func (s *stream) event(r *jsonrpc.Response) []byte {
	mine := *r
	mine.ID = s.asked.sdkID
	return encodeEvent(&mine)
}

// parkedStreams holds streams that ended before their answer came, for the SDK
// to resume each with a GET at its last event.
type parkedStreams struct {
	mu sync.Mutex         // guards at
	at map[string]*stream // by the ID of the last event
}

// park keeps s until the SDK resumes it, or gives its call up.
func (p *parkedStreams) park(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = make(map[string]*stream)
	}
	last := s.last
	if p.at[last] != nil {
		return // of another stream whose events have the same IDs: it keeps its place
	}
	p.at[last] = s
	s.unpark = context.AfterFunc(s.req.Context(), func() { p.take(last) })
}

// take returns the stream that is parked at an event, or nil.
func (p *parkedStreams) take(last string) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.at[last]
	if s != nil {
		delete(p.at, last)
		s.unpark()
	}
	return s
}
