package postgres

import (
	"context"
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
func (s *Store) acquire(ctx context.Context, key tokenstore.Key, x *section) (inner context.Context, release func(), err error) {
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
	if outer, ok := ctx.Value(sessionOf{s}).(*session); ok {
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
	y := &session{store: s}
	if err := y.lock(ctx, wait, start, x); err != nil {
		y.end()
		return nil, nil, err
	}
	return context.WithValue(ctx, sessionOf{s}, y), func() { y.end(); <-s.slots; leave() }, nil
}

// gaveUp says why the wait for x's lock, or for a connection where x is nil,
// has ended. It began at start and ends with wait, which is ctx with a limit.
func (s *Store) gaveUp(ctx, wait context.Context, start time.Time, x *section) error {
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
func (s *Store) holder(ctx context.Context, x *section) (who string) {
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

// A session is a connection of the pool that holds the lock of an Update, and
// those of the Updates inside it.
type session struct {
	store *Store

	mu       sync.Mutex
	conn     *pgxpool.Conn // nil: none yet, or gone
	tuned    bool
	idle     string // what the connection came with
	appName  string
	sections []*section
	over     bool
}

type sessionOf struct{ *Store }

var errOver = fmt.Errorf("%w: the Update has returned", tokenstore.ErrUnavailable)

// lock takes x's lock and reads its entries. wait is ctx with a limit.
func (y *session) lock(ctx, wait context.Context, start time.Time, x *section) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.over {
		return errOver
	}
	// The database ends the wait, so that the connection outlives it; a
	// context that ends breaks its connection.
	deadline, _ := wait.Deadline()
	query, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(y.store.callTimeout()))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	err := y.onConn(query, func(ctx context.Context, c *pgx.Conn) error {
		if err := y.take(ctx, c, lockID(x.name), time.Until(deadline)); err != nil {
			return err
		}
		var err error
		x.entries, err = x.load(ctx, c)
		return err
	})
	var refused *pgconn.PgError
	switch {
	case err == nil:
		x.conn = y
		y.sections = append(y.sections, x)
		return nil
	case errors.As(err, &refused) && refused.Code == "55P03": // lock_not_available
		return y.store.gaveUp(ctx, wait, start, x)
	}
	return fail(ctx, "lock", err)
}

// take waits for a lock. The three are one transaction: if there is no lock,
// the connection is as it was.
func (y *session) take(ctx context.Context, c *pgx.Conn, id int64, wait time.Duration) error {
	var b pgx.Batch
	b.Queue(beginWait, milliseconds(wait))
	b.Queue(takeLock, id)
	b.Queue(tune, milliseconds(y.store.idleTimeout()), processName())
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
	if err == nil && !y.tuned {
		y.tuned, y.idle, y.appName = true, idle, appName
	}
	return err
}

// do implements [section]'s conn.
func (y *session) do(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.over {
		return errOver
	}
	limited, cancel := context.WithTimeout(ctx, y.store.callTimeout())
	defer cancel()
	return fail(ctx, what, y.onConn(limited, f))
}

// onConn calls f with the session's connection and, while that turns out to be
// broken, with a new one.
func (y *session) onConn(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	for {
		if y.conn == nil {
			c, err := y.store.connect(ctx)
			if err != nil {
				return err
			}
			y.conn, y.tuned = c, false
		}
		c := y.conn.Conn()
		err := error(nil)
		if !y.tuned && len(y.sections) > 0 {
			err = y.retake(ctx, c)
		}
		if err == nil {
			err = y.store.use(ctx, c, f)
		}
		if err == nil || !c.IsClosed() {
			return err
		}
		y.conn.Release() // destroys it
		y.conn = nil
		if ctx.Err() != nil {
			return err
		}
	}
}

// retake takes on a new connection the locks that went with the last one. Who
// does not get one, or gets it after another, is told when he writes.
func (y *session) retake(ctx context.Context, c *pgx.Conn) error {
	if err := c.QueryRow(ctx, readTune).Scan(&y.idle, &y.appName); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, tune, milliseconds(y.store.idleTimeout()), processName()); err != nil {
		return err
	}
	for _, x := range y.sections {
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
	y.tuned = true
	return nil
}

// unlock ends an Update inside another.
func (y *session) unlock(x *section) {
	ctx, cancel := context.WithTimeout(context.Background(), y.store.callTimeout())
	defer cancel()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.sections = slices.DeleteFunc(y.sections, func(other *section) bool { return other == x })
	if y.conn == nil {
		return
	}
	if _, err := y.conn.Exec(ctx, dropLock, lockID(x.name)); err != nil {
		_ = y.conn.Conn().Close(ctx) // which frees it in any case
	}
}

// end gives the connection back as it was, or not at all.
func (y *session) end() {
	ctx, cancel := context.WithTimeout(context.Background(), y.store.callTimeout())
	defer cancel()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.over = true
	if y.conn == nil {
		return
	}
	if c := y.conn.Conn(); y.tuned && !c.IsClosed() {
		var b pgx.Batch
		b.Queue(dropLocks)
		b.Queue(tune, y.idle, y.appName)
		if err := c.SendBatch(ctx, &b).Close(); err != nil {
			_ = c.Close(ctx)
		}
	}
	y.conn.Release()
	y.conn = nil
}

// A signInConn holds the sign-in locks of this process. It is beside the pool,
// and says a word to the database from time to time: who signs in may take
// longer than the idle timeout, unless the whole process stands still.
type signInConn struct {
	store *Store
	users int // who hold a lock or wait for one; under store.signInMu
	stop  context.CancelFunc

	mu   sync.Mutex
	conn *pgx.Conn
}

// How often a sign-in lock that another process has is tried again. Waiting in
// the database would keep the shared connection from everybody else.
const (
	firstTry = 20 * time.Millisecond
	lastTry  = 500 * time.Millisecond
)

func (s *Store) lockSignIn(ctx context.Context, start time.Time, x *section) (release func(), err error) {
	id := lockID(x.name)
	c, err := s.joinSignIn(ctx)
	if err != nil {
		return nil, err
	}
	for delay := firstTry; ; delay = min(delay*3/2, lastTry) {
		var locked bool
		err := c.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, tryLock, id).Scan(&locked)
		})
		if err != nil && c.broken() {
			c.leave()
			if c, err = s.joinSignIn(ctx); err != nil {
				return nil, err
			}
			if ctx.Err() != nil {
				c.leave()
				return nil, s.gaveUp(ctx, ctx, start, x)
			}
			continue
		}
		if locked {
			release = func() {
				_ = c.do(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
					_, err := conn.Exec(ctx, dropLock, id)
					return err
				})
				c.leave()
			}
			x.conn = s
			err = s.do(ctx, "read the entries", func(ctx context.Context, conn *pgx.Conn) (err error) {
				x.entries, err = x.load(ctx, conn)
				return err
			})
			if err != nil {
				release()
			}
			return release, err
		}
		if err != nil {
			c.leave()
			return nil, fail(ctx, "lock", err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			c.leave()
			return nil, s.gaveUp(ctx, ctx, start, x)
		}
	}
}

