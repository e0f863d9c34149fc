package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/gate"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	defaultIdleTimeout = 40 * time.Second // a refresh's request has 30 s
	defaultCallTimeout = 5 * time.Second
)

// Store keeps records in a PostgreSQL database whose table [Migrate] has made.
// Pool and Keys are required; the other fields may be zero. A process needs one
// Store. It must not be copied or changed after first use.
type Store struct {
	// Pool is closed by the caller. It needs at least two connections, and should
	// not be shared with code that keeps connections for long.
	Pool *pgxpool.Pool

	// Keys seal the records, each with [KeySize] random bytes. All replicas have
	// the same keys. The first key seals and all of them open; see "Keys" in the
	// package documentation for rotation.
	Keys []tokenstore.Secret

	// LockTimeout bounds how long Update waits for its lock. If 0,
	// [tokenstore.DefaultLockTimeout].
	LockTimeout time.Duration

	// IdleTimeout is how long the holder of a lock may send nothing to the
	// database before the server takes the lock away. It should be a little
	// longer than the longest request that is made with the lock held. If 0,
	// 40 s, for the 30 s of a refresh.
	IdleTimeout time.Duration

	// CallTimeout bounds each call to the database. It also bounds the wait for a
	// connection of the pool while the database answers no other call of this
	// Store. While it does answer others, a call waits for its turn, at most
	// LockTimeout and CallTimeout together. If 0, 5 s.
	CallTimeout time.Duration

	nameKey atomic.Pointer[[]byte]
	gate    gate.Gate
	answers atomic.Uint64 // how many calls the database has answered

	slotsOnce sync.Once
	slots     chan struct{} // holds an element for each lockConn; its capacity is half of the pool

	signInMu sync.Mutex
	signIn   *signInConn // nil: nobody signs in
}

var _ tokenstore.Store = (*Store)(nil)

// Get implements [tokenstore.Store].
func (s *Store) Get(ctx context.Context, key tokenstore.Key) (tokenstore.Record, error) {
	keys, name, err := s.prepare(ctx, key)
	if err != nil {
		return tokenstore.Record{}, err
	}
	var sealed []byte
	err = s.do(ctx, "read the record", func(ctx context.Context, c *pgx.Conn) error {
		err := c.QueryRow(ctx, selectSealed, name, tokenstore.EntryRecord).Scan(&sealed)
		if errors.Is(err, pgx.ErrNoRows) {
			return tokenstore.ErrNotFound
		}
		return err
	})
	if err != nil {
		return tokenstore.Record{}, err
	}
	data, _, err := keys.open(name, tokenstore.EntryRecord, sealed)
	if err != nil {
		return tokenstore.Record{}, err
	}
	return tokenstore.DecodeRecord(data)
}

// Update implements [tokenstore.Store].
func (s *Store) Update(ctx context.Context, key tokenstore.Key, f func(context.Context, *tokenstore.Locked) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	keys, name, err := s.prepare(ctx, key)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &tokenstore.LockTimeoutError{Waited: time.Since(start), Err: context.DeadlineExceeded}
	}
	if err != nil {
		return err
	}
	x := &lockedEntries{store: s, keys: keys, name: name}
	inner, release, err := s.acquire(ctx, key, x)
	if err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.postgres.locked")
	l := tokenstore.NewLocked(x)
	defer func() {
		l.End()
		crashpoint.Hit("tokenstore.postgres.unlocking")
		release()
		crashpoint.Hit("tokenstore.postgres.unlocked")
	}()
	return f(inner, l)
}

// Delete implements [tokenstore.Store].
func (s *Store) Delete(ctx context.Context, key tokenstore.Key) error {
	return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error { return l.Delete(ctx) })
}

// prepare returns the keys and the name of key's rows, or why nothing can be read.
func (s *Store) prepare(ctx context.Context, key tokenstore.Key) (keys sealingKeys, name []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if s.Pool == nil {
		return nil, nil, fmt.Errorf("%w: Store without a Pool", tokenstore.ErrUnavailable)
	}
	if keys, err = newSealingKeys(s.Keys); err != nil {
		return nil, nil, err
	}
	name, err = s.nameOf(ctx, keys, key)
	return keys, name, err
}

// do calls f with a connection of the pool. If that turns out to be broken, as all
// are after a restart of the server, it calls f again with another one.
func (s *Store) do(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error {
	c, err := s.connect(ctx)
	limited, cancel := context.WithTimeout(ctx, s.callTimeout())
	defer cancel()
	for {
		if err != nil {
			return fail(ctx, "connect", err)
		}
		err = s.use(limited, c.Conn(), f)
		broken := err != nil && c.Conn().IsClosed()
		c.Release()
		if !broken || limited.Err() != nil {
			return fail(ctx, what, err)
		}
		c, err = s.Pool.Acquire(limited)
	}
}

// use calls f, and counts the call if the database has answered.
func (s *Store) use(ctx context.Context, c *pgx.Conn, f func(context.Context, *pgx.Conn) error) error {
	err := f(ctx, c)
	if !c.IsClosed() {
		s.answers.Add(1)
	}
	return err
}

// connect waits for a connection of the pool, which serves callers in order. A
// wait may be long for two reasons: many callers are served before this one, or
// the database is down. In the first case other calls get answers. So the wait
// ends when callTimeout passes without an answer to any call.
func (s *Store) connect(ctx context.Context) (*pgxpool.Conn, error) {
	limit := s.callTimeout()
	wait, cancel := context.WithTimeout(ctx, orDefault(s.LockTimeout, tokenstore.DefaultLockTimeout)+limit)
	defer cancel()
	seen := s.answers.Load()
	defer time.AfterFunc(limit, func() {
		for now := s.answers.Load(); now != seen && wait.Err() == nil; now = s.answers.Load() {
			seen = now
			select {
			case <-wait.Done():
			case <-time.After(limit):
			}
		}
		cancel()
	}).Stop()
	c, err := s.Pool.Acquire(wait)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		err = context.DeadlineExceeded
	}
	return c, err
}

func (s *Store) callTimeout() time.Duration { return orDefault(s.CallTimeout, defaultCallTimeout) }

// fail wraps an error of pgx in this module's types. pgx shows no parameters in
// its errors, so no secret.
func fail(ctx context.Context, what string, err error) error {
	var refused *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrCorrupt), errors.Is(err, tokenstore.ErrUnavailable):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused) && refused.Code == "42P01": // undefined_table
		return fmt.Errorf("%w: %s: the table is not there, Migrate makes it: %w", tokenstore.ErrUnavailable, what, err)
	}
	return fmt.Errorf("%w: %s: %w", tokenstore.ErrUnavailable, what, err)
}

func orDefault(d, or time.Duration) time.Duration {
	if d <= 0 {
		return or
	}
	return d
}
