package mcpclient

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// A message can be small and still keep the SDK's decoder busy. The decoder goes
// over a value once for each level above it: 8 MiB at 900 levels take half a
// minute. It makes 80 bytes of a value that has two. It starts a decoder of 32 KiB
// for each item of some lists. So a message is weighed before the SDK sees it, and
// a message within the bounds takes less than a second.
const (
	defaultMaxAnswer = 8 << 20

	mostDepth = 64
	itemDepth = 4 // the level of a list's items: message, result, list, item

	// mostElicitation bounds a question to a person, in bytes. Its schema may nest
	// or have patterns, and the SDK takes more than a second for more of those.
	mostElicitation = 128 << 10
)

// A weight is the work that a message, or several together, make a decoder.
type weight struct {
	bytes  int
	passes int // over all bytes: a byte has as many as levels above it
	values int // each takes 80 to 300 bytes of memory
	items  int // objects at the level of a list's items, each a decoder of 32 KiB
}

// within returns an [ErrTooLarge] if w is more than n messages may be, where one
// message may have so many bytes. The other bounds are in proportion to that one.
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

// tooLarge is an [ErrTooLarge] that says which bound was passed.
func tooLarge(format string, args ...any) error {
	wire := ErrTooLarge.(*jsonrpc.Error)
	return &jsonrpc.Error{Code: wire.Code, Message: wire.Message + ": " + fmt.Sprintf(format, args...)}
}

// weigh counts what is in a message without decoding it. It counts in anything, and
// leaves it to the decoder to refuse what is no JSON: the decoder stops there, so
// the count may only be too high.
func weigh(data []byte) (weight, error) {
	w := weight{bytes: len(data)}
	depth, from := 0, 0 // the passes are counted up to from
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

// endOfString returns the index of the quote that ends the string whose content
// begins at i, or len(data) if it does not end.
func endOfString(data []byte, i int) int {
	for quote := -1; ; {
		// The next quote is searched only when i has passed the last one. A search
		// for each escape would look through all of data each time.
		if quote < i {
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
	// A server asks the user with a request of its own, or within the result of a
	// call (inputRequests).
	var msg struct {
		Method string `json:"method"`
		Result struct {
			Requests map[string]json.RawMessage `json:"inputRequests"`
		} `json:"result"`
	}
	_ = json.Unmarshal(data, &msg) // what cannot be read here asks nobody anything
	question := 0
	if msg.Method == methodElicit {
		question = len(data)
	}
	for _, r := range msg.Result.Requests {
		var request struct {
			Method string `json:"method"`
		}
		if _ = json.Unmarshal(r, &request); request.Method == methodElicit {
			question += len(r)
		}
	}
	if question > mostElicitation {
		err = tooLarge("it asks the user something in more than %d bytes", mostElicitation)
	}
	return w, err
}

// excess returns what the SDK gets in place of a message that is more than it may
// have. In place of a response it is one with why as its error, so that the call
// ends. In place of a request or notice it is nil: no caller waits for those. ok is
// false if data does not say which of them it is, or whose response.
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
	// No ID of the SDK's or of a repetition is as long as that.
	if len(msg.ID) > 256 || json.Unmarshal(msg.ID, &id) != nil {
		return nil, false
	}
	known, err := jsonrpc.MakeID(id)
	if err != nil || !known.IsValid() {
		return nil, false
	}
	return &jsonrpc.Response{ID: known, Error: why}, true
}
