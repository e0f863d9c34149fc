package tokenstore

import (
	"context"
	"time"
)

// grace is how long f may take to return after its context has ended.
const grace = time.Second

// bounded runs f, which knows no context and may hang in a file system that does
// not answer. Soon after ctx has ended it returns without f. If f returns later,
// late gets its results, to give back a lock for example; late may be nil.
func bounded[T any](ctx context.Context, f func() (T, error), late func(T, error)) (T, error) {
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
