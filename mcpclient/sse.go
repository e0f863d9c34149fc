package mcpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// An event is one server-sent event (HTML standard §9.2), whole.
type event struct {
	raw    []byte          // its known fields, with the empty line that ends it
	id     string          // at which the server can resume the stream; "" if it has none
	retry  time.Duration   // that a client is to wait before it resumes; 0 if it has none
	msg    jsonrpc.Message // its data; nil if it has none
	weight weight          // of its data
}

func (e *event) isResponse() bool {
	_, ok := e.msg.(*jsonrpc.Response)
	return ok
}

// rewrite replaces the message of e, and keeps its other fields.
func (e *event) rewrite(msg jsonrpc.Message) {
	data, err := jsonrpc.EncodeMessage(msg)
	if err != nil {
		data = nil // msg was decoded from what is encoded here
	}
	var raw []byte
	for line := range bytes.Lines(e.raw) {
		if !bytes.HasPrefix(line, []byte("data:")) && len(line) > 1 {
			raw = append(raw, line...)
		}
	}
	e.msg, e.raw = msg, fmt.Appendf(raw, "data: %s\n\n", data)
}

// encodeEvent returns r as an event.
func encodeEvent(r *jsonrpc.Response) []byte {
	data, err := jsonrpc.EncodeMessage(r)
	if err != nil {
		return nil // r was decoded from what is encoded here
	}
	return fmt.Appendf(nil, "data: %s\n\n", data)
}

// An eventReader reads whole events. It drops whatever would have the SDK end the
// session: an event that is no JSON-RPC message, a line that is no field, a message
// that is more than the SDK may have. In place of a response that is too large it
// yields an error with that response's ID, so that the call ends.
type eventReader struct {
	r       *bufio.Reader
	bounds  bounds
	dropped func(why error) // told of each event that is dropped for its data
	err     error           // why there are no more events
}

func newEventReader(r io.Reader, b bounds, dropped func(error)) *eventReader {
	return &eventReader{r: bufio.NewReader(r), bounds: b, dropped: dropped}
}

func (c *conn) newEventReader(r io.Reader) *eventReader {
	return newEventReader(r, c.bounds, c.droppedEvent)
}

var errNoMessage = errors.New("it is no JSON-RPC message")

func (c *conn) droppedEvent(why error) {
	c.log.Warn("dropped an event of the server's", "step", StepConnect.String(), "why", why)
}

// next returns the next event, or why there is none. It passes over comments and
// empty events.
func (r *eventReader) next() (event, error) {
	for r.err == nil {
		if e, ok := r.read(); ok {
			return e, nil
		}
	}
	return event{}, r.err
}

// read reads the next event; ok is false if nothing of it is handed on. Not all
// servers end the last event with an empty line. At the end of a stream an event
// counts if its data is a message: a part of a message never is one.
func (r *eventReader) read() (e event, ok bool) {
	e, name, data := r.fields()
	if len(e.raw) == 0 || r.err != nil && !errors.Is(r.err, io.EOF) {
		return event{}, false
	}
	e.raw = append(e.raw, '\n')
	// Without data an event is there for its ID, at which the stream is resumed. The
	// SDK passes over events of other names.
	if len(data) == 0 || name != "" && name != "message" {
		return e, r.err == nil
	}
	return r.decode(e, data)
}

// fields reads lines to the next empty one, or to the end. It leaves out lines
// that are no field, since the SDK does not take them.
func (r *eventReader) fields() (e event, name string, data []byte) {
	for r.err == nil {
		var line []byte
		line, r.err = r.line(r.bounds.most - len(e.raw))
		if len(line) == 0 {
			break
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		trimmed := bytes.TrimSpace(value)
		switch string(field) {
		case "data":
			data = append(append(data, trimmed...), '\n')
		case "event":
			name = string(trimmed)
		case "id":
			e.id = string(trimmed)
		case "retry":
			if ms, err := strconv.ParseUint(string(trimmed), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		default:
			continue
		}
		e.raw = append(append(append(append(e.raw, field...), ':'), value...), '\n')
	}
	return e, name, bytes.TrimSpace(data)
}

// decode makes data the message of e. A response that is more than the SDK may
// have becomes an error for the call that waits for it.
func (r *eventReader) decode(e event, data []byte) (event, bool) {
	var err error
	if e.weight, err = r.bounds.check(data); err != nil {
		resp, known := excess(data, err)
		switch {
		case !known && r.err == nil:
			r.err = err // it may be the answer that the stream is there for
			return event{}, false
		case resp == nil: // a request or notice, or a part of an event at the end
			r.dropped(err)
			return only(e.id)
		}
		e.msg = resp
		e.raw = encodeEvent(resp)
		return e, true
	}
	if e.msg, err = jsonrpc.DecodeMessage(data); err != nil {
		if r.err == nil { // otherwise it is a part of an event, and no server's fault
			r.dropped(errNoMessage)
		}
		return event{}, false
	}
	return e, true
}

// only returns an event that has an ID and no message: at that ID the stream can be
// resumed. Without an ID there is no event.
func only(id string) (event, bool) {
	if id == "" {
		return event{}, false
	}
	return event{raw: []byte("id: " + id + "\n\n"), id: id}, true
}

// line reads a line of at most limit bytes, and returns it without its end. The
// last line may come with an error, such as [io.EOF].
func (r *eventReader) line(limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.r.ReadSlice('\n')
		// A line that is longer than the reader's buffer comes in parts.
		if line = append(line, part...); len(line) > limit {
			return nil, tooLarge("it has more than %d bytes", r.bounds.most)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimRight(line, "\r\n"), err
		}
	}
}

// An eventBody is an answer's body that yields whole events only: the SDK ends its
// session over a part of one. When the stream ends, another body may continue it.
type eventBody struct {
	events *eventReader
	body   io.Closer                 // that the events are read from
	seen   func(*event)              // called with each event, which it may change; may be nil
	atEnd  func(error) io.ReadCloser // called once, at the end of the stream: may return a reader that continues it; may be nil
	unread []byte                    // of the last event
	more   io.ReadCloser             // continues the stream
}

func (b *eventBody) Read(p []byte) (int, error) {
	if b.more != nil {
		return b.more.Read(p)
	}
	for len(b.unread) == 0 { // seen may have left nothing of an event
		e, err := b.events.next()
		if err != nil {
			if b.atEnd != nil {
				b.more = b.atEnd(err)
				b.atEnd = nil
			}
			switch more := b.more.(type) {
			case nil:
				return 0, err
			case *eventBody:
				// The new body takes the place of this one. If each body read from the
				// next one, a subscription that is begun anew for ever would grow a
				// chain for ever.
				_ = b.body.Close()
				*b = *more
				return b.Read(p)
			}
			_ = b.body.Close()
			return b.more.Read(p)
		}
		if b.seen != nil {
			b.seen(&e)
		}
		b.unread = e.raw
	}
	n := copy(p, b.unread)
	b.unread = b.unread[n:]
	return n, nil
}

func (b *eventBody) Close() error {
	if b.more != nil {
		_ = b.more.Close()
	}
	return b.body.Close()
}
