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
// passphrase is missing, malformed, or not the one that sealed its folder. The
// records are not damaged, and nothing is changed.
var ErrWrongIdentity = errors.New("tokenstore: wrong identity or passphrase")

// File keeps records in a folder, for machines without a keychain. Each record is
// a file that is sealed with age (https://age-encryption.org/v1) to one X25519
// identity. Exactly one of Identity, IdentityFile and Passphrase must be set:
// File never writes plain text. It must not be copied after first use.
//
// Files have mode 0600 in a folder of mode 0700, and hashes for names. A save
// replaces a file as a whole: after a crash or a power loss it is the old file or
// the new one. The locks are in the folder too, so all programs that share the
// records share their locks.
//
// A File refuses a folder or file that another user of the machine could have
// read or changed. The error is a [*FileError] that wraps [ErrExposed] and holds
// the command that puts it right. It refuses a folder that belongs to another
// user, that others can write to, or that others could replace through a folder
// above it, and a file that belongs to another user or that others can reach. (On a Kubernetes volume, set fsGroupChangePolicy to
// OnRootMismatch, or each mount opens the files to the group.) It never opens a
// symbolic link, a pipe or a device in the place of a file. On Windows, access
// lists that files inherit keep others out; File does not check them.
//
// A File cannot tell if another program of this user, or a restored backup, has
// put an older record back, since nothing outside the folder says which one is
// newest. The older grant is then used. A server that detects the reuse of its
// refresh token ends the session. A record from before a sign-out counts as a
// session.
type File struct {
	// Dir is the folder. If "", astravue-mcp in [os.UserConfigDir].
	Dir string

	// Identity is an age identity, "AGE-SECRET-KEY-1…".
	Identity Secret

	// IdentityFile is the path of a file with one such identity, as age-keygen
	// writes it, for example a mounted secret. [ReadSecretFile] reads it.
	IdentityFile string

	// Passphrase returns a person's passphrase. The passphrase seals an identity,
	// which is generated once and kept in the folder. If create is true, that is
	// about to happen, and the person should type the passphrase twice. File
	// calls Passphrase when it first reads or writes, and once only, unless ctx
	// ended it; every later use returns its error. Opening the identity takes
	// 256 MiB for about a second. An identity that would take more is refused.
	Passphrase func(ctx context.Context, create bool) (Secret, error)

	// LockTimeout bounds how long Update waits for its lock. If 0,
	// [DefaultLockTimeout].
	LockTimeout time.Duration

	locks fileLocks

	opening    gate.Gate // guards the fields below up to refused
	identity   *age.X25519Identity
	pinned     bool  // the folder has the identity's fingerprint
	wrong      error // why this File has no identity and tries no more
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

// fileEntries are one key's files, for one Update or one Get.
type fileEntries struct {
	f    *File
	dir  string
	key  Key
	name string
}

func (s *fileEntries) path(e Entry) string {
	return filepath.Join(s.dir, s.name+"."+e.String()+".age")
}

// title is the first line of the sealed text. Because of it, a file that was copied
// to another key's name is damaged there and yields nobody else's record.
func (s *fileEntries) title(e Entry) []byte {
	return fmt.Appendf(nil, "astravue-mcp %s %q\n", e, s.key)
}

func (s *fileEntries) Read(ctx context.Context, e Entry) ([]byte, error) {
	return bounded(ctx, func() ([]byte, error) { return s.read(ctx, e) }, nil)
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
