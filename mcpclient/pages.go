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
	// mostPages bounds the pages of one list. All of them together may weigh as
	// much as mostAnswers answers: the SDK and most callers keep them all.
	mostPages   = 1000
	mostAnswers = 4

	// pageLasts is how long a page is remembered. So two listings at once do not
	// make each other forget. The SDK may keep a page for as long as the server
	// says (ttlMs), and the page is remembered for as long.
	pageLasts = time.Minute
	longest   = 100 * 365 * 24 * time.Hour // in place of a ttlMs that no time.Duration holds
)

// cursorHash stands for a cursor, which may be long. The zero value is none.
type cursorHash [sha256.Size]byte

// pages are the pages of one list, by the cursor at which each begins. Two
// listings at once share them: a page that is asked for again takes its own place.
type pages map[cursorHash]page

type page struct {
	next   cursorHash // zero: the page was not asked for yet, or is the last one
	number int        // of pages before it
	before weight     // of the pages before it
	until  time.Time  // when it may be forgotten
}

// turn takes the page that begins at cursor and ends at next. again says that next
// leads back to the page, so that the list would never end. The error wraps
// [ErrTooLarge].
func (p pages) turn(cursor, next string, w weight, ttl time.Duration, most int, now time.Time) (again bool, err error) {
	if cursor == "" { // a listing begins, which is seldom enough to look through all
		for k, known := range p {
			if now.After(known.until) {
				delete(p, k)
			}
		}
	}
	this, to := cursorHash(sha256.Sum256([]byte(cursor))), cursorHash(sha256.Sum256([]byte(next)))
	here := p[this]
	here.until = now.Add(max(ttl, pageLasts))
	all := w.plus(here.before)
	if err := all.within(most, mostAnswers); err != nil {
		return false, fmt.Errorf("%w in all pages of the list", err)
	}
	if next == "" {
		here.next = cursorHash{}
		p[this] = here
		return false, nil
	}
	if here.number+1 >= mostPages {
		return false, tooLarge("the list has more than %d pages", mostPages)
	}
	if p.leads(to, this) {
		return true, nil
	}
	here.next = to
	p[this] = here
	// Another listing may have been at the next page: what follows it stays known.
	p[to] = page{next: p[to].next, number: here.number + 1, before: all, until: here.until}
	return false, nil
}

// leads reports whether the pages that are known lead from one to the other.
func (p pages) leads(from, to cursorHash) bool {
	for range 2 * mostPages {
		if from == to {
			return true
		}
		known, ok := p[from]
		if !ok || known.next == (cursorHash{}) {
			return false
		}
		from = known.next
	}
	return true // they lead in a circle of their own
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

// paged returns r, an answer on its way to the SDK, or what is to take its place. A
// list that leads back to an earlier page ends there, since the SDK would read on
// for ever. A list that is too long is an error that wraps [ErrTooLarge].
func (c *conn) paged(asked call, r *jsonrpc.Response, w weight) (*jsonrpc.Response, error) {
	switch asked.method {
	case methodListTools, "prompts/list", "resources/list", "resources/templates/list":
	default:
		return r, nil
	}
	// A map has the exact names, as the SDK reads them. In a struct encoding/json
	// takes a name in any case.
	var members map[string]json.RawMessage
	var next string
	if r.Error != nil || json.Unmarshal(r.Result, &members) != nil {
		return r, nil // no list
	}
	cursor, named := members["nextCursor"]
	if named && json.Unmarshal(cursor, &next) != nil {
		return r, nil // no list that the SDK can read
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
		c.log.Warn("the server's list leads back to an earlier page, and was ended there", "step", StepConnect.String(), "list", asked.method)
	case !named:
		return r, nil // the last page, as it came
	}
	// The page is written anew even if nothing changed: if a name comes twice, the
	// SDK may read another cursor than was looked at here.
	data, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	return &jsonrpc.Response{ID: r.ID, Result: data}, nil
}
