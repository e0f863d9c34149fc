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
	"time"

	"filippo.io/age"
)

const (
	sealedIdentity = "identity.age"         // the identity that Passphrase opens
	fingerprint    = "identity.fingerprint" // of the folder's identity, and written after that
)

// open returns the identity of a folder that the caller has checked. It makes an
// identity and a fingerprint only if mayMake. A wrong identity stays wrong in
// this process, so open then returns the first error again without trying.
func (f *File) open(ctx context.Context, dir string, mayMake bool) (*age.X25519Identity, error) {
	leave, ok := f.opening.Enter(ctx, "")
	if !ok {
		return nil, ctx.Err()
	}
	defer leave()
	if f.wrong != nil || f.identity != nil && f.pinned {
		return f.identity, f.wrong
	}
	fresh := func() bool {
		_, err := os.Lstat(filepath.Join(dir, fingerprint))
		return errors.Is(err, fs.ErrNotExist)
	}
	if mayMake && fresh() {
		// One process at a time, or two would each make an identity. The
		// wait may be for a person, and is bounded by ctx alone.
		unlock, err := f.locks.acquire(ctx, time.Now(), func() (string, error) {
			return filepath.Join(dir, "identity.lock"), makeFolder(dir)
		})
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	identity, err := f.identity, error(nil)
	if identity == nil {
		identity, err = f.load(ctx, dir, fresh(), mayMake)
	}
	pinned := false
	if err == nil {
		pinned, err = checkFingerprint(dir, identity, mayMake)
	}
	if errors.Is(err, ErrWrongIdentity) {
		f.wrong, f.identity = err, nil
	}
	if err != nil {
		return nil, err
	}
	f.identity, f.pinned = identity, pinned
	return identity, nil
}

// load returns the identity from the one place that is given. If Passphrase is
// and the folder is fresh, it makes the identity if it may.
func (f *File) load(ctx context.Context, dir string, fresh, mayMake bool) (*age.X25519Identity, error) {
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
		data, err := ReadSecretFile(ctx, f.IdentityFile)
		if refused := (*FileError)(nil); err != nil && !errors.As(err, &refused) {
			err = unavailable("identity", err)
		}
		if err != nil {
			return nil, err
		}
		return parseIdentity([]byte(data.Reveal()))
	}
	return f.loadSealed(ctx, dir, fresh, mayMake)
}

// loadSealed opens the identity in the folder with the passphrase. If there is
// none and the folder is fresh, it makes one if it may.
func (f *File) loadSealed(ctx context.Context, dir string, fresh, mayMake bool) (*age.X25519Identity, error) {
	path, print := filepath.Join(dir, sealedIdentity), filepath.Join(dir, fingerprint)
	sealed, err := readFile(path)
	create := errors.Is(err, fs.ErrNotExist)
	switch {
	case create && !fresh: // a new identity would not open the records that are there
		return nil, &FileError{
			Path: path, Why: "is missing: the folder was sealed with an identity that is kept elsewhere, or what it holds is lost",
			Mend: []string{"rm", print}, Err: ErrWrongIdentity,
		}
	case create && !mayMake:
		return nil, fmt.Errorf("%w: %s is missing, and with it what opens the records", ErrCorrupt, path)
	case err != nil && !create:
		return nil, err
	}
	if !f.asked { // a person is asked once, and a wrong answer is not asked for again
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
	key.SetMaxWorkFactor(maxWorkFactor)
	data, err := unseal(sealed, key)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, fmt.Errorf("%w: the passphrase does not open %s", ErrWrongIdentity, path)
	}
	if err != nil {
		return nil, &FileError{
			Path: path, Why: fmt.Sprintf("cannot be opened (%v), and without a copy of it what the folder holds is lost", err),
			Mend: []string{"rm", "-f", path, print}, Err: ErrCorrupt,
		}
	}
	return parseIdentity(data)
}

// maxWorkFactor is the one with which age seals: 2^18 takes 256 MiB and about a
// second. Each further step doubles both, and the file says how many there are.
const maxWorkFactor = 18

// create makes an identity and writes it to path, sealed with the passphrase.
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

// checkFingerprint returns an error if the folder was sealed with another
// identity. age cannot tell that from a damaged file. It reports whether the
// folder has a fingerprint, and makes one if it may. The fingerprint is a hash of
// the recipient: with the recipient itself, anybody who can write to the folder
// could seal records.
func checkFingerprint(dir string, identity *age.X25519Identity, mayMake bool) (pinned bool, err error) {
	path := filepath.Join(dir, fingerprint)
	sum := sha256.Sum256([]byte("astravue-mcp " + identity.Recipient().String()))
	want := hex.EncodeToString(sum[:]) + "\n"
	have, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !mayMake:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return true, writeFile(path, []byte(want))
	case err != nil:
		return false, err
	case len(have) != len(want):
		return false, &FileError{
			Path: path, Why: "is not a fingerprint; a new one is made of the identity",
			Mend: []string{"rm", path}, Err: ErrCorrupt,
		}
	case string(have) != want:
		return false, fmt.Errorf("%w: %s belongs to another one", ErrWrongIdentity, dir)
	}
	return true, nil
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
