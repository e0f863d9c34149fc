package tokenstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/internal/text"
)

// Secret is a string that no fmt verb, slog handler or JSON encoder shows;
// its Reveal method returns it.
type Secret = secret.Secret

// NewSecret returns s as a [Secret].
func NewSecret(s string) Secret { return secret.New(s) }

var (
	// ErrNotFound is returned by [Store.Get] and [Locked.Get] if no record is
	// stored under the key.
	ErrNotFound = errors.New("tokenstore: no such record")

	// ErrCorrupt is wrapped by errors about a stored entry that cannot be read: it
	// was cut off, altered, sealed with another key, or written by a newer version
	// of this module. It is not deleted.
	ErrCorrupt = errors.New("tokenstore: record is damaged")

	// ErrUnavailable is wrapped by errors about a store that cannot be used now,
	// for example because the keychain is locked, nobody has answered its prompt,
	// the folder cannot be written, or the database is down.
	ErrUnavailable = errors.New("tokenstore: store is unavailable")
)

// DefaultLockTimeout is how long an Update waits for its lock if the store sets no
// other limit. It is longer than a refresh, whose request has 30 s.
const DefaultLockTimeout = 45 * time.Second

// A LockTimeoutError says that another goroutine, process or host held the
// lock of a record for longer than the caller would wait.
type LockTimeoutError struct {
	Waited time.Duration
	Holder string // who holds the lock, in words; "" if unknown
	// Err is [context.DeadlineExceeded] if the caller's deadline ended the
	// wait, and nil if the store's own limit did.
	Err error
}

func (e *LockTimeoutError) Error() string {
	holder := text.Short(e.Holder)
	if holder == "" {
		holder = "another process"
	}
	return fmt.Sprintf("tokenstore: the record is still locked by %s after %s", holder, e.Waited.Round(time.Millisecond))
}

func (e *LockTimeoutError) Unwrap() error { return e.Err }

// A Store keeps records. All methods are safe for concurrent use, also by several
// processes. An error wraps [ErrUnavailable] unless it is another error of this
// package, or comes from a callback or a context.
type Store interface {
	// Get returns the record under key as one Save wrote it. It takes no lock. If
	// there is no record it returns [ErrNotFound], and if the record is damaged an
	// error that wraps [ErrCorrupt].
	Get(ctx context.Context, key Key) (Record, error)

	// Update calls f with the key's lock held, and returns f's error. It waits for
	// the lock until ctx ends or the store's limit is over ([DefaultLockTimeout] if
	// none is set; a [Key.SignIn] has no limit). At the limit and at ctx's deadline
	// it returns a [*LockTimeoutError].
	//
	// Update is a critical section, not a transaction: each Save is durable when it
	// returns, and a later error does not undo it. f may update another key, but
	// not this one. The Locked returns errors after f has returned.
	Update(ctx context.Context, key Key, f func(ctx context.Context, l *Locked) error) error

	// Delete deletes the record and its mark, with the lock held. A missing record
	// is no error. A damaged record is deleted too.
	Delete(ctx context.Context, key Key) error
}

// DropRegistration deletes the registration under key if it is still that of
// clientID, which its server no longer knows (invalid_client, RFC 6749 §5.2).
// Another process may have registered a new client meanwhile: that one stays,
// and the error is nil, as it is where no record exists. Other errors are those
// of [Store.Update].
func DropRegistration(ctx context.Context, store Store, key Key, clientID string) error {
	return store.Update(ctx, key, func(ctx context.Context, l *Locked) error {
		rec, err := l.Get(ctx)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil:
			return err
		case rec.Registration == nil || rec.Registration.ClientID != clientID:
			return nil
		}
		return l.Delete(ctx)
	})
}

// Entries is access to the stored bytes of one key while its lock is held. An
// implementation of Store gives it to [NewLocked]. Read returns [ErrNotFound] for
// a missing entry, Write is durable when it returns, and Remove of a missing
// entry is no error.
type Entries interface {
	Read(ctx context.Context, e Entry) ([]byte, error)
	Write(ctx context.Context, e Entry, data []byte) error
	Remove(ctx context.Context, e Entry) error
}

// An Entry is one of the two things kept under a key.
type Entry int

const (
	EntryRecord Entry = iota // the record itself
	EntryMark                // the mark, which holds no secret
)

func (e Entry) String() string {
	switch e {
	case EntryRecord:
		return "record"
	case EntryMark:
		return "mark"
	}
	return fmt.Sprintf("Entry(%d)", int(e))
}

// Locked is a record whose lock is held, and the only way to write. It is not safe
// for concurrent use.
type Locked struct {
	entries *guard
}

// NewLocked returns the Locked over entries. Only implementations of [Store]
// need it.
func NewLocked(entries Entries) *Locked { return &Locked{&guard{Entries: entries}} }

// End makes every later use of l an error. Implementations of [Store] call it
// before they release the lock.
func (l *Locked) End() { l.entries.ended.Store(true) }

var errEnded = errors.New("tokenstore: Locked used after its Update returned")

// A guard keeps a Locked that is used after its Update away from the store, where
// somebody else may hold the lock by then.
type guard struct {
	Entries
	ended atomic.Bool
}

func (g *guard) Read(ctx context.Context, e Entry) ([]byte, error) {
	if g.ended.Load() {
		return nil, errEnded
	}
	return g.Entries.Read(ctx, e)
}

func (g *guard) Write(ctx context.Context, e Entry, data []byte) error {
	if g.ended.Load() {
		return errEnded
	}
	return g.Entries.Write(ctx, e, data)
}

func (g *guard) Remove(ctx context.Context, e Entry) error {
	if g.ended.Load() {
		return errEnded
	}
	return g.Entries.Remove(ctx, e)
}

// Get reads the record. Errors are those of [Store.Get].
func (l *Locked) Get(ctx context.Context) (Record, error) {
	data, err := l.entries.Read(ctx, EntryRecord)
	if err != nil {
		return Record{}, err
	}
	return DecodeRecord(data)
}

// Save writes the record under a new generation, which it returns. The record
// is durable when Save returns nil.
func (l *Locked) Save(ctx context.Context, r Record) (generation string, err error) {
	r.Generation = rand.Text()
	data, err := EncodeRecord(r)
	if err != nil {
		return "", err
	}
	return r.Generation, l.entries.Write(ctx, EntryRecord, data)
}

// Delete deletes the record and its mark.
func (l *Locked) Delete(ctx context.Context) error {
	return errors.Join(l.entries.Remove(ctx, EntryRecord), l.entries.Remove(ctx, EntryMark))
}

// Mark returns the mark, or the zero Mark if there is none. A mark that cannot be
// decoded is returned as pending, with no generation.
func (l *Locked) Mark(ctx context.Context) (Mark, error) {
	data, err := l.entries.Read(ctx, EntryMark)
	if errors.Is(err, ErrNotFound) {
		return Mark{}, nil
	}
	if errors.Is(err, ErrCorrupt) {
		return Mark{Pending: true}, nil
	}
	if err != nil {
		return Mark{}, err
	}
	return decodeMark(data), nil
}

// SetMark writes the mark. The zero Mark removes it. The mark is durable when
// SetMark returns nil.
func (l *Locked) SetMark(ctx context.Context, m Mark) error {
	if m == (Mark{}) {
		return l.entries.Remove(ctx, EntryMark)
	}
	return l.entries.Write(ctx, EntryMark, encodeMark(m))
}

// unavailable wraps err, which is not this package's, in ErrUnavailable.
func unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}
