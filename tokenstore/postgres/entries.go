package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// lockedEntries are one key's rows while its lock is held.
type lockedEntries struct {
	store *Store
	keys  sealingKeys
	name  []byte
	conn  interface {
		// do calls f with a connection. If that turns out to be broken, it calls f
		// again with another one, so f may find its own work done.
		do(ctx context.Context, what string, f func(context.Context, *pgx.Conn) error) error
	}

	// entries are the rows as they were when the lock was taken, with what was
	// written since. Nobody else changes them while the lock is held, so reading
	// them needs no database.
	entries [2]entry

	// lost says that the lock was lost with its connection and somebody else had
	// it since.
	lost bool
}

type entry struct {
	version int64 // 0: no row
	sealed  []byte
	tried   int64 // the version of a write whose outcome is unknown; 0: none
}

var errLost = fmt.Errorf("%w: the connection that held the lock is gone, and another has taken the lock since", tokenstore.ErrUnavailable)

// load reads the rows. It is a transaction of its own, after the one that took
// the lock: at any isolation level it sees what the last holder has committed.
func (x *lockedEntries) load(ctx context.Context, c *pgx.Conn) (entries [2]entry, err error) {
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

func (x *lockedEntries) Read(ctx context.Context, e tokenstore.Entry) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if x.entries[e].version == 0 {
		return nil, tokenstore.ErrNotFound
	}
	data, _, err := x.keys.open(x.name, e, x.entries[e].sealed)
	return data, err
}

func (x *lockedEntries) Write(ctx context.Context, e tokenstore.Entry, data []byte) error {
	sealed := x.keys.seal(x.name, e, data)
	crashpoint.Hit("tokenstore.postgres.sealed")
	err := x.replace(ctx, e, "save the "+e.String(), sealed)
	if err == nil {
		crashpoint.Hit("tokenstore.postgres.written")
	}
	return err
}

func (x *lockedEntries) Remove(ctx context.Context, e tokenstore.Entry) error {
	if x.entries[e].version == 0 && x.entries[e].tried == 0 {
		return ctx.Err()
	}
	err := x.replace(ctx, e, "remove the "+e.String(), nil)
	if err == nil {
		crashpoint.Hit("tokenstore.postgres.removed")
	}
	return err
}

// replace writes an entry, or removes it if sealed is nil. It replaces only the
// version that is known here. So a holder who has lost the lock without knowing
// cannot undo what the next holder has saved.
func (x *lockedEntries) replace(ctx context.Context, e tokenstore.Entry, what string, sealed []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	next := int64(0)
	if sealed != nil {
		next = newVersion()
	}
	return x.conn.do(ctx, what, func(ctx context.Context, c *pgx.Conn) error {
		// A mark says that a refresh token will be sent, which only the holder of the
		// lock may do. A record has the tokens that came back, which are nowhere else:
		// it may be saved without the lock, over the version that it came from.
		if x.lost && e == tokenstore.EntryMark {
			return errLost
		}
		now := &x.entries[e]
		if now.tried != 0 {
			// The version in the table tells whether the last write got through.
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
			// Somebody else has changed the row. For a removal, no row is as good: an
			// earlier attempt of ours may have removed it.
			if version, err := x.version(ctx, c, e); err != nil || sealed != nil || version != 0 {
				return errors.Join(errLost, err)
			}
		}
		*now = entry{version: next, sealed: sealed}
		return nil
	})
}

// version returns the version of an entry in the table, 0 if it has no row.
func (x *lockedEntries) version(ctx context.Context, c *pgx.Conn, e tokenstore.Entry) (int64, error) {
	entries, err := x.load(ctx, c)
	return entries[e].version, err
}

// newVersion returns a number that no row has had. It is not 0, which stands
// for no row.
func newVersion() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) | 1)
}
