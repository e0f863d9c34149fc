package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// The key that names rows is itself a row: the caller's keys come and go, and
// the names stay. It also tells wrong keys, which would otherwise see an empty
// store.
var nameKeyRow = []byte{}

const entryNameKey tokenstore.Entry = 2

// nameOf returns the name of key's rows.
func (s *Store) nameOf(ctx context.Context, keys sealingKeys, key tokenstore.Key) ([]byte, error) {
	nameKey := s.nameKey.Load()
	if nameKey == nil {
		err := s.do(ctx, "read the name key", func(ctx context.Context, c *pgx.Conn) error {
			found, err := readNameKey(ctx, c, keys)
			nameKey = &found
			return err
		})
		if err != nil {
			return nil, err
		}
		s.nameKey.Store(nameKey)
	}
	mac := hmac.New(sha256.New, *nameKey)
	mac.Write([]byte(key))
	return mac.Sum(nil), nil
}

// errNoNameKey is of a table whose entries have no names any more: to take it
// for an empty one would have everybody sign in again beside what is there.
var errNoNameKey = fmt.Errorf("%w: the table has entries, and not the key that names them", tokenstore.ErrCorrupt)

func readNameKey(ctx context.Context, c *pgx.Conn, keys sealingKeys) ([]byte, error) {
	for used := false; ; {
		var sealed []byte
		err := c.QueryRow(ctx, selectSealed, nameKeyRow, entryNameKey).Scan(&sealed)
		if err == nil {
			data, _, err := keys.open(nameKeyRow, entryNameKey, sealed)
			if err != nil {
				return nil, fmt.Errorf("%w: the table was sealed with another key", tokenstore.ErrCorrupt)
			}
			return data, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if used {
			return nil, errNoNameKey
		}
		if err := c.QueryRow(ctx, selectAny).Scan(&used); err != nil {
			return nil, err
		}
		if used {
			continue // another replica's first entries come after its key
		}
		fresh := make([]byte, KeySize)
		_, _ = rand.Read(fresh) // never fails
		// Another replica's may be there first.
		if _, err := c.Exec(ctx, insertSealed, nameKeyRow, entryNameKey, newVersion(), keys.seal(nameKeyRow, entryNameKey, fresh)); err != nil {
			return nil, err
		}
	}
}
