package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/gate"
)

// PromptTimeout is the CallTimeout for a [Keychain] in a program with a person
// in front of it, who may have to answer the keychain's prompt.
const PromptTimeout = 60 * time.Second

const (
	defaultService     = "astravue-mcp"
	defaultCallTimeout = 10 * time.Second
)

// Keychain keeps records in the keychain of the operating system: the macOS
// Keychain, the Windows Credential Manager, or a Secret Service on D-Bus
// (GNOME Keyring, KWallet). The zero Keychain is ready to use. It must not be
// copied after first use.
//
// Keychains take small items only (2,560 bytes on Windows, about 3,000 on
// macOS), and records are larger. So a record is kept in parts of 2,000 bytes,
// with a head item that names them. Item names are hashes, since macOS shows
// them in command lines. All secrets are in the items. The lock is a file, since
// keychains have no locks.
//
// A Keychain cannot tell if another program of this user, or a restored backup,
// has put an older record back. The consequences are those of a [File].
type Keychain struct {
	// Service is the name under which the items are kept. Some keychains show it
	// to people. If "", "astravue-mcp".
	Service string

	// LockDir is the folder of the lock files. All processes that share the
	// keychain must share it. If other users can write to it, it is refused as
	// the folder of a [File] is. If "", a private folder that depends only on the
	// user and the machine, not on HOME or another variable.
	LockDir string

	// LockTimeout bounds how long Update waits for its lock. If 0,
	// [DefaultLockTimeout].
	LockTimeout time.Duration

	// CallTimeout bounds each access to an item. If 0, 10 s, which a keychain on
	// a busy computer may need. A locked keychain may show a prompt and answer
	// only after a person has: a program with a person in front of it sets
	// [PromptTimeout]. If a call takes longer, the error wraps [ErrUnavailable].
	// The record's lock is then kept until the keychain has answered, since it
	// may still write what it was told to.
	CallTimeout time.Duration

	locks fileLocks
	turn  gate.Gate // one call at a time: while a prompt is open, the others wait
	items itemStore // nil: the operating system's
}

var _ Store = (*Keychain)(nil)

// Get implements [Store]. It takes no lock, so a save may replace the parts
// while they are read.
func (k *Keychain) Get(ctx context.Context, key Key) (Record, error) {
	s := k.entries(key)
	// It reads twice before it asks for the lock, whose holder may be waiting for
	// a server.
	for range 2 {
		data, set, err := s.readRecord(ctx)
		if err == nil {
			return DecodeRecord(data)
		}
		if set == "" {
			return Record{}, err // the head could not be read, or there is no record
		}
		// Parts are missing or do not fit. If the head names another set by now,
		// somebody has saved meanwhile and has dropped the parts: read again. If
		// the head has not changed, the record is damaged.
		h, err2 := s.readHead(ctx)
		if err2 != nil {
			return Record{}, err2
		}
		if h.Set.id() == set {
			return Record{}, err
		}
	}
	// Others save faster than this reads. Under the lock nobody saves.
	var r Record
	err := k.Update(ctx, key, func(ctx context.Context, l *Locked) (err error) {
		r, err = l.Get(ctx)
		return err
	})
	return r, err
}

// Update implements [Store].
func (k *Keychain) Update(ctx context.Context, key Key, f func(context.Context, *Locked) error) error {
	return update(ctx, func(ctx context.Context) (func(), error) {
		start := time.Now()
		// The limit is for the wait alone; f runs under the caller's ctx.
		ctx, cancel := withLimit(ctx, key, k.LockTimeout)
		defer cancel()
		// The path is found inside acquire, which returns in time even if the disk of
		// the folder does not answer.
		return k.locks.acquire(ctx, start, func() (string, error) { return k.lockPath(key) })
	}, k.entries(key), f)
}

// Delete implements [Store].
func (k *Keychain) Delete(ctx context.Context, key Key) error {
	return k.Update(ctx, key, func(ctx context.Context, l *Locked) error { return l.Delete(ctx) })
}

func (k *Keychain) service() string {
	if k.Service != "" {
		return k.Service
	}
	return defaultService
}

func (k *Keychain) callTimeout() time.Duration {
	if k.CallTimeout > 0 {
		return k.CallTimeout
	}
	return defaultCallTimeout
}

func (k *Keychain) lockPath(key Key) (string, error) {
	dir, err := k.LockDir, error(nil)
	if dir == "" {
		dir, err = userDir()
	} else {
		err = makeFolder(dir)
	}
	// The service is part of the name: items of two services have nothing to wait for.
	return filepath.Join(dir, hashName(k.service(), string(key))+".lock"), err
}

func (k *Keychain) entries(key Key) *keychainEntries {
	return &keychainEntries{k: k, key: key, name: hashName(string(key)), last: closed}
}

// keychainEntries are one key's items, for one Update or one Get.
//
//	NAME         the head, which says which set of parts is the record
//	NAME.SET.I   part I of that set
//	NAME.mark    the mark, which is short enough for one item
type keychainEntries struct {
	k    *Keychain
	key  Key
	name string
	// last is closed when the latest call to the keychain has returned. All calls
	// before that one have returned too: a call begins only when it has the turn.
	last <-chan struct{}
}

// idle is for update, which keeps the lock until no call is under way.
func (s *keychainEntries) idle() <-chan struct{} { return s.last }

// closed is the last of entries that have made no call.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (s *keychainEntries) Read(ctx context.Context, e Entry) ([]byte, error) {
	if e == EntryMark {
		mark, err := s.get(ctx, s.markName())
		return []byte(mark), err
	}
	data, _, err := s.readRecord(ctx)
	return data, err
}

