package mcpclient

import (
	"bytes"
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

// mayRepeat reports whether asked may be carried out twice: nobody knows
// whether the server has carried it out before. A call that reads may, and a
// call of a tool that the last list of tools has as read-only or idempotent.
func (c *conn) mayRepeat(asked call) bool {
	switch asked.method {
	case methodSubscribe:
		return true // until its caller ends it: an event that was missed is lost anyway
	case methodCallTool:
		return asked.repetitions < mostRepeats && c.hints.safe(asked.operation)
	case "server/discover", "ping", methodListTools, "prompts/list", "prompts/get", "resources/list", "resources/templates/list", "resources/read", "completion/complete":
		return asked.repetitions < mostRepeats
	}
	return false
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
			return nil, lost // the body cannot be sent again
		}
		resp, err := c.ask(r, asked, may)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err // nobody asks any more what became of the first call
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

// passes reports whether err may be gone at the next try, without anybody's doing.
// An AnswerError that wraps ErrNoAnswer is an answer that broke off: its status is
// that of a good one.
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
