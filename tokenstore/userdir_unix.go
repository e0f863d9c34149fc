//go:build unix

package tokenstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// userDir returns a private folder that is the same for all processes of this
// user. No environment variable is asked, HOME, TMPDIR and XDG_RUNTIME_DIR
// included, since two processes that share a keychain may differ in all of
// them. Where the login session has a folder, which is also where its message
// bus and so its keychain is found, it is in that one.
func userDir() (string, error) {
	uid := strconv.Itoa(os.Getuid())
	if run := filepath.Join("/run/user", uid); ownPrivate(run) == nil {
		return private(filepath.Join(run, "astravue-mcp"))
	}
	return private(filepath.Join("/tmp", "astravue-mcp-"+uid))
}

// private makes dir if it is not there and refuses it if others can reach in:
// somebody else may have made it first, in a folder where everybody can.
func private(dir string) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, ownPrivate(dir)
}

func ownPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case !ok || int(stat.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users (%v)", dir, info.Mode().Perm())
	}
	return nil
}
