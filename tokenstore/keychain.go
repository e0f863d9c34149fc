package tokenstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/zalando/go-keyring"

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
	ring  ring      // nil: the operating system's
}

var _ Store = (*Keychain)(nil)

// A ring is what a Keychain needs of go-keyring.
type ring interface {
	Get(service, user string) (string, error)
	Set(service, user, password string) error
	Delete(service, user string) error
}

type osRing struct{}

func (osRing) Get(service, user string) (string, error) { return keyring.Get(service, user) }
func (osRing) Set(service, user, password string) error { return keyring.Set(service, user, password) }
func (osRing) Delete(service, user string) error        { return keyring.Delete(service, user) }

// Get implements [Store].
func (k *Keychain) Get(ctx context.Context, key Key) (Record, error) {
	s := k.section(key)
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
	}, k.section(key), f)
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

// hashName returns a name of 32 characters that any keychain and any file
// system takes, for strings that none might take.
func hashName(s ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", s))
	return hex.EncodeToString(sum[:16])
}

func (k *Keychain) section(key Key) *keychainSection {
	return &keychainSection{k: k, key: key, name: hashName(string(key)), last: closed}
}

// A keychainSection is one key's items: the [Entries] of an Update, or what
// one Get reads.
//
//	NAME         the head: which set of parts is the record
//	NAME.SET.I   part I of that set
//	NAME.mark    the pending mark
type keychainSection struct {
	k    *Keychain
	key  Key
	name string
	last <-chan struct{} // closed when the last call has returned
}

func (s *keychainSection) idle() <-chan struct{} { return s.last }

var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (s *keychainSection) Read(ctx context.Context, e Entry) ([]byte, error) {
	if e == EntryMark {
		mark, err := s.get(ctx, s.markName())
		return []byte(mark), err
	}
	data, _, err := s.readRecord(ctx)
	return data, err
}

func (s *keychainSection) Write(ctx context.Context, e Entry, data []byte) error {
	if e == EntryMark {
		err := s.set(ctx, s.markName(), string(data))
		crashpoint.Hit("tokenstore.keychain.mark-written")
		return err
	}
	return s.writeRecord(ctx, data)
}

func (s *keychainSection) Remove(ctx context.Context, e Entry) error {
	if e == EntryMark {
		err := s.delete(ctx, s.markName())
		crashpoint.Hit("tokenstore.keychain.mark-removed")
		return err
	}
	return s.removeRecord(ctx)
}

func (s *keychainSection) markName() string { return s.name + ".mark" }

// partSize is what fits everywhere. On macOS the part is encoded in base64 and
// must fit into a command of 4,096 bytes with its names.
const partSize = 2000

// maxParts bounds what a damaged head can make a reader ask for.
const maxParts = 500

// A head says where the record is. Saving takes these steps, and a crash
// between any two of them leaves a head that names all parts there are:
//
//  1. {Set: old, Other: new}  then the new parts are written
//  2. {Set: new, Other: old}  the record has changed; the old parts are dropped
//  3. {Set: new}
type head struct {
	Version int      `json:"v"`
	Set     *partSet `json:"set,omitempty"`   // the record; nil: there is none
	Other   *partSet `json:"other,omitempty"` // half written, or not yet all dropped
}

// A partSet is one saved record. Its ID is random and never used again, so
// that a write that comes too late harms no other set.
type partSet struct {
	ID       string `json:"id"`
	Parts    int    `json:"parts"`
	Sum      string `json:"sum"` // of key and data
	Encoding string `json:"enc,omitempty"`
}

func (p *partSet) id() string {
	if p == nil {
		return ""
	}
	return p.ID
}

