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

// PromptTimeout is the CallTimeout for a [Keychain] whose prompt a person
// sees and is expected to answer.
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
// Keychains keep small items (Windows 2,560 bytes, macOS about 3,000) and
// records are not small, so a record is kept in parts of 2,000 bytes and a
// head item that names them; item names are hashes, since they show in command
// lines on macOS. All that is secret is in the items; the lock is a file.
//
// A program that the keychain lets in can put an older record back, and so can
// whoever restores the keychain from a backup, unnoticed: there is nothing
// outside the keychain to compare it with. What comes of it is what comes of it
// for a [File].
type Keychain struct {
	// Service is the name under which the items are kept, and which some
	// keychains show to people; "": "astravue-mcp".
	Service string

	// LockDir is the folder of the lock files, which all processes that
	// share the keychain must share, and which is refused as that of a
	// [File] is; "": a private one that depends on the user and the machine
	// alone, not on HOME or another variable.
	LockDir string

	// LockTimeout bounds an Update's wait; 0: [DefaultLockTimeout].
	LockTimeout time.Duration

	// CallTimeout bounds each access to an item; 0: 10 s, which a keychain
	// may need on a computer that is busy. A locked one may show a prompt and answer no sooner than a person does: where one
	// is there, use [PromptTimeout]. A call that is given up is
	// ErrUnavailable at once, and keeps the record's lock until the keychain
	// has answered, because what it was told to write may still be written.
	CallTimeout time.Duration

	locks fileLocks
	turn  gate.Gate // one call at a time: behind an open prompt the others wait
	items itemStore // nil: those of the operating system
}

var _ Store = (*Keychain)(nil)

// Get implements [Store].
func (k *Keychain) Get(ctx context.Context, key Key) (Record, error) {
	s := k.entries(key)
	for range 2 {
		data, set, err := s.readRecord(ctx)
		if err == nil {
			return DecodeRecord(data)
		}
		if set == "" {
			return Record{}, err
		}
		// A part could not be had. If the head has moved meanwhile, somebody
		// has saved, and the parts were dropped behind our back.
		h, err2 := s.readHead(ctx)
		if err2 != nil {
			return Record{}, err2
		}
		if h.Set.id() == set {
			return Record{}, err
		}
	}
	// Others save faster than this reads.
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
		ctx, cancel := withLimit(ctx, key, k.LockTimeout)
		defer cancel()
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
	return filepath.Join(dir, hashName(k.service(), string(key))+".lock"), err
}

func (k *Keychain) entries(key Key) *keychainEntries {
	return &keychainEntries{k: k, key: key, name: hashName(string(key)), last: closed}
}

// A keychainEntries is one key's items: the [Entries] of an Update, or what
// one Get reads.
//
//	NAME         the head: which set of parts is the record
//	NAME.SET.I   part I of that set
//	NAME.mark    the pending mark
type keychainEntries struct {
	k    *Keychain
	key  Key
	name string
	last <-chan struct{} // closed when the last call has returned
}

func (s *keychainEntries) idle() <-chan struct{} { return s.last }

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

// readRecord returns the record's data, or an error and the ID of the set it
// is about.
func (s *keychainEntries) readRecord(ctx context.Context) (data []byte, set string, err error) {
	h, err := s.readHead(ctx)
	if err != nil {
		return nil, "", err
	}
	if h.Set == nil {
		return nil, "", ErrNotFound
	}
	parts := make([]string, h.Set.Parts)
	for i := range parts {
		parts[i], err = s.get(ctx, s.partName(h.Set, i))
		if errors.Is(err, ErrNotFound) {
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

// sweep reads the head and drops what a crash has left beside the record. A
// head that cannot be read is as good as none.
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

func (s *keychainEntries) writeRecord(ctx context.Context, data []byte) error {
	h, err := s.sweep(ctx)
	if err != nil {
		return err
	}
	old := h.Set
	set, parts, err := split(s.key, data)
	if err != nil {
		return err
	}
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
	if err := s.writeHead(ctx, head{Set: set, Other: old}); err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.keychain.head-written")
	// go-keyring reads nothing of what the macOS tool says about a write, so
	// what is promised to be durable is looked at once.
	if h, err = s.readHead(ctx); err != nil {
		return err
	}
	if h.Set.id() != set.ID {
		return fmt.Errorf("%w: the keychain took the record and did not keep it", ErrUnavailable)
	}
	// The record is saved. What follows has a time of its own, since a slow
	// keychain may have used up the caller's; if it fails, the next save does it.
	// There is no prompt any more that somebody might need longer for.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.k.callTimeout(), defaultCallTimeout))
	defer cancel()
	if s.drop(ctx, old) == nil {
		_ = s.writeHead(ctx, head{Set: set})
		crashpoint.Hit("tokenstore.keychain.swept")
	}
	return nil
}

func (s *keychainEntries) removeRecord(ctx context.Context) error {
	h, err := s.sweep(ctx)
	if err != nil {
		return err
	}
	if h.Set != nil {
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
