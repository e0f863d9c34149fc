package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// What is set for one transaction ends with it.
	beginWait = `select current_setting('idle_session_timeout'), current_setting('application_name'), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true)`
	takeLock  = `select pg_advisory_lock($1)`
	tryLock   = `select pg_try_advisory_lock($1)`
	dropLock  = `select pg_advisory_unlock($1)`
	dropLocks = `select pg_advisory_unlock_all()`
	readTune  = `select current_setting('idle_session_timeout'), current_setting('application_name')`
	tune      = `select set_config('idle_session_timeout', $1, false), set_config('application_name', $2, false)`

	whoHolds = `select a.application_name from pg_locks l join pg_stat_activity a using (pid)
		where l.locktype = 'advisory' and l.granted and l.objsubid = 1
		and l.database = (select oid from pg_database where datname = current_database())
		and l.classid::bigint = $1 and l.objid::bigint = $2`
)

// acquire takes the lock of key and reads its entries into x. The context that
// it returns lets an Update inside this one share its connection.
func (s *Store) acquire(ctx context.Context, key tokenstore.Key, x *lockedEntries) (inner context.Context, release func(), err error) {
	start := time.Now()
	wait, cancel := context.WithCancel(ctx)
	if !key.IsSignIn() {
		wait, cancel = context.WithTimeout(ctx, orDefault(s.LockTimeout, tokenstore.DefaultLockTimeout))
	}
	defer cancel()

	// One goroutine for each key waits in the database, the others here: a key
	// that everybody wants takes one connection.
	leave, ok := s.gate.Enter(wait, string(x.name))
	if !ok {
		return nil, nil, s.gaveUp(ctx, wait, start, x)
	}
	defer func() {
		if err != nil {
			leave()
		}
	}()

	if key.IsSignIn() {
		unlock, err := s.lockSignIn(wait, start, x)
		return ctx, func() { unlock(); leave() }, err
	}
	if outer, ok := ctx.Value(lockConnOf{s}).(*lockConn); ok {
		if err := outer.lock(ctx, wait, start, x); !errors.Is(err, errOver) {
			return ctx, func() { outer.unlock(x); leave() }, err
		}
	}
	s.slotsOnce.Do(func() { s.slots = make(chan struct{}, max(1, s.Pool.Config().MaxConns/2)) })
	select {
	case s.slots <- struct{}{}:
	case <-wait.Done():
		return nil, nil, s.gaveUp(ctx, wait, start, nil)
	}
	defer func() {
		if err != nil {
			<-s.slots
		}
	}()
	lc := &lockConn{store: s}
	if err := lc.lock(ctx, wait, start, x); err != nil {
		lc.end()
		return nil, nil, err
	}
	return context.WithValue(ctx, lockConnOf{s}, lc), func() { lc.end(); <-s.slots; leave() }, nil
}

// gaveUp says why the wait for x's lock, or for a connection where x is nil,
// has ended. It began at start and ends with wait, which is ctx with a limit.
func (s *Store) gaveUp(ctx, wait context.Context, start time.Time, x *lockedEntries) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &tokenstore.LockTimeoutError{Waited: time.Since(start), Holder: "this process, which holds as many locks as its pool allows"}
	if x != nil {
		e.Holder = s.holder(ctx, x)
	}
	if mine, ok := ctx.Deadline(); ok {
		if last, _ := wait.Deadline(); last.Equal(mine) {
			e.Err = context.DeadlineExceeded
		}
	}
	return e
}

// holder says who holds x's lock, "" where that cannot be known.
func (s *Store) holder(ctx context.Context, x *lockedEntries) (who string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	id := uint64(lockID(x.name))
	_ = s.do(ctx, "", func(ctx context.Context, c *pgx.Conn) error {
		var name *string // null where this role may not see it
		err := c.QueryRow(ctx, whoHolds, int64(id>>32), int64(id&0xffffffff)).Scan(&name)
		if name != nil {
			who = *name
		}
		return err
	})
	return who
}

// processName is the application_name of a session that holds locks.
var processName = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("process %d (%.20s) on %s", os.Getpid(), filepath.Base(os.Args[0]), host)
})

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}

func (s *Store) idleTimeout() time.Duration { return orDefault(s.IdleTimeout, defaultIdleTimeout) }

// A lockConn is a connection of the pool that holds the lock of an Update, and
// those of the Updates inside it.
type lockConn struct {
	store *Store

	mu      sync.Mutex
	conn    *pgxpool.Conn // nil: none yet, or gone
	tuned   bool
	idle    string // what the connection came with
	appName string
	held    []*lockedEntries
	over    bool
}

type lockConnOf struct{ *Store }

var errOver = fmt.Errorf("%w: the Update has returned", tokenstore.ErrUnavailable)