func (p *partSet) valid() bool {
	return p == nil || p.ID != "" && len(p.ID) <= 64 && strings.Trim(p.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == "" &&
		p.Parts > 0 && p.Parts <= maxParts && (p.Encoding == "" || p.Encoding == "base64")
}

const headVersion = 1

func (h head) encode() string {
	h.Version = headVersion
	data, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(data)
}

func decodeHead(data string) (head, error) {
	var h head
	err := json.Unmarshal([]byte(data), &h)
	switch {
	case err == nil && h.Version > headVersion:
		return head{}, fmt.Errorf("%w: written by a newer version (layout %d, this one knows %d)", ErrCorrupt, h.Version, headVersion)
	case err != nil, h.Version < 1, h.Set == nil && h.Other == nil, !h.Set.valid(), !h.Other.valid():
		return head{}, fmt.Errorf("%w: the keychain item is not a head", ErrCorrupt)
	}
	return h, nil
}

// split makes a set of data, as it is saved under key.
func split(key Key, data []byte) (set *partSet, parts []string, err error) {
	set = &partSet{ID: rand.Text(), Sum: sum(key, data)}
	text := string(data)
	if !plain(text) {
		text, set.Encoding = base64.StdEncoding.EncodeToString(data), "base64"
	}
	for len(text) > partSize {
		parts, text = append(parts, text[:partSize]), text[partSize:]
	}
	parts = append(parts, text)
	set.Parts = len(parts)
	if set.Parts > maxParts {
		return nil, nil, fmt.Errorf("%w: a record of %d bytes is too large for the keychain", ErrUnavailable, len(data))
	}
	return set, parts, nil
}

// join is the inverse of split; false: these are not the parts of that set.
func (p *partSet) join(key Key, parts []string) (data []byte, ok bool) {
	data = []byte(strings.Join(parts, ""))
	if p.Encoding == "base64" {
		var err error
		if data, err = base64.StdEncoding.DecodeString(string(data)); err != nil {
			return nil, false
		}
	}
	return data, len(parts) == p.Parts && sum(key, data) == p.Sum
}

// sum binds the data to its key: a head that was moved to another key's name
// is damaged, not somebody else's record.
func sum(key Key, data []byte) string {
	sum := sha256.Sum256(append(fmt.Appendf(nil, "%q ", key), data...))
	return hex.EncodeToString(sum[:])
}

// plain reports whether s is printable ASCII, which every keychain gives back
// as it was, wherever it is split.
func plain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func (s *keychainSection) readHead(ctx context.Context) (head, error) {
	data, err := s.get(ctx, s.name)
	if err != nil {
		return head{}, err
	}
	return decodeHead(data)
}

func (s *keychainSection) writeHead(ctx context.Context, h head) error {
	return s.set(ctx, s.name, h.encode())
}

func (s *keychainSection) partName(p *partSet, i int) string {
	return fmt.Sprintf("%s.%s.%d", s.name, p.ID, i)
}

// readRecord returns the record's data, or an error and the ID of the set it
// is about.
func (s *keychainSection) readRecord(ctx context.Context) (data []byte, set string, err error) {
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
func (s *keychainSection) sweep(ctx context.Context) (head, error) {
	h, err := s.readHead(ctx)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		return head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	return h, s.drop(ctx, h.Other)
}

func (s *keychainSection) drop(ctx context.Context, p *partSet) error {
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

func (s *keychainSection) writeRecord(ctx context.Context, data []byte) error {
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

func (s *keychainSection) removeRecord(ctx context.Context) error {
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

func (s *keychainSection) get(ctx context.Context, item string) (string, error) {
	return s.call(ctx, func(r ring) (string, error) { return r.Get(s.k.service(), item) })
}

func (s *keychainSection) set(ctx context.Context, item, data string) error {
	_, err := s.call(ctx, func(r ring) (string, error) { return "", r.Set(s.k.service(), item, data) })
	return err
}

func (s *keychainSection) delete(ctx context.Context, item string) error {
	_, err := s.call(ctx, func(r ring) (string, error) { return "", r.Delete(s.k.service(), item) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// call runs f in its turn and gives it up at the deadline, which go-keyring
// knows nothing of. The turn, and by s.last the lock, end only when f returns.
func (s *keychainSection) call(ctx context.Context, f func(ring) (string, error)) (string, error) {
	timeout := s.k.callTimeout()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	noAnswer := func() error {
		if context.Cause(ctx) == errNoAnswer {
			return fmt.Errorf("%w: the keychain has not answered for %v; it may be showing a prompt", ErrUnavailable, timeout)
		}
		return ctx.Err()
	}
	leave, ok := s.k.turn.Enter(ctx, "")
	if !ok {
		return "", noAnswer()
	}
	r := s.k.ring
	if r == nil {
		r = osRing{}
	}
	var (
		data string
		err  error
		done = make(chan struct{})
	)
	s.last = done
	go func() {
		defer close(done)
		defer leave()
		// go-keyring panics when the bus goes away under an open prompt.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: the keychain service went away: %v", ErrUnavailable, p)
			}
		}()
		for range 3 {
			data, err = f(r)
			if errors.Is(err, keyring.ErrNotFound) {
				err = ErrNotFound
			} else if err != nil {
				err = explain(err)
			}
			if !errors.As(err, new(passing)) {
				return
			}
		}
	}()
	select {
	case <-done:
		return data, err
	case <-ctx.Done():
		return "", noAnswer()
	}
}

// A passing error may be gone when the keychain is asked again.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }

var errNoAnswer = errors.New("no answer")
