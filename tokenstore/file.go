package tokenstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/gate"
)

// ErrWrongIdentity is wrapped by the errors of a [File] whose identity or
// passphrase is not the one its folder was sealed with, or is none at all. No
// record is damaged and none is changed.
var ErrWrongIdentity = errors.New("tokenstore: wrong identity or passphrase")

// File keeps records in a folder, each in a file sealed with age
// (https://age-encryption.org/v1) to one X25519 identity, for machines without
// a keychain. Exactly one of Identity, IdentityFile and Passphrase is set;
// nothing is ever written in plain text. It must not be copied after first use.
//
// Files are 0600 in a folder of 0700, named by hashes, and replaced whole:
// after a crash or a power loss each is the old one or the new one. The locks
// are in the folder too, so whoever shares the records shares their locks.
//
// What another user of the machine could have written or read is a [*FileError]
// that wraps [ErrExposed] and names the command that mends it: a folder that
// others can write to, or on the way to which others could put another in its
// place, or that belongs to another user; a file in it that is open to others
// or another user's. (A folder of a Kubernetes volume needs an fsGroupChangePolicy
// of OnRootMismatch, or each mount opens the files to the group.) A symbolic
// link, a pipe or a device in the place of a file is never opened. Windows
// keeps others out by lists that files inherit, which are not looked at.
//
// Who can write to the folder all the same, this user's other programs and
// whoever restores a backup, can put an older record back, unnoticed: there is
// nothing outside the folder to compare it with. Its grant is then used, and a
// server that detects the reuse of a refresh token ends the session; after a
// sign-out, a record that is put back says that there is a session.
type File struct {
	// Dir is the folder; "": astravue-mcp in [os.UserConfigDir].
	Dir string

	// Identity is an age identity, "AGE-SECRET-KEY-1…".
	Identity Secret

	// IdentityFile is the path of a file with one such identity, as
	// age-keygen writes it: a mounted secret, for example. It is read as
	// [ReadSecretFile] does.
	IdentityFile string

	// Passphrase returns a person's passphrase. It opens an identity that is
	// generated once and kept in the folder, sealed with it; create says
	// that this is about to happen, so that it can be asked for twice. It is
	// called at most once per File, not before there is something to read
	// or write, and its error is returned by every later use. To open what
	// it seals takes 256 MiB for about a second; an identity that would take
	// more is refused.
	Passphrase func(ctx context.Context, create bool) (Secret, error)

	// LockTimeout bounds an Update's wait; 0: [DefaultLockTimeout].
	LockTimeout time.Duration

	locks fileLocks

	opening    gate.Gate // of what follows
	identity   *age.X25519Identity
	pinned     bool  // the folder has the identity's fingerprint
	wrong      error // why there will be no identity
	asked      bool
	passphrase Secret
	refused    error

	scryptLogN int // 0: age's default
}

var _ Store = (*File)(nil)

// Get implements [Store].
func (f *File) Get(ctx context.Context, key Key) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	e, err := f.entries(key)
	if err != nil {
		return Record{}, err
	}
	data, err := e.Read(ctx, EntryRecord)
	if err != nil {
		return Record{}, err
	}
	return DecodeRecord(data)
}

// Update implements [Store].
func (f *File) Update(ctx context.Context, key Key, do func(context.Context, *Locked) error) error {
	e, err := f.entries(key)
	if err != nil {
		return err
	}
	return update(ctx, func(ctx context.Context) (func(), error) {
		start := time.Now()
		ctx, cancel := withLimit(ctx, key, f.LockTimeout)
		defer cancel()
		return f.locks.acquire(ctx, start, func() (string, error) {
			return filepath.Join(e.dir, e.name+".lock"), makeFolder(e.dir)
		})
	}, e, do)
}

// Delete implements [Store].
func (f *File) Delete(ctx context.Context, key Key) error {
	return f.Update(ctx, key, func(ctx context.Context, l *Locked) error { return l.Delete(ctx) })
}

func (f *File) entries(key Key) (*fileEntries, error) {
	dir := f.Dir
	if dir == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, unavailable("folder", err)
		}
		dir = filepath.Join(config, "astravue-mcp")
	}
	return &fileEntries{f: f, dir: dir, key: key, name: hashName(string(key))}, nil
}

// A fileEntries is one key's files: the [Entries] of an Update, or what one
// Get reads.
type fileEntries struct {
	f    *File
	dir  string
	key  Key
	name string
}

func (s *fileEntries) path(e Entry) string {
	return filepath.Join(s.dir, s.name+"."+e.String()+".age")
}

// title is the first line of what is sealed: a file that was renamed to
// another's name is damaged, not another's record.
func (s *fileEntries) title(e Entry) []byte {
	return fmt.Appendf(nil, "astravue-mcp %s %q\n", e, s.key)
}

func (s *fileEntries) Read(ctx context.Context, e Entry) ([]byte, error) {
	return under(ctx, func() ([]byte, error) { return s.read(ctx, e) }, nil)
}

func (s *fileEntries) read(ctx context.Context, e Entry) ([]byte, error) {
	switch err := checkFolder(s.dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotFound
	case err != nil:
		return nil, folderError(err)
	}
	sealed, err := readFile(s.path(e))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	identity, err := s.f.open(ctx, s.dir, false)
	if err != nil {
		return nil, err
	}
	data, err := unseal(sealed, identity)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, s.path(e), err)
	}
	data, ok := bytes.CutPrefix(data, s.title(e))
	if !ok {
		return nil, fmt.Errorf("%w: %s: not the %s of this key", ErrCorrupt, s.path(e), e)
	}
	return data, nil
}

func (s *fileEntries) Write(ctx context.Context, e Entry, data []byte) error {
	identity, err := s.f.open(ctx, s.dir, true)
	if err != nil {
		return err
	}
	sealed, err := seal(append(s.title(e), data...), identity.Recipient())
	if err != nil {
		return unavailable("seal", err)
	}
	return writeFile(s.path(e), sealed)
}

func (s *fileEntries) Remove(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := removeFile(s.path(e)); err != nil {
		return unavailable("remove", err)
	}
	return nil
}