// lock takes x's lock and reads its entries. wait is ctx with a limit.
func (lc *lockConn) lock(ctx, wait context.Context, start time.Time, x *lockedEntries) error {
	lc.mu.Lock()
	defer lc.mu.Unlock()
	if lc.over {
		return errOver
	}
	// The database ends the wait, so that the connection outlives it; a
	// context that ends breaks its connection.
	deadline, _ := wait.Deadline()
	query, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(lc.store.callTimeout()))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	err := lc.onConn(query, func(ctx context.Context, c *pgx.Conn) error {
		if err := lc.take(ctx, c, lockID(x.name), time.Until(deadline)); err != nil {
			return err
		}
		var err error
		x.entries, err = x.load(ctx, c)
		return err
	})
	var refused *pgconn.PgError
	switch {
	case err == nil:
		x.conn = lc
		lc.held = append(lc.held, x)
		return nil
	case errors.As(err, &refused) && refused.Code == "55P03": // lock_not_available
		return lc.store.gaveUp(ctx, wait, start, x)
	}
	return fail(ctx, "lock", err)
}

// take waits for a lock. The three are one transaction: if there is no lock,
// the connection is as it was.
func (lc *lockConn) take(ctx context.Context, c *pgx.Conn, id int64, wait time.Duration) error {
	var b pgx.Batch
	b.Queue(beginWait, milliseconds(wait))
	b.Queue(takeLock, id)
	b.Queue(tune, milliseconds(lc.store.idleTimeout()), processName())
	results := c.SendBatch(ctx, &b)
	var idle, appName string
	err := results.QueryRow().Scan(&idle, &appName, nil, nil)
	for range 2 {
		if err == nil {
			_, err = results.Exec()
		}
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err == nil && !lc.tuned {
		lc.tuned, lc.idle, lc.appName = true, idle, appName
	}
	return err
}

// do implements [lockedEntries]'s conn.
func (lc *lockConn) do(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error {
	lc.mu.Lock()
	defer lc.mu.Unlock()
	if lc.over {
		return errOver
	}
	limited, cancel := context.WithTimeout(ctx, lc.store.callTimeout())
	defer cancel()
	return fail(ctx, what, lc.onConn(limited, f))
}

// onConn calls f with the connection and, while that turns out to be
// broken, with a new one.
func (lc *lockConn) onConn(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	for {
		if lc.conn == nil {
			c, err := lc.store.connect(ctx)
			if err != nil {
				return err
			}
			lc.conn, lc.tuned = c, false
		}
		c := lc.conn.Conn()
		err := error(nil)
		if !lc.tuned && len(lc.held) > 0 {
			err = lc.retake(ctx, c)
		}
		if err == nil {
			err = lc.store.use(ctx, c, f)
		}
		if err == nil || !c.IsClosed() {
			return err
		}
		lc.conn.Release() // destroys it
		lc.conn = nil
		if ctx.Err() != nil {
			return err
		}
	}
}

// retake takes on a new connection the locks that went with the last one. Who
// does not get one, or gets it after another, is told when he writes.
func (lc *lockConn) retake(ctx context.Context, c *pgx.Conn) error {
	if err := c.QueryRow(ctx, readTune).Scan(&lc.idle, &lc.appName); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, tune, milliseconds(lc.store.idleTimeout()), processName()); err != nil {
		return err
	}
	for _, x := range lc.held {
		var locked bool
		if err := c.QueryRow(ctx, tryLock, lockID(x.name)).Scan(&locked); err != nil {
			return err
		}
		version, err := x.version(ctx, c, tokenstore.EntryRecord)
		if err != nil {
			return err
		}
		known := x.entries[tokenstore.EntryRecord]
		if !locked || version != known.version && (known.tried == 0 || version != known.tried) {
			x.lost = true
		}
	}
	lc.tuned = true
	return nil
}

// unlock ends an Update inside another.
func (lc *lockConn) unlock(x *lockedEntries) {
	ctx, cancel := context.WithTimeout(context.Background(), lc.store.callTimeout())
	defer cancel()
	lc.mu.Lock()
	defer lc.mu.Unlock()
	lc.held = slices.DeleteFunc(lc.held, func(other *lockedEntries) bool { return other == x })
	if lc.conn == nil {
		return
	}
	if _, err := lc.conn.Exec(ctx, dropLock, lockID(x.name)); err != nil {
		_ = lc.conn.Conn().Close(ctx) // which frees it in any case
	}
}

// end gives the connection back as it was, or not at all.
func (lc *lockConn) end() {
	ctx, cancel := context.WithTimeout(context.Background(), lc.store.callTimeout())
	defer cancel()
	lc.mu.Lock()
	defer lc.mu.Unlock()
	lc.over = true
	if lc.conn == nil {
		return
	}
	if c := lc.conn.Conn(); lc.tuned && !c.IsClosed() {
		var b pgx.Batch
		b.Queue(dropLocks)
		b.Queue(tune, lc.idle, lc.appName)
		if err := c.SendBatch(ctx, &b).Close(); err != nil {
			_ = c.Close(ctx)
		}
	}
	lc.conn.Release()
	lc.conn = nil
}

// lockID is the advisory lock of a name. That two names share one is as likely
// as a lightning strike, and would only make one wait for the other.
func lockID(name []byte) int64 { return int64(binary.BigEndian.Uint64(name)) }
