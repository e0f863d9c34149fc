package mcpclient

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

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
