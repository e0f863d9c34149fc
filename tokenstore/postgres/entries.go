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

// A lockedEntries is one key's entries while its lock is held.
type lockedEntries struct {
	store *Store
	keys  sealingKeys
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

// replace writes, or with sealed nil removes, an entry whose version is still
// the one known here.
func (x *lockedEntries) replace(ctx context.Context, e tokenstore.Entry, what string, sealed []byte) error {
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
