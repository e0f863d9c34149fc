package tokenstore

import (
	"context"
	"errors"
	"time"
)

// update is Store.Update for all stores of this package. It calls f with entries
// while it holds the lock that acquire takes. If entries have a call under way
// that was given up, the lock is released when that call has returned, which may
// be after update has.
func update(ctx context.Context, acquire func(context.Context) (release func(), err error), entries Entries,

	f func(context.Context, *Locked) error,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	release, err := acquire(ctx)
	if err != nil {
		return err
	}
	l := NewLocked(entries)
	defer func() {
		l.End()
		if e, ok := entries.(interface{ idle() <-chan struct{} }); ok {
			select {
			case <-e.idle():
			default:
				go func() {
					<-e.idle()
					release()
				}()
				return
			}
		}
		release()
	}()
	return f(ctx, l)
}

// withLimit bounds the wait for key's lock. The wait for a sign-in has no limit,
// since its holder waits for a person.
func withLimit(ctx context.Context, key Key, limit time.Duration) (context.Context, context.CancelFunc) {
	if key.IsSignIn() {
		return context.WithCancel(ctx)
	}
	if limit <= 0 {
		limit = DefaultLockTimeout
	}
	return context.WithTimeoutCause(ctx, limit, errLimit)
}

var errLimit = errors.New("lock timeout")

// lockError returns the error of a wait that began at start and ended with ctx.
func lockError(ctx context.Context, start time.Time, holder string) error {
	e := &LockTimeoutError{Waited: time.Since(start), Holder: holder}
	switch {
	case context.Cause(ctx) == errLimit:
		return e
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Err = ctx.Err()
		return e
	}
	return ctx.Err()
}
