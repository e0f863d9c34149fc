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
	// The three true arguments make settings of this transaction only. lock_timeout
	// bounds the wait for takeLock, and statement_timeout would end it earlier.
	beginWait = `select current_setting('idle_session_timeout'), current_setting('application_name'), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true)`
	takeLock  = `select pg_advisory_lock($1)`
	tryLock   = `select pg_try_advisory_lock($1)`
	dropLock  = `select pg_advisory_unlock($1)`
	dropLocks = `select pg_advisory_unlock_all()`
	readTune  = `select current_setting('idle_session_timeout'), current_setting('application_name')`
	tune      = `select set_config('idle_session_timeout', $1, false), set_config('application_name', $2, false)`

	// whoHolds finds the name of the session that holds an advisory lock. pg_locks
	// shows the 64 bits of such a lock as classid and objid, with an objsubid of 1.
	// Locks of other databases of the server may have these bits too.
	whoHolds = `select a.application_name from pg_locks l join pg_stat_activity a using (pid)
		where l.locktype = 'advisory' and l.granted and l.objsubid = 1
		and l.database = (select oid from pg_database where datname = current_database())
		and l.classid::bigint = $1 and l.objid::bigint = $2`
)

// acquire takes the lock of key and reads its entries into x. An Update that is
// called with the context that it returns shares the connection.
//
// It waits for up to three things, in this order: the other goroutines of this
// process that want the key; one of the slots, each of which allows a connection
// of the pool to hold locks; and the lock in the database. release gives them
// back in the opposite order. A holder of a lock needs no second
// connection, so holders never wait for each other's connections.
func (s *Store) acquire(ctx context.Context, key tokenstore.Key, x *lockedEntries) (inner context.Context, release func(), err error) {
	start := time.Now()
	wait := ctx
	if !key.IsSignIn() { // a sign-in waits for a person, as long as ctx lasts
		limited, cancel := context.WithTimeout(ctx, orDefault(s.LockTimeout, tokenstore.DefaultLockTimeout))
		defer cancel()
		wait = limited
	}

	// One goroutine for each key waits in the database and the others wait here.
	// Otherwise all who want one key would each take a connection. So the gate comes
	// before the slots.
	leave, ok := s.gate.Enter(wait, string(x.name))
	if !ok {
		return nil, nil, s.gaveUp(ctx, wait, start, x)
	}
	defer func() {
		if err != nil { // then nobody calls release
			leave()
		}
	}()

	if key.IsSignIn() {
		unlock, err := s.lockSignIn(wait, start, x)
		return ctx, func() { unlock(); leave() }, err
	}
	// An Update inside another takes its lock on the outer one's connection. With a
	// second one each, all could hold one and wait for one. If the outer Update has
	// returned, its connection is gone, and this one takes its own.
	if outer, ok := ctx.Value(lockConnOf{s}).(*lockConn); ok {
		if err := outer.lock(ctx, wait, start, x); !errors.Is(err, errOver) {
			return ctx, func() { outer.unlock(x); leave() }, err
		}
	}
	// At most half of the pool may hold locks. The rest is for Get, which callers
	// need while others wait.
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

// gaveUp returns the error of a wait that began at start and ended with wait,
// which is ctx with a limit. It was for the lock of x, or for a slot if x is nil.
func (s *Store) gaveUp(ctx, wait context.Context, start time.Time, x *lockedEntries) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &tokenstore.LockTimeoutError{Waited: time.Since(start), Holder: "this process, which holds as many locks as its pool allows"}
	if x != nil {
		e.Holder = s.holder(ctx, x)
	}
	// Err says whether the caller's deadline or the store's limit was first: wait
	// has the earlier of the two.
	if mine, ok := ctx.Deadline(); ok {
		if last, _ := wait.Deadline(); last.Equal(mine) {
			e.Err = context.DeadlineExceeded
		}
	}
	return e
}

// holder returns who holds the lock of x, or "" if that cannot be known. It is
// for the text of an error and may not take long.
func (s *Store) holder(ctx context.Context, x *lockedEntries) (who string) {
	// The caller's deadline may just have passed. The error is worth a second more.
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

// processName is the application_name of a connection that holds locks, which
// other processes show to people (see holder). PostgreSQL cuts it to 63 bytes.
var processName = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("process %d (%.20s) on %s", os.Getpid(), filepath.Base(os.Args[0]), host)
})

// milliseconds returns d as a setting of PostgreSQL. 0 would mean no limit.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}

func (s *Store) idleTimeout() time.Duration { return orDefault(s.IdleTimeout, defaultIdleTimeout) }

// A lockConn is a connection of the pool that holds the lock of an Update, and
// the locks of the Updates inside it.
//
// Advisory locks of a session end with its connection. So a process that is
// killed frees them at once, and the server frees those of a process that is
// stopped, by idle_session_timeout. But a connection can also break under a
// process that goes on. A holder who writes then gets a new connection and takes
// the locks again (retake). Each write replaces a known version, so it cannot
// undo what another holder has saved in between.
type lockConn struct {
	store *Store

	mu      sync.Mutex       // guards all below; inner Updates may run in goroutines of their own
	conn    *pgxpool.Conn    // nil: none yet, or broken
	tuned   bool             // conn has our idle timeout, our name, and the locks of held; false for a new one
	idle    string           // the idle timeout that conn came with
	appName string           // the name that conn came with
	held    []*lockedEntries // whose locks conn holds
	over    bool             // the outer Update has returned
}

