package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// Reseal seals with the first key every row that an older key has sealed, and
// returns their number. It takes no locks, so it may run beside everything else,
// and it may be repeated. A row that none of the keys opens stays as it is. The
// error then wraps [tokenstore.ErrCorrupt] and says how many there are. It also
// wraps that if the key that names the rows is missing.
func (s *Store) Reseal(ctx context.Context) (resealed int, err error) {
	keys, err := newSealingKeys(s.Keys)
	if err != nil {
		return 0, err
	}
	type row struct {
		Name    []byte
		Entry   tokenstore.Entry
		Version int64
		Sealed  []byte
	}
	damaged, named, all := 0, false, 0
	for after := (row{Name: []byte{}, Entry: -1}); ; {
		var rows []row
		err := s.do(ctx, "seal anew", func(ctx context.Context, c *pgx.Conn) error {
			found, err := c.Query(ctx, selectPage, after.Name, after.Entry)
			if err != nil {
				return err
			}
			if rows, err = pgx.CollectRows(found, pgx.RowToStructByPos[row]); err != nil {
				return err
			}
			for i := range rows {
				after = rows[i]
				all++
				named = named || after.Entry == entryNameKey && len(after.Name) == 0
				data, key, err := keys.open(after.Name, after.Entry, after.Sealed)
				if err != nil {
					damaged++
				}
				if err != nil || key == 0 {
					continue
				}
				// The version stays, since the data does: whoever holds the lock may go on.
				done, err := c.Exec(ctx, replaceSeal, after.Name, after.Entry, after.Version, after.Sealed, keys.seal(after.Name, after.Entry, data))
				if err != nil {
					return err
				}
				resealed += int(done.RowsAffected()) // 0: saved meanwhile
			}
			return nil
		})
		switch {
		case err != nil:
			return resealed, err
		case len(rows) == 0 && damaged > 0:
			return resealed, fmt.Errorf("%w: none of the keys opens %d entries", tokenstore.ErrCorrupt, damaged)
		case len(rows) == 0 && all > 0 && !named:
			return resealed, errNoNameKey
		case len(rows) == 0:
			return resealed, nil
		}
	}
}
