package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// DeleteIdle deletes the grants that no sign-in or refresh has saved for longer
// than idle, and returns how many it deleted. It is for applications whose users
// leave without a logout: each sign-in leaves a row with a refresh token that
// nobody will use.
//
// The user of a deleted grant has to sign in again, even if the tokens were still
// good. They are not revoked at the server. So idle should be longer than a
// session of the application or, if those do not end, longer than the server's
// refresh tokens live. Registrations stay, and so do grants under keys that
// [tokenstore.GrantKey] did not make.
//
// It may run beside everything else, in several replicas: each grant is deleted
// under its lock, unless it was saved meanwhile. A row that none of the keys
// opens stays as it is. The error then wraps [tokenstore.ErrCorrupt] and says
// how many there are.
func (s *Store) DeleteIdle(ctx context.Context, idle time.Duration) (deleted int, err error) {
	if idle <= 0 {
		return 0, fmt.Errorf("postgres: DeleteIdle(%v) would delete what is in use", idle)
	}
	keys, err := newSealingKeys(s.Keys)
	if err != nil {
		return 0, err
	}
	type row struct{ Name, Sealed []byte }
	damaged := 0
	for after := []byte{}; ; {
		var rows []row
		err := s.do(ctx, "find idle grants", func(ctx context.Context, c *pgx.Conn) error {
			found, err := c.Query(ctx, selectIdle, after, idle)
			if err != nil {
				return err
			}
			rows, err = pgx.CollectRows(found, pgx.RowToStructByPos[row])
			return err
		})
		switch {
		case err != nil:
			return deleted, err
		case len(rows) == 0 && damaged > 0:
			return deleted, fmt.Errorf("%w: %d idle records cannot be read", tokenstore.ErrCorrupt, damaged)
		case len(rows) == 0:
			return deleted, nil
		}
		for _, row := range rows {
			after = row.Name
			data, _, err := keys.open(row.Name, tokenstore.EntryRecord, row.Sealed)
			var found tokenstore.Record
			if err == nil {
				found, err = tokenstore.DecodeRecord(data)
			}
			if err != nil {
				damaged++
			}
			if found.Grant == nil {
				continue
			}
			key := tokenstore.GrantKey(found.Grant.Server, found.Grant.Account)
			err = s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
				now, err := l.Get(ctx)
				if err != nil || now.Generation != found.Generation {
					return err
				}
				err = l.Delete(ctx)
				if err == nil {
					deleted++
				}
				return err
			})
			inUse := new(tokenstore.LockTimeoutError)
			if err != nil && !errors.Is(err, tokenstore.ErrNotFound) && !errors.As(err, &inUse) {
				return deleted, err
			}
		}
	}
}
