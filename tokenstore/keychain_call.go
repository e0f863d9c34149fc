package tokenstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/zalando/go-keyring"
)

// An itemStore is what a Keychain needs of go-keyring.
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

func (s *keychainEntries) delete(ctx context.Context, item string) error {
	_, err := s.call(ctx, func(items itemStore) (string, error) { return "", items.Delete(s.k.service(), item) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// call runs f in its turn and gives it up at the deadline, which go-keyring
// knows nothing of. The turn, and by s.last the lock, end only when f returns.
func (s *keychainEntries) call(ctx context.Context, f func(itemStore) (string, error)) (string, error) {
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
		err  error
		done = make(chan struct{})
	)
	s.last = done
	go func() {
		defer close(done)
		defer leave()
		// go-keyring panics when the bus goes away under an open prompt.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: the keychain service went away: %v", ErrUnavailable, p)
			}
		}()
		for range 3 {
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

// A passing error may be gone when the keychain is asked again.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

var errNoAnswer = errors.New("no answer")
