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
	r, name, err := s.prepare(ctx, key)
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
	data, _, err := r.open(name, tokenstore.EntryRecord, sealed)
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
	r, name, err := s.prepare(ctx, key)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &tokenstore.LockTimeoutError{Waited: time.Since(start), Err: context.DeadlineExceeded}
	}
	if err != nil {
		return err
	}
	x := &section{store: s, ring: r, name: name}
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
func (s *Store) prepare(ctx context.Context, key tokenstore.Key) (r ring, name []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if s.Pool == nil {
		return nil, nil, fmt.Errorf("%w: Store without a Pool", tokenstore.ErrUnavailable)
	}
	if r, err = newRing(s.Keys); err != nil {
		return nil, nil, err
	}
	name, err = s.nameOf(ctx, r, key)
	return r, name, err
}

// A section is one key's entries while its lock is held.
type section struct {
	store *Store
	ring  ring
	name  []byte
	conn  interface {
		// do calls f with a connection, and with another one if that turns
		// out to be broken.
		do(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error
	}

	// As they were when the lock was taken, and as written since: while it is
	// held nobody else changes them.
	entries [2]entry

	// The lock went with its connection, and then somebody else had it.
	lost bool
}

type entry struct {
	version int64 // 0: there is none
	sealed  []byte
	// tried is the version of a write whose outcome is not known.
	tried int64
}

var errLost = fmt.Errorf("%w: the connection that held the lock is gone, and another has taken the lock since", tokenstore.ErrUnavailable)

// load reads the entries. It is a statement of its own after the lock was
// given: what is read is what the last holder left, at any isolation level.
func (x *section) load(ctx context.Context, c *pgx.Conn) (entries [2]entry, err error) {
	rows, err := c.Query(ctx, selectAll, x.name)
	if err != nil {
		return entries, err
	}
	var (
		e int
		r entry
	)
	_, err = pgx.ForEachRow(rows, []any{&e, &r.version, &r.sealed}, func() error {
		if e >= 0 && e < len(entries) {
			entries[e] = entry{version: r.version, sealed: append([]byte(nil), r.sealed...)}
		}
		return nil
	})
	return entries, err
}

func (x *section) Read(ctx context.Context, e tokenstore.Entry) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if x.entries[e].version == 0 {
		return nil, tokenstore.ErrNotFound
	}
	data, _, err := x.ring.open(x.name, e, x.entries[e].sealed)
	return data, err
}

func (x *section) Write(ctx context.Context, e tokenstore.Entry, data []byte) error {
	sealed := x.ring.seal(x.name, e, data)
	crashpoint.Hit("tokenstore.postgres.sealed")
	err := x.replace(ctx, e, "save the "+e.String(), sealed)
	if err == nil {
		crashpoint.Hit("tokenstore.postgres.written")
	}
	return err
}

func (x *section) Remove(ctx context.Context, e tokenstore.Entry) error {
	if x.entries[e].version == 0 && x.entries[e].tried == 0 {
		return ctx.Err()
	}
	err := x.replace(ctx, e, "remove the "+e.String(), nil)
	if err == nil {
		crashpoint.Hit("tokenstore.postgres.removed")
	}
	return err
}

// replace writes, or with sealed nil removes, an entry whose version is still
// the one known here.
func (x *section) replace(ctx context.Context, e tokenstore.Entry, what string, sealed []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	next := int64(0)
	if sealed != nil {
		next = newVersion()
	}
	return x.conn.do(ctx, what, func(ctx context.Context, c *pgx.Conn) error {
		// A mark announces what will be sent, and so needs the lock. A record
		// holds what has come back, and only needs to replace what it is from.
		if x.lost && e == tokenstore.EntryMark {
			return errLost
		}
		now := &x.entries[e]
		if now.tried != 0 {
			// Which of the two is there tells whether the last write came through.
			version, err := x.version(ctx, c, e)
			if err != nil {
				return err
			}
			if version == now.tried {
				now.version = version
			}
			now.tried = 0
		}
		var done pgconn.CommandTag
		var err error
		now.tried = next
		switch {
		case sealed == nil:
			done, err = c.Exec(ctx, deleteSealed, x.name, e, now.version)
		case now.version == 0:
			done, err = c.Exec(ctx, insertSealed, x.name, e, next, sealed)
		default:
			done, err = c.Exec(ctx, updateSealed, x.name, e, next, sealed, now.version)
		}
		if err != nil {
			return err
		}
		now.tried = 0
		if done.RowsAffected() == 0 {
			// Gone by another's hand, or by an earlier attempt of our own.
			if version, err := x.version(ctx, c, e); err != nil || sealed != nil || version != 0 {
				return errors.Join(errLost, err)
			}
		}
		*now = entry{version: next, sealed: sealed}
		return nil
	})
}

// version returns the version of an entry in the table, 0 if it is not there.
func (x *section) version(ctx context.Context, c *pgx.Conn, e tokenstore.Entry) (int64, error) {
	entries, err := x.load(ctx, c)
	return entries[e].version, err
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
