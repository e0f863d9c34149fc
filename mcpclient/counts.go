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
	tries map[string]tries
}

type tries struct {
	count      int
	generation string // of the last token that did not suffice
}

// try counts one more, unless it is about the same token as the last one:
// those who are refused at once share a sign-in.
func (u *stepUps) try(operation, generation string, most int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tries == nil || len(u.tries) > 1000 { // names come from the caller, not from the server
		u.tries = make(map[string]tries)
	}
	t := u.tries[operation]
	if t.generation != generation {
		t = tries{t.count + 1, generation}
		u.tries[operation] = t
	}
	return t.count <= most
}

func (u *stepUps) succeed(operation string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.tries, operation)
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
