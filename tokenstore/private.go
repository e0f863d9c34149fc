package tokenstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrExposed is wrapped by the errors about a file or folder that another user
// of the machine could have written or read. It wraps [ErrUnavailable].
var ErrExposed = fmt.Errorf("%w: others could have written or read it", ErrUnavailable)

// A FileError says that a file or folder was not used as it is, and what puts
// that right.
type FileError struct {
	Path string // of the file or folder
	Why  string // what is wrong, to be read after the path

	// Mend is the command that puts it right, as an argument list that no
	// shell has read; nil: no command does.
	Mend []string

	// Err is [ErrExposed], [ErrCorrupt], [ErrWrongIdentity] or, for what is
	// no file, [ErrUnavailable].
	Err error
}

func (e *FileError) Error() string { return "tokenstore: " + text.Line(e.Path) + " " + e.Why }

func (e *FileError) Unwrap() error { return e.Err }

// notAFile returns the error about what is in the place of a file and is none,
// and nil for a file. What is no file is never opened: a named pipe would hold
// up who opens it, and a device may do anything.
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

// checkOwn refuses what is at path unless it is a file of this user's that
// nobody else can reach, or nothing. A folder is to have been checked before.
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

// openOwn opens a file of this user's own for reading. It follows no symbolic
// link and waits for nobody. Errors of the file system are as they are.
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
	// Between the two somebody may have put another in its place.
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

// makeFolder makes dir and what is missing above it, for this user alone, and
// refuses it if others can reach in.
func makeFolder(dir string) error {
	// What others could turn elsewhere is refused before anything is made there.
	err := checkFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = checkFolder(dir)
		}
	}
	return folderError(err)
}

// folderError gives an error of checkFolder this package's type.
func folderError(err error) error {
	if refused := (*FileError)(nil); err == nil || errors.As(err, &refused) {
		return err
	}
	return unavailable("folder", err)
}
