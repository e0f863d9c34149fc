package mcpclient

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

var errEventTooLarge = errors.New("event is too large")

// An event is one server-sent event (HTML standard §9.2), whole.
type event struct {
	raw      []byte        // with the empty line that ends it
	id       string        // "" if it has none
	retry    time.Duration // 0 if it has none
	response bool          // its data is a JSON-RPC response
}

// An eventReader reads whole events. What is cut off at the end is dropped,
// and so is what the SDK could only answer by ending the session: an event
// that is no JSON-RPC message.
type eventReader struct {
	r       *bufio.Reader
	dropped func() // called for each event that is no message
}

func newEventReader(r io.Reader, dropped func()) *eventReader {
	return &eventReader{bufio.NewReader(r), dropped}
}

// next returns the next event. Comments and empty events are passed over.
func (r *eventReader) next() (event, error) {
	for {
		e, ok, err := r.read()
		if err != nil || ok {
			return e, err
		}
	}
}

func (r *eventReader) read() (e event, ok bool, err error) {
	var data []byte
	var name string
	var fields bool
	for {
		start := len(e.raw)
		for {
			part, err := r.r.ReadSlice('\n')
			if len(e.raw)+len(part) > mcp.DefaultMaxEventSize {
				return event{}, false, errEventTooLarge
			}
			e.raw = append(e.raw, part...)
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return event{}, false, err
			}
		}
		line := bytes.TrimRight(e.raw[start:], "\r\n")
		if len(line) == 0 {
			break
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			data = append(append(data, value...), '\n')
		case "event":
			name = string(value)
		case "id":
			e.id = string(value)
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		default:
			continue
		}
		fields = true
	}
	if !fields {
		return event{}, false, nil
	}
	if len(data) == 0 || name != "" && name != "message" {
		return e, true, nil
	}
	msg, err := jsonrpc.DecodeMessage(bytes.TrimSpace(data))
	if err != nil {
		r.dropped()
		return event{}, false, nil
	}
	_, e.response = msg.(*jsonrpc.Response)
	return e, true, nil
}

// An eventBody is an answer's body that yields whole events only.
type eventBody struct {
	events *eventReader
	body   io.Closer
	rest   []byte
}

func (b *eventBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		e, err := b.events.next()
		if err != nil {
			return 0, err
		}
		b.rest = e.raw
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *eventBody) Close() error { return b.body.Close() }