// lockConnOf is the key of a lockConn in a context, one for each Store.
type lockConnOf struct{ *Store }

var errOver = fmt.Errorf("%w: the Update has returned", tokenstore.ErrUnavailable)

// lock takes the lock of x and reads its entries. wait is ctx with a limit.
func (lc *lockConn) lock(ctx, wait context.Context, start time.Time, x *lockedEntries) error {
	// A connection runs one statement at a time. So the outer Update cannot write
	// while one inside it waits for a lock.
	lc.mu.Lock()
	defer lc.mu.Unlock()
	if lc.over {
		return errOver
	}
	// lock_timeout in the database ends the wait. A context that ends during a
	// statement would break the connection, with all locks that it holds. So the
	// statement runs under a later deadline, and only a cancellation ends it.
	deadline, _ := wait.Deadline() // it has one, because sign-ins do not come here
	query, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(lc.store.callTimeout()))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})()
	err := lc.onConn(query, func(ctx context.Context, c *pgx.Conn) error {
		// What is left of the wait is computed here, since onConn may call this again.
		if err := lc.take(ctx, c, lockID(x.name), time.Until(deadline)); err != nil {
			return err
		}
		// Read under the lock: each write names the version that it replaces.
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

// take waits for a lock, tunes the connection and notes what it was like before.
// The statements of a batch are one transaction: if the lock is not given, all
// settings are rolled back. A lock that is given outlives the transaction. The
// idle timeout is not needed earlier, since a session that waits is not idle. A
// batch also takes one round trip instead of three.
func (lc *lockConn) take(ctx context.Context, c *pgx.Conn, id int64, wait time.Duration) error {
	var b pgx.Batch
	b.Queue(beginWait, milliseconds(wait))
	b.Queue(takeLock, id)
	b.Queue(tune, milliseconds(lc.store.idleTimeout()), processName())
	results := c.SendBatch(ctx, &b)
	var idle, appName string
	err := results.QueryRow().Scan(&idle, &appName, nil, nil)
	for range 2 { // takeLock and tune
		if err == nil {
			_, err = results.Exec()
		}
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err == nil && !lc.tuned { // an inner Update finds our own settings
		lc.tuned, lc.idle, lc.appName = true, idle, appName
	}
	return err
}

// do is how [lockedEntries] reaches the database: over the connection that holds
// the lock. Over the pool, all who hold a lock would wait for a connection that
// none of them gives back.
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

// onConn calls f with the connection. If the connection turns out to be broken,
// it calls f again with a new one, on which it first takes the lost locks again.
// The new one needs no slot, since it comes in the place of the old one. ctx ends
// the tries.
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
		refused := false
		err := error(nil)
		if !lc.tuned && len(lc.held) > 0 {
			if err = lc.retake(ctx, c); err != nil && !c.IsClosed() {
				// It may have some of the locks and our settings, and end gives back
				// what it takes for an untouched connection.
				refused = true
				_ = c.Close(ctx)
			}
		}
		if err == nil {
			err = lc.store.use(ctx, c, f)
		}
		if err == nil || !c.IsClosed() {
			return err
		}
		lc.conn.Release() // destroys it
		lc.conn = nil
		if refused || ctx.Err() != nil {
			return err
		}
	}
}

// retake takes on a new connection the locks that were lost with the old one. It
// does not wait for them. If another holder has a lock or had it meanwhile, x is
// lost, and replace refuses what needs the lock. It still lets a record be saved
// over the version that it came from: new tokens of a refresh are nowhere else.
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
		// The record's version tells whether somebody else has saved. A write of our
		// own whose outcome is unknown may have got through. The mark need not be
		// compared here: replace refuses to write over one that somebody else wrote.
		known := x.entries[tokenstore.EntryRecord]
		if !locked || version != known.version && (known.tried == 0 || version != known.tried) {
			x.lost = true
		}
	}
	lc.tuned = true
	return nil
}

// unlock ends an Update inside another. The outer one goes on with the connection.
func (lc *lockConn) unlock(x *lockedEntries) {
	// Not the caller's context: a lock has to be freed after a cancellation too.
	ctx, cancel := context.WithTimeout(context.Background(), lc.store.callTimeout())
	defer cancel()
	lc.mu.Lock()
	defer lc.mu.Unlock()
	lc.held = slices.DeleteFunc(lc.held, func(other *lockedEntries) bool { return other == x })
	if lc.conn == nil {
		return
	}
	if _, err := lc.conn.Exec(ctx, dropLock, lockID(x.name)); err != nil {
		_ = lc.conn.Conn().Close(ctx) // frees this lock in any case; retake gets the others
	}
}

// end gives the connection back to the pool as it was, without locks and with its
// own settings. If that fails it is closed: the pool must not hand out a
// connection that holds a lock.
func (lc *lockConn) end() {
	ctx, cancel := context.WithTimeout(context.Background(), lc.store.callTimeout())
	defer cancel()
	lc.mu.Lock()
	defer lc.mu.Unlock()
	lc.over = true // inner Updates that still run get errOver
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

// lockID returns the advisory lock of a name. If two names ever shared one, each
// would wait for the other and nothing else would go wrong.
func lockID(name []byte) int64 { return int64(binary.BigEndian.Uint64(name)) }
