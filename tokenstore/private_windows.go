package tokenstore

import (
	"io/fs"
	"os"
)

// Windows has neither flag. Its named pipes are not in folders.
const openNoWait, openNoFollow = 0, 0

// Windows has access lists, which files inherit from their folders. Those of a
// user's profile are closed to others. A mode says nothing about them.

func ownFile(string, fs.FileInfo) error { return nil }

func givenFile(string, *os.File, fs.FileInfo) error { return nil }

func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: fs.ErrInvalid}
	}
	return err
}
