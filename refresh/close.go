package refresh

import (
	"context"
	"errors"
	"fmt"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Close waits for a refresh that is under way, which its own deadlines bound.
// It does not wait for the lock of a refresh that has sent nothing yet. Then it
// tries once more to save a grant that could not be saved; if that fails, the
// error wraps [ErrNotSaved]. A second call returns the first one's error.
// Afterwards Access yields the token that is held as long as it lives, and then
// [ErrClosed].
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	return s.finish()
}

// saveAtEnd saves an unsaved grant before its only copy is lost with the
// process. It takes the lock, since a refresh of another process or a logout
// may be under way.
func (s *Source) saveAtEnd() error {
	if s.held.Load().unsaved == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	err := s.cfg.Store.Update(ctx, s.cfg.Key, func(ctx context.Context, l *tokenstore.Locked) error {
		reading, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		h := s.held.Load()
		next, err := s.newest(h, func() (tokenstore.Record, error) { return l.Get(reading) })
		switch {
		case errors.Is(err, ErrLoginRequired):
			return nil // a logout meanwhile wins
		case err != nil:
			return err
		case next != h:
			return nil // somebody has signed in meanwhile, or a save that seemed to fail succeeded
		}
		saved, err := s.saveUnsaved(ctx, l, h)
		if err == nil {
			s.held.Store(saved.settled(clock.Now()))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSaved, err)
	}
	return nil
}
