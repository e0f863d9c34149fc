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
// Pool and Keys are required, and the zero value of the rest is right. One
// Store serves a process; it must not be copied or changed after first use.
type Store struct {
	// Pool is the caller's, who closes it. It needs two connections at least,
	// and is best not shared with code that keeps connections for long.
	Pool *pgxpool.Pool

	// Keys seal what is stored: each of [KeySize] random bytes, all replicas'
	// the same. The first seals, all open; see the package documentation for
	// rotation.
	Keys []tokenstore.Secret

	// LockTimeout bounds an Update's wait; 0: [tokenstore.DefaultLockTimeout].
	LockTimeout time.Duration

	// IdleTimeout is how long who holds a lock may leave the database without
	// a word before the server takes it away: a little above the longest
	// request made under it. 0: 40 s, for the 30 s of a refresh.
	IdleTimeout time.Duration

	// CallTimeout bounds each call to the database, and a wait for a
	// connection in which no other call of this Store is answered; 0: 5 s.
	// Behind calls that are answered, a call waits for its turn, LockTimeout
	// and CallTimeout together at most. A save whose connection has gone has
	// CallTimeout for another one too, since others wait for its lock.
	CallTimeout time.Duration

	nameKey atomic.Pointer[[]byte]
	gate    gate.Gate
	answers atomic.Uint64 // that calls have got

	slotsOnce sync.Once
	slots     chan struct{} // half of the pool; full: none is free

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

// prepare is what comes before everything else.
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

// do calls f with a connection from the pool. After a restart of the server
// the pool holds broken ones; they are passed over.
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

// use calls f, and counts whether the database has answered.
func (s *Store) use(ctx context.Context, c *pgx.Conn, f func(context.Context, *pgx.Conn) error) error {
	err := f(ctx, c)
	if !c.IsClosed() {
		s.answers.Add(1)
	}
	return err
}

// connect waits for a connection of the pool. A busy pool gives them in the
// order in which they were asked for; one that gives none, and whose other
// calls get no answers either, has no database.
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

// fail gives an error of pgx, which shows no parameters, this module's types.
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
