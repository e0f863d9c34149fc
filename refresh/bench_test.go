package refresh_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// BenchmarkFresh is what a fresh token costs, beside x/oauth2's source and
// beside the clock alone. ns/op is the time divided by the calls of all
// goroutines together.
func BenchmarkFresh(b *testing.B) {
	a, store := newAuthServer(b), new(tokenstore.Memory)
	g := a.issue(0)
	save(b, store, g)
	s := newSource(b, store)
	access(b, s)
	reuse := oauth2.ReuseTokenSource(&oauth2.Token{AccessToken: g.AccessToken.Reveal(), Expiry: g.ExpiresAt}, nil)
	ctx := b.Context()

	for _, c := range []struct {
		name string
		call func() bool
	}{
		{"Source", func() bool { a, err := s.Access(ctx); return a != nil && err == nil }},
		{"ReuseTokenSource", func() bool { t, err := reuse.Token(); return t != nil && err == nil }},
		{"time.Now", func() bool { return !time.Now().IsZero() }},
	} {
		for _, goroutines := range []int{1, 2, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", c.name, goroutines), func(b *testing.B) {
				b.ReportAllocs()
				var wg sync.WaitGroup
				for range goroutines {
					wg.Go(func() {
						for range (b.N + goroutines - 1) / goroutines {
							if !c.call() {
								b.Error("no token")
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func TestFreshTokenAllocatesNothing(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(0))
	s := newSource(t, store)
	access(t, s)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.Access(ctx) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
