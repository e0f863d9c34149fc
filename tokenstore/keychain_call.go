package tokenstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/zalando/go-keyring"
)

// An itemStore is what a Keychain needs of go-keyring. Tests put others in its
// place.
type itemStore interface {
	Get(service, user string) (string, error)
	Set(service, user, password string) error
	Delete(service, user string) error
}

type osItems struct{}

func (osItems) Get(service, user string) (string, error) { return keyring.Get(service, user) }

func (osItems) Set(service, user, password string) error { return keyring.Set(service, user, password) }

func (osItems) Delete(service, user string) error { return keyring.Delete(service, user) }

func (s *keychainEntries) get(ctx context.Context, item string) (string, error) {
	return s.call(ctx, func(items itemStore) (string, error) { return items.Get(s.k.service(), item) })
}

func (s *keychainEntries) set(ctx context.Context, item, data string) error {
	_, err := s.call(ctx, func(items itemStore) (string, error) { return "", items.Set(s.k.service(), item, data) })
	return err
}

// delete treats a missing item as deleted: a crash may have come between the
// deletion and the step that notes it.
func (s *keychainEntries) delete(ctx context.Context, item string) error {
	_, err := s.call(ctx, func(items itemStore) (string, error) { return "", items.Delete(s.k.service(), item) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// call runs f, one call at a time, and gives it up at the deadline. go-keyring
// knows no contexts: its call goes on behind our back, and may write later. So
// the turn, and through s.last the lock of the record, end only when f returns.
// Otherwise a late write could replace what the next holder of the lock saves.
func (s *keychainEntries) call(ctx context.Context, f func(itemStore) (string, error)) (string, error) {
	// The limit includes the wait for the turn: a prompt that nobody answers keeps
	// every caller for one limit, not for one after the other.
	timeout := s.k.callTimeout()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	noAnswer := func() error {
		if context.Cause(ctx) == errNoAnswer {
			return fmt.Errorf("%w: the keychain has not answered for %v; it may be showing a prompt", ErrUnavailable, timeout)
		}
		return ctx.Err()
	}
	leave, ok := s.k.turn.Enter(ctx, "")
	if !ok {
		return "", noAnswer()
	}
	items := s.k.items
	if items == nil {
		items = osItems{}
	}
	var (
		data string
		err  error // like data, read only after done is closed: an abandoned call still writes it
		done = make(chan struct{})
	)
	// Set only with the turn in hand. A call that did not get the turn has begun
	// nothing that the lock would have to wait for.
	s.last = done
	go func() {
		defer close(done)
		defer leave()
		// go-keyring panics if D-Bus goes away while a prompt is open. This
		// goroutine would take the whole process with it.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: the keychain service went away: %v", ErrUnavailable, p)
			}
		}()
		for range 3 { // a passing error is worth two more tries
			data, err = f(items)
			if errors.Is(err, keyring.ErrNotFound) {
				err = ErrNotFound
			} else if err != nil {
				err = explain(err)
			}
			if !errors.As(err, new(passing)) {
				return
			}
		}
	}()
	select {
	case <-done:
		return data, err
	case <-ctx.Done():
		return "", noAnswer()
	}
}

// A passing error may not come again if the keychain is asked once more. explain
// knows which errors of a platform are.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

// errNoAnswer is the cause of a context that ended by callTimeout, not by its
// parent.
var errNoAnswer = errors.New("no answer")
