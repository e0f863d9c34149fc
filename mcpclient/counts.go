package mcpclient

import (
	"context"
	"sync"
	"time"
)

// stepUps counts the sign-ins for more scopes of each operation since it last
// succeeded. The zero value is ready. Safe for concurrent use.
type stepUps struct {
	mu    sync.Mutex
	count map[string]int
}

func (u *stepUps) try(operation string, most int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count == nil || len(u.count) > 1000 { // names come from the caller, not from the server
		u.count = make(map[string]int)
	}
	u.count[operation]++
	return u.count[operation] <= most
}

func (u *stepUps) succeed(operation string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.count, operation)
}

// A latch holds the first failure of a sign-in within one connection attempt:
// the SDK asks twice, with server/discover and then with initialize. A nil
// latch holds nothing. Safe for concurrent use.
type latch struct {
	mu   sync.Mutex
	open bool
	err  error
}

func (l *latch) get() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *latch) set(ctx context.Context, err error) {
	if l == nil || ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open && l.err == nil {
		l.err = err
	}
}

// release lets every later call try for itself.
func (l *latch) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.err = true, nil
}

// A denial is a sign-in that showed a page to a person and failed. For a
// while no other one is started unasked.
type denial struct {
	err   error
	until time.Time
}

const denialLasts = time.Minute
