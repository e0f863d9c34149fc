package postgres

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// KeySize is the length of each of [Store.Keys] in bytes.
const KeySize = 32

// sealVersion is the first byte of everything sealed.
const sealVersion = 1

// A ring seals with its first key and opens with any. Nonces are random, which
// is good for 2^32 seals with one key (SP 800-38D §8.3): 10,000 users who
// refresh every half hour take eight years.
type ring []cipher.AEAD

func newRing(keys []tokenstore.Secret) (ring, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: Keys has no key", tokenstore.ErrUnavailable)
	}
	var r ring
	for i, key := range keys {
		block, err := aes.NewCipher([]byte(key.Reveal()))
		if err != nil || len(key.Reveal()) != KeySize {
			return nil, fmt.Errorf("%w: Keys[%d] does not have %d bytes", tokenstore.ErrUnavailable, i, KeySize)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("%w: Keys[%d]: %w", tokenstore.ErrUnavailable, i, err)
		}
		r = append(r, aead)
	}
	return r, nil
}

// place is what is sealed with an entry, so that it is of no use elsewhere.
func place(name []byte, e tokenstore.Entry) []byte {
	return fmt.Appendf(nil, "astravue-mcp %d %x", e, name)
}

func (r ring) seal(name []byte, e tokenstore.Entry, data []byte) []byte {
	return r[0].Seal([]byte{sealVersion}, nil, data, place(name, e))
}

// open returns what was sealed, and which key did it.
func (r ring) open(name []byte, e tokenstore.Entry, sealed []byte) (data []byte, key int, err error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return nil, 0, fmt.Errorf("%w: the %s was not sealed by this version", tokenstore.ErrCorrupt, e)
	}
	for key, aead := range r {
		if data, err := aead.Open(nil, nil, sealed[1:], place(name, e)); err == nil {
			return data, key, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: none of the keys opens the %s", tokenstore.ErrCorrupt, e)
}

// The key that names rows is itself a row: the caller's keys come and go, and
// the names stay. It also tells wrong keys, which would otherwise see an empty
// store.
var nameKeyRow = []byte{}

const entryNameKey tokenstore.Entry = 2

// nameOf returns the name of key's rows.
func (s *Store) nameOf(ctx context.Context, r ring, key tokenstore.Key) ([]byte, error) {
	nameKey := s.nameKey.Load()
	if nameKey == nil {
		err := s.do(ctx, "read the name key", func(ctx context.Context, c *pgx.Conn) error {
			found, err := readNameKey(ctx, c, r)
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

func readNameKey(ctx context.Context, c *pgx.Conn, r ring) ([]byte, error) {
	for used := false; ; {
		var sealed []byte
		err := c.QueryRow(ctx, selectSealed, nameKeyRow, entryNameKey).Scan(&sealed)
		if err == nil {
			data, _, err := r.open(nameKeyRow, entryNameKey, sealed)
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
		if _, err := c.Exec(ctx, insertSealed, nameKeyRow, entryNameKey, newVersion(), r.seal(nameKeyRow, entryNameKey, fresh)); err != nil {
			return nil, err
		}
	}
}

// lockID is the advisory lock of a name. That two names share one is as likely
// as a lightning strike, and would only make one wait for the other.
func lockID(name []byte) int64 { return int64(binary.BigEndian.Uint64(name)) }

// newVersion returns a number that no row has had. It is not 0, which stands
// for no row.
func newVersion() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:]) | 1)
}

// Reseal seals anew, with the first key, all that an older one has sealed, and
// returns how much that was. It takes no locks, may run beside everything else
// and may be repeated. What none of the keys opens stays as it is, and the
// error, which wraps [tokenstore.ErrCorrupt], counts it. It wraps that, too, if
// the key that names the entries has gone.
func (s *Store) Reseal(ctx context.Context) (resealed int, err error) {
	r, err := newRing(s.Keys)
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
				data, key, err := r.open(after.Name, after.Entry, after.Sealed)
				if err != nil {
					damaged++
				}
				if err != nil || key == 0 {
					continue
				}
				// The version stays: nothing that a holder has read is out of date.
				done, err := c.Exec(ctx, replaceSeal, after.Name, after.Entry, after.Version, after.Sealed, r.seal(after.Name, after.Entry, data))
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
