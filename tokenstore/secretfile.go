package tokenstore

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadSecretFile returns the content of the file at path: an identity, a
// passphrase, a client secret or a key, of at most 4 MiB. It follows symbolic
// links, since mounted secrets are links. It reads a pipe, such as that of a
// shell's <(…), until the pipe ends. It is safe for concurrent use.
//
// The file must belong to this user and be closed to all others, or belong to
// root and be open to its group for reading at most. The libraries of SSH and
// PostgreSQL ask that of a key. On a read-only mount, such as the secrets of a
// container, the file may belong to anybody and others may read it, since nobody
// could change that. On Windows, which has no such modes, it is not checked.
//
// If others could have read or changed the file, the error is a [*FileError] that
// wraps [ErrExposed]. If path is neither a file nor a pipe, it is one that wraps
// [ErrUnavailable]. An error wraps [ErrCorrupt] for a larger file, and
// [ErrUnavailable] if the file system does not answer before ctx ends. Other
// errors are those of package [os].
func ReadSecretFile(ctx context.Context, path string) (Secret, error) {
	data, err := bounded(ctx, func() ([]byte, error) { return readGiven(path) }, nil)
	return NewSecret(string(data)), err
}

func readGiven(path string) ([]byte, error) {
	path, err := filepath.Abs(path) // for the command in an error, which may be run in another folder
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
