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
	id     string          // "" if it has none
	retry  time.Duration   // 0 if it has none
	msg    jsonrpc.Message // its data; nil if it has none
	weight weight          // of its data
}

func (e *event) isResponse() bool {
	_, ok := e.msg.(*jsonrpc.Response)
	return ok
}

// rewrite replaces the message of e.
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

// An eventReader reads whole events. What the SDK could only answer by ending
// the session is dropped: an event that is no JSON-RPC message, a line that is
// no field. So is what is more than the SDK may be given, and for a response that
// is, there comes one that says so.
type eventReader struct {
	r       *bufio.Reader
	bounds  bounds
	dropped func(why error) // called for each event that is dropped for its data
	err     error
}

func newEventReader(r io.Reader, b bounds, dropped func(error)) *eventReader {
	return &eventReader{r: bufio.NewReader(r), bounds: b, dropped: dropped}
}

func (c *conn) newEventReader(r io.Reader) *eventReader {
	return newEventReader(r, c.bounds, c.droppedEvent)
}

var errNoMessage = errors.New("it is no JSON-RPC message")

func (c *conn) droppedEvent(why error) {
	c.log.Warn("the server sent an event that is of no use", "step", StepConnect.String(), "why", why)
}

// next returns the next event. Comments and empty events are passed over.
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
	if len(data) == 0 || name != "" && name != "message" {
		return e, r.err == nil // it is there for its ID, at which the stream is resumed
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
		case resp == nil:
			r.dropped(err)
			return only(e.id)
		}
		e.msg = resp
		e.raw = encodeEvent(resp)
		return e, true
	}
	if e.msg, err = jsonrpc.DecodeMessage(data); err != nil {
		if r.err == nil {
			r.dropped(errNoMessage)
		}
		return event{}, false
	}
	return e, true
}

// only returns the event that says no more than how far the stream is, or that there is none.
func only(id string) (event, bool) {
	if id == "" {
		return event{}, false
	}
	return event{raw: []byte("id: " + id + "\n\n"), id: id}, true
}

// line reads a line of at most limit bytes, without its end. It may be the
// last one, and then comes with an error.
func (r *eventReader) line(limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.r.ReadSlice('\n')
		if line = append(line, part...); len(line) > limit {
			return nil, tooLarge("it has more than %d bytes", r.bounds.most)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimRight(line, "\r\n"), err
		}
	}
}

// An eventBody is an answer's body that yields whole events only.
type eventBody struct {
	events *eventReader
	body   io.Closer
	seen   func(*event)              // told of each, which it may change; nil: nobody is
	ended  func(error) io.ReadCloser // says what comes in place of the end; nil, or if it returns nil: nothing
	rest   []byte
	more   io.ReadCloser // what has come in place of the end
}

func (b *eventBody) Read(p []byte) (int, error) {
	if b.more != nil {
		return b.more.Read(p)
	}
	for len(b.rest) == 0 { // an event may have been taken out
		e, err := b.events.next()
		if err != nil {
			if b.ended != nil {
				b.more = b.ended(err)
				b.ended = nil
			}
			switch more := b.more.(type) {
			case nil:
				return 0, err
			case *eventBody: // in its place, or a stream that is begun anew for ever would grow for ever
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
		b.rest = e.raw
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *eventBody) Close() error {
	if b.more != nil {
		_ = b.more.Close()
	}
	return b.body.Close()
}
