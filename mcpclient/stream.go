package mcpclient

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// A stream is the answer to one call as events, over one connection or, where
// it can be resumed, over several. One goroutine at a time uses it: first the
// reader of the answer's body, and after a break the feed that has taken it from
// parkedStreams.
type stream struct {
	conn     *conn
	req      *http.Request // the call's
	asked    call
	from     *http.Response // that the events come from; nil: none come
	last     string         // ID of the last event; "": it cannot be resumed
	begun    time.Time
	answered bool        // the response to the call was seen
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
		atEnd: func(err error) io.ReadCloser {
			switch {
			case s.answered || s.req.Context().Err() != nil:
				return nil
			case errors.Is(err, ErrTooLarge): // resumed, it would be too large again
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
	// The count of repetitions sets the pause before the next one. A subscription
	// that lives for a while is begun anew after a short pause. One that is
	// acknowledged and ended at once is begun anew ever later.
	if s.asked.method == methodSubscribe && time.Since(s.begun) > backoffMax {
		s.asked.repetitions = 0
	}
	given, ok := e.msg.(*jsonrpc.Response)
	if !ok {
		return
	}
	r := c.auth.withoutToken(given, s.from)
	if r.ID != s.asked.id {
		// The answer to a call that is not known here, on a stream that is resumed.
		if r != given {
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
// have, and forgets the hints at a notice that the tools have changed.
func (c *conn) screen(e *event) {
	switch r, ok := e.msg.(*jsonrpc.Request); {
	case !ok:
	case r.IsCall() && !c.owed.add(r.ID, len(e.raw), mostAnswers*c.maxAnswer):
		c.droppedEvent(errOwed)
		*e, _ = only(e.id) // the event's ID still counts
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
	if !errors.Is(why, io.EOF) { // which says no more than ErrNoAnswer
		lost = fmt.Errorf("%w: %w", ErrNoAnswer, why)
	}
	resp, err := s.conn.repeat(s.req, s.asked, lost)
	if err == nil && isEvents(resp) {
		return resp.Body // that of a stream of its own, as the SDK may have it
	}
	// The SDK reads events here, so an answer in JSON becomes one.
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
	return encodeEvent(withID(r, s.asked.sdkID))
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
		return // another stream's events have the same IDs: it was first, and keeps its place
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
