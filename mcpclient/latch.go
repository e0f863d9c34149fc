package mcpclient

import (
	"context"
	"sync"
)

// A latch holds the first failure of a sign-in within one connection attempt.
// The SDK asks twice, with server/discover and then with initialize, and a person
// who has refused the first is not asked again. A nil latch holds nothing. Safe
// for concurrent use.
type latch struct {
	mu       sync.Mutex // guards what follows
	released bool
	err      error
}

func (l *latch) get() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// set keeps the error of a sign-in. An error that comes from the end of the caller's
// own ctx says nothing about the sign-in, and is not kept.
func (l *latch) set(ctx context.Context, err error) {
	if l == nil || ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.released && l.err == nil {
		l.err = err
	}
}

// release ends the attempt: every later call may try for itself.
func (l *latch) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released, l.err = true, nil
}
