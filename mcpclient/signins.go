package mcpclient

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/refresh"
)

// signIns lets one sign-in of a client run at a time, for all calls that wait
// for it. A lock in the store keeps it apart from the sign-ins of other clients and
// processes, see [flow.underLock].
type signIns struct {
	*flow

	running sync.WaitGroup // every sign-in, also one that nobody waits for any more

	mu      sync.Mutex    // guards what follows, and the waiters of each sign-in
	current *sharedSignIn // that others may join; nil: none
	denied  *denial       // the last sign-in, if it failed
	closed  bool
}

// A sharedSignIn is one sign-in and all who wait for it.
type sharedSignIn struct {
	cancel  context.CancelCauseFunc
	waiters int // guarded by signIns.mu

	done   chan struct{}   // closed when the two results are there
	access *refresh.Access // to be read after done
	err    error           // to be read after done
}

// A denial is a sign-in that showed a page to a person and failed. For a while
// no other one is started unasked: a person who has closed the page does not want
// to see it again for the next call.
type denial struct {
	err   error
	until time.Time
}

const denialLasts = time.Minute

// join waits for the sign-in under way, or for a new one, and returns its outcome.
// want counts only for a new one. A caller who joins and needs more than the other
// sign-in yields is refused by the server once more, and comes again.
//
// A sign-in ends when its last waiter has gone: nobody would want its page.
func (s *signIns) join(ctx context.Context, want signInRequest) (*refresh.Access, error) {
	if err := ctx.Err(); err != nil {
		return nil, at(StepCallback, err)
	}
	shared, err := s.start(ctx, want)
	if err != nil {
		return nil, err
	}
	select {
	case <-shared.done:
		return shared.access, shared.err
	case <-ctx.Done():
		s.leave(shared, context.Cause(ctx))
		return nil, at(StepCallback, context.Cause(ctx))
	}
}

// start returns the sign-in under way, or a new one, with one more waiter.
func (s *signIns) start(ctx context.Context, want signInRequest) (*sharedSignIn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if d := s.denied; d != nil && want.login == nil {
		// A denial never lasts longer than a minute, also if the clock was set
		// back since.
		if left := d.until.Sub(clock.Now()); left > 0 && left <= denialLasts {
			return nil, d.err
		}
	}
	if s.current == nil {
		// The cancellation of this caller is not that of the others.
		running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		shared := &sharedSignIn{done: make(chan struct{}), cancel: cancel}
		s.current = shared
		s.running.Go(func() { s.run(running, shared, want) })
	}
	s.current.waiters++
	return s.current, nil
}

// leave takes one waiter away. The last one ends the sign-in, and the next caller
// starts another one.
func (s *signIns) leave(shared *sharedSignIn, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared.waiters--; shared.waiters > 0 {
		return
	}
	shared.cancel(cause)
	if s.current == shared {
		s.current = nil
	}
}

// run carries out a sign-in and tells all who wait for it.
func (s *signIns) run(ctx context.Context, shared *sharedSignIn, want signInRequest) {
	timed, cancel := context.WithTimeout(ctx, s.signInTimeout)
	defer cancel()
	access, shown, err := s.underLock(timed, want)
	// Whatever the cancellation by close has come to, the caller hears ErrClosed.
	if err != nil && errors.Is(context.Cause(ctx), ErrClosed) {
		err = ErrClosed
	}
	shared.access, shared.err = access, err
	s.mu.Lock()
	if s.current == shared { // otherwise nobody waits for it any more
		s.current, s.denied = nil, nil
		// timed may have ended: nobody came back from the page, which is a denial
		// too. The end of ctx is the caller's doing.
		if err != nil && shown && ctx.Err() == nil {
			s.denied = &denial{err, clock.Now().Add(denialLasts)}
		}
	}
	s.mu.Unlock()
	shared.cancel(nil)
	close(shared.done)
}

// forgive forgets a denial, since somebody begins anew.
func (s *signIns) forgive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = nil
}

// isClosed reports whether close was called.
func (s *signIns) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// close ends the sign-in under way, and lets no other one begin.
func (s *signIns) close() {
	s.mu.Lock()
	s.closed = true
	if s.current != nil {
		s.current.cancel(ErrClosed)
	}
	s.mu.Unlock()
	s.running.Wait()
}
