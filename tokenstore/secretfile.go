package tokenstore

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadSecretFile returns what is in the file at path: an identity, a
// passphrase, a client secret, a key, at most 4 MiB. Symbolic links are
// followed, as mounted secrets are some. A pipe is read until it ends, such as
// that of a shell's <(…).
//
// The file belongs to this user, and then no other may read or write it, or to
// root, and then its group may read it too: what the libraries of SSH and
// PostgreSQL ask of a key. On a mount that cannot be written to, where nobody
// could change that (secrets of a container), any owner is taken, and others
// may read it. Else the error is a [*FileError] that wraps [ErrExposed]; it is
// one that wraps [ErrUnavailable] for what is neither file nor pipe. What is
// larger is ErrCorrupt; a file system that does not answer before ctx ends is
// ErrUnavailable; all else is as [os] says it. Windows has no such modes, and
// there nothing is asked of a file. Safe for concurrent use.
func ReadSecretFile(ctx context.Context, path string) (Secret, error) {
	data, err := under(ctx, func() ([]byte, error) { return readGiven(path) }, nil)
	return NewSecret(string(data)), err
}

func readGiven(path string) ([]byte, error) {
	path, err := filepath.Abs(path) // a command that mends it may be typed elsewhere
	if err != nil {
		return nil, err
	}
	check := func(info fs.FileInfo, err error) error {
		if err != nil || info.Mode().Type() == fs.ModeNamedPipe {
			return err
		}
		return notAFile(path, info.Mode())
	}
	if err := check(os.Stat(path)); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|openNoWait, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err := check(info, err); err != nil {
		return nil, err
	}
	if err := givenFile(path, file, info); err != nil {
		return nil, err
	}
	return readAll(path, file)
}
