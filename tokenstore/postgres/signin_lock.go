package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A signInConn holds the sign-in locks of this process, all on one connection. A
// sign-in waits for a person, for minutes. If each held a connection of the pool,
// a few people could keep everybody from refreshing. So this connection is
// taken out of the pool, which opens another one in its place.
//
// The server's idle timeout must not end a slow sign-in, and must end the locks
// of a process that is stopped. So a goroutine pings while the process runs.
type signInConn struct {
	store *Store
	users int                // sign-ins that hold a lock or wait for one; guarded by store.signInMu
	stop  context.CancelFunc // of keepAlive

	mu   sync.Mutex // one statement at a time
	conn *pgx.Conn
}

// How often a sign-in lock that another process holds is tried again. A statement
// that waits in the database would keep the connection from all other sign-ins.
const (
	firstTry = 20 * time.Millisecond
	lastTry  = 500 * time.Millisecond
)

// lockSignIn takes the sign-in lock of x and reads its entries. What is saved
// under it goes over the pool, not over the shared connection.
func (s *Store) lockSignIn(ctx context.Context, start time.Time, x *lockedEntries) (release func(), err error) {
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
		if err != nil && c.broken() { // all join a new connection
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

// signInTurn is the name in the gate for opening the connection, so that one
// goroutine opens it. It cannot be the name of a row, which has 32 bytes.
const signInTurn = "sign-in"

// joinSignIn returns the connection for sign-ins and counts a user of it. The
// first user opens it, and so does the next one after it broke.
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

// leave counts a user out. The last one closes the connection.
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

// do calls f with the connection. The end of the caller's ctx does not reach f: it
// would break the connection, and with it the locks of all other sign-ins.
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

// keepAlive pings three times in each idle timeout, until ctx ends.
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
