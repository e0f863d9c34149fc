package mcpclient

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// The SDK's decoder goes over a value once for each level that it is under (of 8 MiB at 900
// levels: half a minute), makes 80 bytes of one, and starts a decoder of 32 KiB for each item of
// some lists. What is bounded here, before it sees a message, keeps it below a second.
const (
	defaultMaxAnswer = 8 << 20

	mostDepth = 64
	itemDepth = 4 // of the items of a list: message, result, list, item

	// mostElicitation bounds what a person is asked, in bytes: of a schema that nests, or has
	// patterns, more take more than a second.
	mostElicitation = 128 << 10
)

// A weight is what a message, or a list of several, asks of a decoder.
type weight struct {
	bytes  int
	passes int // over a byte, as many as it has levels above it
	values int // 80 to 300 bytes of memory each
	items  int // objects where a list has its items
}

// within returns an [ErrTooLarge] if w is more than n messages of that many bytes may be.
func (w weight) within(bytes, n int) error {
	for _, bound := range []struct {
		is, most int
		of       string
	}{
		{w.bytes, bytes, "bytes"},
		{w.passes, bytes * 16, "bytes times levels"},
		{w.values, bytes / 16, "values"},
		{w.items, bytes / 512, "items"},
	} {
		if bound.is > n*bound.most {
			return tooLarge("it has more than %d %s", n*bound.most, bound.of)
		}
	}
	return nil
}

func (w weight) plus(v weight) weight {
	return weight{w.bytes + v.bytes, w.passes + v.passes, w.values + v.values, w.items + v.items}
}

// tooLarge is an [ErrTooLarge] that says what is.
func tooLarge(format string, args ...any) error {
	wire := ErrTooLarge.(*jsonrpc.Error)
	return &jsonrpc.Error{Code: wire.Code, Message: wire.Message + ": " + fmt.Sprintf(format, args...)}
}

// weigh looks at a message without decoding it. It takes what is no JSON, too: the decoder, which
// may not see as much of it, refuses that.
func weigh(data []byte) (weight, error) {
	w := weight{bytes: len(data)}
	depth, from := 0, 0 // where the passes were last counted
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfString(data, i+1)
		case '{', '[':
			w.passes += depth * (i - from)
			from = i
			if depth++; depth > mostDepth {
				return w, tooLarge("it nests deeper than %d levels", mostDepth)
			}
			w.values++
			if data[i] == '{' && depth == itemDepth {
				w.items++
			}
		case '}', ']':
			w.passes += depth * (i - from)
			from = i
			depth = max(0, depth-1)
		case ',':
			w.values++
		}
	}
	w.passes += depth * (len(data) - from)
	return w, nil
}

// endOfString returns where the string that has begun before i ends.
func endOfString(data []byte, i int) int {
	for quote := -1; ; {
		if quote < i { // looked for once only, or each escape would look through all of data
			n := bytes.IndexByte(data[min(i, len(data)):], '"')
			if n < 0 {
				return len(data)
			}
			quote = i + n
		}
		n := bytes.IndexByte(data[i:quote], '\\')
		if n < 0 {
			return quote
		}
		i += n + 2
	}
}

// bounds are what one message may be.
type bounds struct {
	most     int  // bytes, see [Client.MaxAnswer]
	asksUser bool // the caller handles elicitations
}

// check weighs a message. Its error wraps [ErrTooLarge] if the SDK may not be
// given the message.
func (b bounds) check(data []byte) (weight, error) {
	w, err := weigh(data)
	if err == nil {
		err = w.within(b.most, 1)
	}
	if err != nil || !b.asksUser || len(data) <= mostElicitation {
		return w, err
	}
	var msg struct {
		Method string `json:"method"`
		Result struct {
			Requests map[string]json.RawMessage `json:"inputRequests"`
		} `json:"result"`
	}
	_ = json.Unmarshal(data, &msg)
	asked := 0
	if msg.Method == methodElicit {
		asked = len(data)
	}
	for _, r := range msg.Result.Requests {
		var request struct {
			Method string `json:"method"`
		}
		if _ = json.Unmarshal(r, &request); request.Method == methodElicit {
			asked += len(r)
		}
	}
	if asked > mostElicitation {
		err = tooLarge("it asks the user something in more than %d bytes", mostElicitation)
	}
	return w, err
}

// excess returns what comes in place of a message that is more than the SDK may be given: for
// the response to a call, one with why as its error; nil for what nobody waits for. ok is false
// where there is no telling.
func excess(data []byte, why error) (r *jsonrpc.Response, ok bool) {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Method json.RawMessage `json:"method"`
	}
	switch err := json.Unmarshal(data, &msg); {
	case err != nil:
		return nil, false
	case msg.Method != nil:
		return nil, true
	}
	var id any
	if len(msg.ID) > 256 || json.Unmarshal(msg.ID, &id) != nil {
		return nil, false
	}
	known, err := jsonrpc.MakeID(id)
	if err != nil || !known.IsValid() {
		return nil, false
	}
	return &jsonrpc.Response{ID: known, Error: why}, true
}
