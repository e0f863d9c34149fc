package tokenstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
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
type File struct {
	// Dir is the folder; "": astravue-mcp in [os.UserConfigDir].
	Dir string

	// Identity is an age identity, "AGE-SECRET-KEY-1…".
	Identity Secret

	// IdentityFile is the path of a file with one such identity, as
	// age-keygen writes it: a mounted secret, for example.
	IdentityFile string

	// Passphrase returns a person's passphrase. It opens an identity that is
	// generated once and kept in the folder, sealed with it; create says
	// that this is about to happen, so that it can be asked for twice. It is
	// called at most once per File, not before there is something to read
	// or write, and its error is returned by every later use.
	Passphrase func(ctx context.Context, create bool) (Secret, error)

	// LockTimeout bounds an Update's wait; 0: [DefaultLockTimeout].
	LockTimeout time.Duration

	locks fileLocks

	opening    gate.Gate // of what follows
	identity   *age.X25519Identity
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
	e, err := f.section(key)
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
	e, err := f.section(key)
	if err != nil {
		return err
	}
	return update(ctx, func(ctx context.Context) (func(), error) {
		if err := os.MkdirAll(e.dir, 0o700); err != nil {
			return nil, unavailable("folder", err)
		}
		start := time.Now()
		ctx, cancel := withLimit(ctx, key, f.LockTimeout)
		defer cancel()
		return f.locks.acquire(ctx, start, filepath.Join(e.dir, e.name+".lock"))
	}, e, do)
}

// Delete implements [Store].
func (f *File) Delete(ctx context.Context, key Key) error {
	return f.Update(ctx, key, func(ctx context.Context, l *Locked) error { return l.Delete(ctx) })
}

func (f *File) section(key Key) (*fileSection, error) {
	dir := f.Dir
	if dir == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, unavailable("folder", err)
		}
		dir = filepath.Join(config, "astravue-mcp")
	}
	return &fileSection{f: f, dir: dir, key: key, name: hashName(string(key))}, nil
}

// A fileSection is one key's files: the [Entries] of an Update, or what one
// Get reads.
type fileSection struct {
	f    *File
	dir  string
	key  Key
	name string
}

func (s *fileSection) path(e Entry) string {
	return filepath.Join(s.dir, s.name+"."+e.String()+".age")
}

// title is the first line of what is sealed: a file that was renamed to
// another's name is damaged, not another's record.
func (s *fileSection) title(e Entry) []byte {
	return fmt.Appendf(nil, "astravue-mcp %s %q\n", e, s.key)
}

// maxFile bounds what is read of a file that may be anything.
const maxFile = 4 << 20

