package mcpclient

import (
	"errors"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// An attempt is what conn knows of one run of the SDK's Connect: it asks for
// server/discover, and where that fails for initialize.
type attempt struct {
	latch latch // of the sign-ins that both requests may want

	mu        sync.Mutex // guards what follows
	ended     bool
	forbidden error // server/discover was answered 403: reported if initialize fails too
	postponed error // server/discover was answered with Retry-After: returned for initialize, which is not sent
}

// end ends the attempt. It returns the error for server/discover if that was
// forbidden. The SDK went on to initialize then, and has only the error of that,
// which says less about the reason.
func (a *attempt) end() (forbidden error) {
	a.latch.release()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	return a.forbidden
}

func (a *attempt) running() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.ended
}

func (a *attempt) forbid(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forbidden = err
}

// postpone remembers err, that of server/discover, if the server has asked to
// come again later. The SDK would send initialize at once.
func (a *attempt) postpone(err error) {
	if answer := new(AnswerError); errors.As(err, &answer) && answer.RetryAfter > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.postponed = err
	}
}

func (a *attempt) mustWait() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.postponed
}

// givenUp holds calls that were cancelled before they were sent, or after they
// were refused, until the SDK sends its notice. The server gets no such notice.
type givenUp struct {
	mu    sync.Mutex // guards calls
	calls map[jsonrpc.ID]bool
}

func (g *givenUp) add(id jsonrpc.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == nil {
		g.calls = make(map[jsonrpc.ID]bool)
	}
	g.calls[id] = true
}

func (g *givenUp) take(id jsonrpc.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.calls[id]
	delete(g.calls, id)
	return found
}
