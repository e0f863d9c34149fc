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

// Rows are named by a keyed hash. Its key is a random one in a row of its own,
// sealed like the others: Store.Keys are rotated, and the names must stay. The
// row also shows that Store.Keys are the wrong ones; without it they would see
// a store without any records.
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

// errNoNameKey is returned for a table that has entries and has lost the key of
// their names. If it were taken for an empty one, everybody would sign in again
// and the old rows would stay for ever.
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
			continue // another replica has made the key since, and entries: read it
		}
		fresh := make([]byte, KeySize)
		_, _ = rand.Read(fresh) // never fails
		// If another replica was first, this inserts nothing, and the loop reads that
		// replica's key.
		if _, err := c.Exec(ctx, insertSealed, nameKeyRow, entryNameKey, newVersion(), keys.seal(nameKeyRow, entryNameKey, fresh)); err != nil {
			return nil, err
		}
	}
}
