package tokenstore

import (
	"context"
	"time"
)

// grace is what f has, when its context has ended, to return by itself.
const grace = time.Second

// under runs f, which may hang in a file system that does not answer and knows
// of no context: it is left behind soon after ctx has ended. What it yields
// later goes to late, if that is not nil.
func under[T any](ctx context.Context, f func() (T, error), late func(T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	wait := time.NewTimer(grace)
	defer wait.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-wait.C:
	}
	if late != nil {
		go func() {
			r := <-done
			late(r.value, r.err)
		}()
	}
	var none T
	return none, unavailable("the disk does not answer, or the pipe", ctx.Err())
}