// signInTurn is the turn to look after the connection for sign-ins. It is no
// entry's name.
const signInTurn = "sign-in"

// joinSignIn returns the connection for sign-ins, and opens it for the first.
func (s *Store) joinSignIn(ctx context.Context) (*signInConn, error) {
	limited, cancel := context.WithTimeout(ctx, s.callTimeout())
	defer cancel()
	leave, ok := s.gate.Enter(limited, signInTurn)
	if !ok {
		return nil, fail(ctx, "connect for a sign-in", limited.Err())
	}
	defer leave()
	s.signInMu.Lock()
	old := s.signIn
	if old != nil {
		old.users++
	}
	s.signInMu.Unlock()
	if old != nil {
		if !old.broken() {
			return old, nil
		}
		old.leave()
	}
	var conn *pgx.Conn
	for {
		pooled, err := s.Pool.Acquire(limited)
		if err != nil {
			return nil, fail(ctx, "connect for a sign-in", err)
		}
		conn = pooled.Hijack()
		if _, err = conn.Exec(limited, tune, milliseconds(s.idleTimeout()), processName()); err == nil {
			break
		}
		broken := conn.IsClosed()
		_ = conn.Close(limited)
		if !broken || limited.Err() != nil {
			return nil, fail(ctx, "connect for a sign-in", err)
		}
	}
	c := &signInConn{store: s, users: 1, conn: conn}
	alive, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.keepAlive(alive)
	s.signInMu.Lock()
	s.signIn = c
	s.signInMu.Unlock()
	return c, nil
}

func (c *signInConn) leave() {
	c.store.signInMu.Lock()
	c.users--
	last := c.users == 0
	if last && c.store.signIn == c {
		c.store.signIn = nil
	}
	c.store.signInMu.Unlock()
	if !last {
		return
	}
	c.stop()
	_ = c.do(context.Background(), func(ctx context.Context, conn *pgx.Conn) error { return conn.Close(ctx) })
}

// do calls f with the connection, and a context that no caller ends: the
// connection, which is everybody's, would break.
func (c *signInConn) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.store.callTimeout())
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	return f(ctx, c.conn)
}

func (c *signInConn) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.IsClosed()
}

func (c *signInConn) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(max(time.Millisecond, c.store.idleTimeout()/3))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = c.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
		case <-ctx.Done():
			return
		}
	}
}
