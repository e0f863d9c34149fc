// Package gate keeps goroutines of one process apart by name, in front of the
// locks that keep processes apart.
package gate

import (
	"context"
	"sync"
)

// A Gate admits one goroutine per name. The zero Gate is ready to use. Unlike
// a mutex's, its wait ends with a context.
type Gate struct {
	mu    sync.Mutex
	slots map[string]*slot
}

type slot struct {
	token chan struct{} // full while somebody is inside
	users int           // inside or waiting
}

// Enter waits until nobody else is inside; it returns false when ctx ends
// first. The caller calls leave once.
func (g *Gate) Enter(ctx context.Context, name string) (leave func(), ok bool) {
	g.mu.Lock()
	if g.slots == nil {
		g.slots = make(map[string]*slot)
	}
	s := g.slots[name]
	if s == nil {
		s = &slot{token: make(chan struct{}, 1)}
		g.slots[name] = s
	}
	s.users++
	g.mu.Unlock()

	forget := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(g.slots, name)
		}
	}
	if ctx.Err() == nil {
		select {
		case s.token <- struct{}{}:
			return func() { <-s.token; forget() }, true
		case <-ctx.Done():
		}
	}
	forget()
	return nil, false
}