func (s *fileSection) Read(ctx context.Context, e Entry) ([]byte, error) {
	sealed, err := readFile(s.path(e))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	identity, err := s.f.open(ctx, s.dir)
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

func (s *fileSection) Write(ctx context.Context, e Entry, data []byte) error {
	identity, err := s.f.open(ctx, s.dir)
	if err != nil {
		return err
	}
	sealed, err := seal(append(s.title(e), data...), identity.Recipient())
	if err != nil {
		return unavailable("seal", err)
	}
	return writeFile(s.path(e), sealed)
}

func (s *fileSection) Remove(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := removeFile(s.path(e)); err != nil {
		return unavailable("remove", err)
	}
	return nil
}

const (
	sealedIdentity = "identity.age"         // the identity that Passphrase opens
	fingerprint    = "identity.fingerprint" // of the folder's identity; written after it
)

// open returns the identity of the folder. Where it fails for a reason that
// will not go away in this process, it fails so again without trying.
func (f *File) open(ctx context.Context, dir string) (*age.X25519Identity, error) {
	leave, ok := f.opening.Enter(ctx, "")
	if !ok {
		return nil, ctx.Err()
	}
	defer leave()
	if f.identity != nil || f.wrong != nil {
		return f.identity, f.wrong
	}
	fresh := func() bool {
		_, err := os.Stat(filepath.Join(dir, fingerprint))
		return errors.Is(err, fs.ErrNotExist)
	}
	if fresh() {
		// One process at a time, or two would each make an identity. The
		// wait may be for a person, and is bounded by ctx alone.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, unavailable("folder", err)
		}
		unlock, err := f.locks.acquire(ctx, time.Now(), filepath.Join(dir, "identity.lock"))
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	identity, err := f.load(ctx, dir, fresh())
	if err == nil {
		err = checkFingerprint(dir, identity)
	}
	if errors.Is(err, ErrWrongIdentity) {
		f.wrong = err
	}
	if err != nil {
		return nil, err
	}
	f.identity = identity
	return identity, nil
}

// load reads the identity, and makes Passphrase's if the folder is fresh.
func (f *File) load(ctx context.Context, dir string, fresh bool) (*age.X25519Identity, error) {
	given := 0
	for _, is := range []bool{!f.Identity.IsZero(), f.IdentityFile != "", f.Passphrase != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("%w: exactly one of Identity, IdentityFile and Passphrase must be set", ErrWrongIdentity)
	case !f.Identity.IsZero():
		return parseIdentity([]byte(f.Identity.Reveal()))
	case f.IdentityFile != "":
		data, err := readFile(f.IdentityFile)
		if err != nil {
			return nil, err
		}
		return parseIdentity(data)
	}

	path := filepath.Join(dir, sealedIdentity)
	sealed, err := readFile(path)
	create := errors.Is(err, fs.ErrNotExist)
	switch {
	case create && !fresh:
		return nil, fmt.Errorf("%w: %s was not sealed with a passphrase", ErrWrongIdentity, dir)
	case err != nil && !create:
		return nil, err
	}
	if !f.asked {
		passphrase, err := f.Passphrase(ctx, create)
		if err != nil && ctx.Err() != nil {
			return nil, err // nobody has answered: ask again
		}
		f.asked, f.passphrase, f.refused = true, passphrase, err
	}
	if f.refused != nil {
		return nil, f.refused
	}
	if f.passphrase.IsZero() {
		return nil, fmt.Errorf("%w: the passphrase is empty", ErrWrongIdentity)
	}
	if create {
		return f.create(path)
	}
	key, err := age.NewScryptIdentity(f.passphrase.Reveal())
	if err != nil {
		return nil, unavailable("passphrase", err)
	}
	data, err := unseal(sealed, key)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, fmt.Errorf("%w: the passphrase does not open %s", ErrWrongIdentity, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return parseIdentity(data)
}

// create makes the identity that the passphrase seals.
func (f *File) create(path string) (*age.X25519Identity, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, unavailable("generate identity", err)
	}
	lock, err := age.NewScryptRecipient(f.passphrase.Reveal())
	if err != nil {
		return nil, unavailable("passphrase", err)
	}
	if f.scryptLogN != 0 {
		lock.SetWorkFactor(f.scryptLogN)
	}
	sealed, err := seal([]byte(identity.String()+"\n"), lock)
	if err != nil {
		return nil, unavailable("seal", err)
	}
	return identity, writeFile(path, sealed)
}

func parseIdentity(text []byte) (*age.X25519Identity, error) {
	ids, err := age.ParseIdentities(bytes.NewReader(bytes.ReplaceAll(text, []byte("\r"), nil)))
	if err != nil {
		// Not age's own error: it may quote the identity.
		return nil, fmt.Errorf("%w: not an age identity", ErrWrongIdentity)
	}
	if len(ids) == 1 {
		if id, ok := ids[0].(*age.X25519Identity); ok {
			return id, nil
		}
	}
	return nil, fmt.Errorf("%w: exactly one X25519 identity is needed", ErrWrongIdentity)
}

// checkFingerprint tells a wrong identity from a damaged file, which age
// cannot. The fingerprint is a hash: the recipient itself would let whoever
// can write to the folder seal records of his own.
func checkFingerprint(dir string, identity *age.X25519Identity) error {
	path := filepath.Join(dir, fingerprint)
	sum := sha256.Sum256([]byte("astravue-mcp " + identity.Recipient().String()))
	want := hex.EncodeToString(sum[:]) + "\n"
	have, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return writeFile(path, []byte(want))
	case err != nil:
		return err
	case len(have) != len(want):
		return fmt.Errorf("%w: %s: not a fingerprint", ErrCorrupt, path)
	case string(have) != want:
		return fmt.Errorf("%w: %s belongs to another one", ErrWrongIdentity, dir)
	}
	return nil
}

func seal(data []byte, to age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unseal(sealed []byte, with age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), with)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// readFile returns a file's content, or an error that wraps [fs.ErrNotExist]
// or one of this package's.
func readFile(path string) (data []byte, err error) {
	err = patiently(func() error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		data, err = io.ReadAll(io.LimitReader(file, maxFile+1))
		return err
	})
	if err != nil {
		return nil, unavailable("read", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is too large", ErrCorrupt, path)
	}
	return data, nil
}

// writeFile replaces a file whole and durably. The caller holds a lock, so
// that the temporary name is nobody else's; what a crash leaves under it, the
// next write replaces.
func writeFile(path string, data []byte) error {
	temp := path + ".tmp"
	err := writeSync(temp, data)
	if err == nil {
		crashpoint.Hit("tokenstore.file.temp-written")
		err = patiently(func() error { return os.Rename(temp, path) })
	}
	if err != nil {
		_ = os.Remove(temp)
		return unavailable("write", err)
	}
	crashpoint.Hit("tokenstore.file.renamed")
	if err := syncDir(filepath.Dir(path)); err != nil {
		return unavailable("write", err)
	}
	crashpoint.Hit("tokenstore.file.durable")
	return nil
}

func writeSync(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.file.temp-created")
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

func removeFile(path string) error {
	removed := false
	for _, p := range []string{path, path + ".tmp"} {
		switch err := patiently(func() error { return os.Remove(p) }); {
		case err == nil:
			removed = true
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		crashpoint.Hit("tokenstore.file.removed")
	}
	if !removed {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or removal survive a power loss. Windows has no such
// call, and some network file systems refuse it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// patiently tries f for 2 s on Windows, where a file that another process has
// open can be neither replaced nor, for a moment, opened.
func patiently(f func() error) error {
	err := f()
	if runtime.GOOS != "windows" {
		return err
	}
	for deadline := time.Now().Add(2 * time.Second); err != nil && !errors.Is(err, fs.ErrNotExist) && time.Now().Before(deadline); err = f() {
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
