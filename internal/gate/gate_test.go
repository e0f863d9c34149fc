package gate

import (
	"context"
	"sync"
	"testing"
)

func TestOneForEachName(t *testing.T) {
	var g Gate
	var wg sync.WaitGroup
	inside := map[string]*int{"a": new(int), "b": new(int)} // the race detector looks on
	for range 50 {
		for name, n := range inside {
			wg.Go(func() {
				leave, ok := g.Enter(t.Context(), name)
				if !ok {
					t.Error("not admitted")
					return
				}
				defer leave()
				if *n++; *n != 1 {
					t.Errorf("%d are inside %s", *n, name)
				}
				*n--
			})
		}
	}
	wg.Wait()
	if len(g.slots) != 0 {
		t.Errorf("%d names are remembered for nobody", len(g.slots))
	}
}

func TestNamesDoNotWaitForEachOther(t *testing.T) {
	var g Gate
	leaveA, _ := g.Enter(t.Context(), "a")
	defer leaveA()
	leaveB, ok := g.Enter(t.Context(), "b") // or it would wait for ever
	if !ok {
		t.Fatal("not admitted")
	}
	leaveB()
}

func TestWaitEndsWithTheContext(t *testing.T) {
	var g Gate
	leave, _ := g.Enter(t.Context(), "a")
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan bool)
	go func() {
		_, ok := g.Enter(ctx, "a")
		gaveUp <- !ok
	}()
	cancel()
	if !<-gaveUp {
		t.Error("two are inside")
	}
	if _, ok := g.Enter(ctx, "b"); ok {
		t.Error("admitted with a context that has ended")
	}
	leave()
	leave, ok := g.Enter(t.Context(), "a")
	if !ok {
		t.Fatal("who gave up left the gate shut")
	}
	leave()
	if len(g.slots) != 0 {
		t.Errorf("%d names are remembered for nobody", len(g.slots))
	}
}
