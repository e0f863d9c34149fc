package mcpclient

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

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

const (
	// mostPages bounds the pages of one list. All of them together may be as much as
	// mostAnswers answers: the SDK and most callers keep them.
	mostPages   = 1000
	mostAnswers = 4

	// pageLasts is how long a page is known, so that two listings at once do not make each
	// other forget. A page that the SDK keeps, as the server may tell it to, is known for as long.
	pageLasts = time.Minute
	longest   = 100 * 365 * 24 * time.Hour
)

// pages are those of one list, by the hash of the cursor at which each begins. Two listings at
// once share them: a page that is asked for again takes its own place.
type pages map[[sha256.Size]byte]page

type page struct {
	next   [sha256.Size]byte // zero: it was not asked for yet
	number int
	before weight // of the pages before it
	until  time.Time
}

// turn takes the page that begins at cursor and ends at next, and reports whether it leads to a
// page that led to it, so that the list would never end.
func (p pages) turn(cursor, next string, w weight, ttl time.Duration, most int, now time.Time) (again bool, err error) {
	if cursor == "" {
		for k, known := range p {
			if now.After(known.until) {
				delete(p, k)
			}
		}
	}
	this, to := sha256.Sum256([]byte(cursor)), sha256.Sum256([]byte(next))
	until := now.Add(max(ttl, pageLasts))
	here := p[this]
	here = page{next: to, number: here.number, before: here.before, until: until}
	w = w.plus(here.before)
	if err := w.within(most, mostAnswers); err != nil {
		return false, fmt.Errorf("%w in all pages of the list", err)
	}
	if next == "" {
		here.next = [sha256.Size]byte{}
		p[this] = here
		return false, nil
	}
	if here.number++; here.number >= mostPages {
		return false, tooLarge("the list has more than %d pages", mostPages)
	}
	at := to
	for range 2 * mostPages {
		if at == this {
			return true, nil
		}
		known, ok := p[at]
		if !ok || known.next == [sha256.Size]byte{} {
			here.number--
			p[this] = here
			there := p[to]
			p[to] = page{next: there.next, number: here.number + 1, before: w, until: until}
			return false, nil
		}
		at = known.next
	}
	return true, nil
}

// lists holds the pages of each list that the SDK reads.
type lists struct {
	mu    sync.Mutex       // guards pages and all that is in it
	pages map[string]pages // by method
}

// turn takes one page of the list that is asked for, see [pages.turn].
func (l *lists) turn(asked call, next string, w weight, ttl time.Duration, most int) (again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pages == nil {
		l.pages = make(map[string]pages)
	}
	if l.pages[asked.method] == nil {
		l.pages[asked.method] = make(pages)
	}
	return l.pages[asked.method].turn(asked.cursor, next, w, ttl, most, time.Now())
}

// paged looks at an answer on its way to the SDK. A list that comes back to a page that it had is
// ended there; one that is too long yields an error. It returns r, or what is in its place.
func (c *conn) paged(asked call, r *jsonrpc.Response, w weight) (*jsonrpc.Response, error) {
	switch asked.method {
	case methodListTools, "prompts/list", "resources/list", "resources/templates/list":
	default:
		return r, nil
	}
	// By their exact names, as the SDK reads them: encoding/json takes any case in a struct.
	var members map[string]json.RawMessage
	var next string
	if r.Error != nil || json.Unmarshal(r.Result, &members) != nil {
		return r, nil // no list
	}
	cursor, named := members["nextCursor"]
	if named && json.Unmarshal(cursor, &next) != nil {
		return r, nil // nor is this
	}
	var ttl time.Duration
	if said, ok := members["ttlMs"]; ok {
		ms, err := strconv.ParseInt(string(said), 10, 64)
		if ttl = longest; err == nil && ms < int64(longest/time.Millisecond) {
			ttl = time.Duration(ms) * time.Millisecond
		}
	}
	again, err := c.lists.turn(asked, next, w, ttl, c.maxAnswer)
	switch {
	case err != nil:
		return nil, err
	case again:
		delete(members, "nextCursor")
		c.log.Warn("the server's list leads back to a page that it had, and ends there", "step", StepConnect.String(), "list", asked.method)
	case !named:
		return r, nil
	}
	// Written anew in any case: of a name that comes twice the SDK may take the other one.
	data, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	return &jsonrpc.Response{ID: r.ID, Result: data}, nil
}
