// Package gate is a mutex per name whose wait ends with a context. It stands in
// front of the locks between processes, which do not keep the goroutines of one
// process apart.
package gate

import (
	"context"
	"sync"
)

// A Gate admits one goroutine per name. The zero Gate is ready to use. Safe for
// concurrent use.
type Gate struct {
	mu    sync.Mutex
	slots map[string]*slot
}

type slot struct {
	token chan struct{} // full while somebody is inside
	users int           // goroutines inside or waiting; the slot goes with the last one
}

// Enter waits until no other goroutine is inside under this name. The caller must
// call leave, once. If ctx ends first, ok is false and leave is nil.
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