func (s *keychainEntries) Write(ctx context.Context, e Entry, data []byte) error {
	if e == EntryMark {
		err := s.set(ctx, s.markName(), string(data))
		crashpoint.Hit("tokenstore.keychain.mark-written")
		return err
	}
	return s.writeRecord(ctx, data)
}

func (s *keychainEntries) Remove(ctx context.Context, e Entry) error {
	if e == EntryMark {
		err := s.delete(ctx, s.markName())
		crashpoint.Hit("tokenstore.keychain.mark-removed")
		return err
	}
	return s.removeRecord(ctx)
}

func (s *keychainEntries) readHead(ctx context.Context) (head, error) {
	data, err := s.get(ctx, s.name)
	if err != nil {
		return head{}, err
	}
	return decodeHead(data)
}

func (s *keychainEntries) writeHead(ctx context.Context, h head) error {
	return s.set(ctx, s.name, h.encode())
}

// readRecord returns the record's data. If the head could be read and its set of
// parts could not, it returns the ID of that set with the error.
func (s *keychainEntries) readRecord(ctx context.Context) (data []byte, set string, err error) {
	h, err := s.readHead(ctx)
	if err != nil {
		return nil, "", err
	}
	if h.Set == nil { // a first save, or a removal, is under way or has crashed
		return nil, "", ErrNotFound
	}
	parts := make([]string, h.Set.Parts)
	for i := range parts {
		parts[i], err = s.get(ctx, s.partName(h.Set, i))
		if errors.Is(err, ErrNotFound) {
			// Not ErrNotFound, which would mean that nobody is signed in.
			return nil, h.Set.ID, fmt.Errorf("%w: part %d of %d is missing", ErrCorrupt, i+1, len(parts))
		}
		if err != nil {
			return nil, h.Set.ID, err
		}
	}
	data, ok := h.Set.join(s.key, parts)
	if !ok {
		return nil, h.Set.ID, fmt.Errorf("%w: its parts do not fit together", ErrCorrupt)
	}
	return data, h.Set.ID, nil
}

// sweep reads the head and drops the set of parts that a crash has left beside
// the record. A damaged head counts as none: a save then replaces it, and the
// parts that it named stay where nobody reads them.
//
// If parts cannot be dropped, sweep fails and so does the save: the next head has
// no room for the names of a third set.
func (s *keychainEntries) sweep(ctx context.Context) (head, error) {
	h, err := s.readHead(ctx)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		return head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	return h, s.drop(ctx, h.Other)
}

// drop deletes the parts of p. Parts that are gone already are no error.
func (s *keychainEntries) drop(ctx context.Context, p *partSet) error {
	if p == nil {
		return nil
	}
	for i := range p.Parts {
		if err := s.delete(ctx, s.partName(p, i)); err != nil {
			return err
		}
		crashpoint.Hit("tokenstore.keychain.part-dropped")
	}
	return nil
}

// writeRecord saves data as a new set of parts, in the steps that [head] lists.
// The record changes in one step, the second write of the head: a reader or a
// crash meets the old record or the new one.
func (s *keychainEntries) writeRecord(ctx context.Context, data []byte) error {
	h, err := s.sweep(ctx)
	if err != nil {
		return err
	}
	old := h.Set // readers use it until the second head is written
	set, parts, err := split(s.key, data)
	if err != nil {
		return err
	}
	// Named first and written then: a crash in between leaves names without parts,
	// which sweep can drop. It cannot find parts without a name.
	if err := s.writeHead(ctx, head{Set: old, Other: set}); err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.keychain.intended")
	for i, part := range parts {
		if err := s.set(ctx, s.partName(set, i), part); err != nil {
			return err
		}
		crashpoint.Hit("tokenstore.keychain.part-written")
	}
	// All parts are there, so readers may use them. Readers that still have the old
	// head find the old parts until they are dropped below.
	if err := s.writeHead(ctx, head{Set: set, Other: old}); err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.keychain.head-written")
	// Save promises that the record is durable, and go-keyring does not read what
	// the tool of macOS says about a write. So the head is read back. It was written
	// last: a keychain that was locked during the save has not taken it.
	if h, err = s.readHead(ctx); err != nil {
		return err
	}
	if h.Set.id() != set.ID {
		return fmt.Errorf("%w: the keychain took the record and did not keep it", ErrUnavailable)
	}
	// The record is saved. Dropping the old parts must not fail because a slow
	// keychain has used up the caller's time, so it has a limit of its own: the
	// short one, since the keychain is unlocked and shows no prompt now. If it
	// fails, the next save sweeps.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.k.callTimeout(), defaultCallTimeout))
	defer cancel()
	if s.drop(ctx, old) == nil {
		_ = s.writeHead(ctx, head{Set: set})
		crashpoint.Hit("tokenstore.keychain.swept")
	}
	return nil
}

// removeRecord forgets the record. The head goes last, since it alone names the
// parts: after a crash in between, the next save or removal finds them by it.
// A damaged record is removed like any other: sweep gives a head that names none,
// and that head is deleted.
func (s *keychainEntries) removeRecord(ctx context.Context) error {
	h, err := s.sweep(ctx)
	if err != nil {
		return err
	}
	if h.Set != nil {
		// From here on readers find no record. If the parts went first, a reader would
		// find a damaged one.
		if err := s.writeHead(ctx, head{Other: h.Set}); err != nil {
			return err
		}
		crashpoint.Hit("tokenstore.keychain.forgotten")
		if err := s.drop(ctx, h.Set); err != nil {
			return err
		}
	}
	err = s.delete(ctx, s.name)
	crashpoint.Hit("tokenstore.keychain.removed")
	return err
}
