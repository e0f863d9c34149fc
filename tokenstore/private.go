package tokenstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrExposed is wrapped by errors about a file or folder that another user of the
// machine could have read or changed. It wraps [ErrUnavailable].
var ErrExposed = fmt.Errorf("%w: others could have written or read it", ErrUnavailable)

// A FileError says why a file or folder was refused, and which command puts that
// right.
type FileError struct {
	Path string // of the file or folder
	Why  string // what is wrong, to be read after the path

	// Mend is the command that puts it right, as a list of arguments without any
	// quoting. It is nil if no command does.
	Mend []string

	// Err is [ErrExposed], [ErrCorrupt], [ErrWrongIdentity] or, if Path is not a
	// file, [ErrUnavailable].
	Err error
}

func (e *FileError) Error() string { return "tokenstore: " + text.Line(e.Path) + " " + e.Why }

func (e *FileError) Unwrap() error { return e.Err }

// notAFile returns an error if mode is not that of a regular file. Nothing else is
// opened: opening a named pipe can block, and a device may do anything.
func notAFile(path string, mode fs.FileMode) error {
	kind := "a device"
	mend := []string{"rm", path}
	switch mode.Type() {
	case 0:
		return nil
	case fs.ModeDir:
		kind, mend = "a folder", []string{"mv", path, path + ".old"}
	case fs.ModeSymlink:
		kind = "a symbolic link"
	case fs.ModeNamedPipe:
		kind = "a named pipe"
	case fs.ModeSocket:
		kind = "a socket"
	}
	return &FileError{Path: path, Why: "is " + kind + " and not a file", Mend: mend, Err: ErrUnavailable}
}

// checkOwn returns an error unless path is free or is a file of this user that
// nobody else can reach. The caller has checked the folder.
func checkOwn(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unavailable("look", err)
	}
	return checkInfo(path, info)
}

func checkInfo(path string, info fs.FileInfo) error {
	if err := notAFile(path, info.Mode()); err != nil {
		return err
	}
	return ownFile(path, info)
}

// openOwn opens a file that checkOwn allows, for reading. It follows no symbolic
// link and does not block. Errors of the file system are not wrapped.
func openOwn(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := checkInfo(path, info); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|openNoFollow, 0)
	if err != nil {
		return nil, err
	}
	// Somebody may have put another file in its place in between.
	info, err = file.Stat()
	if err == nil {
		err = checkInfo(path, info)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// makeFolder makes dir and the missing folders above it, for this user alone. It
// refuses dir if others can reach in.
func makeFolder(dir string) error {
	// The folders that exist are checked first, so that nothing is made where
	// others could lead it elsewhere.
	err := checkFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = checkFolder(dir)
		}
	}
	return folderError(err)
}

// folderError wraps an error of checkFolder in this package's types.
func folderError(err error) error {
	if refused := (*FileError)(nil); err == nil || errors.As(err, &refused) {
		return err
	}
	return unavailable("folder", err)
}
