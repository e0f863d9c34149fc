//go:build unix

package tokenstore

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// userDir returns a private folder that all processes of this user share. It
// reads no environment variable, not even HOME, TMPDIR or XDG_RUNTIME_DIR: two
// processes that share a keychain may have different ones.
//
// It takes the first of these. Nobody else can influence the choice, since two
// processes with two folders could both hold a lock:
//
//   - the folder of the login session, where its D-Bus and so its keychain is;
//   - the home folder that the user database names, if it belongs to this user
//     and can be written to;
//   - /tmp, for a user without a home. If another user takes the name first, it
//     is refused. Later nobody can take it, since /tmp is sticky. Programs that
//     clean /tmp spare it, since each lock renews the time of its file.
func userDir() (string, error) {
	uid := strconv.Itoa(os.Geteuid())
	if run := filepath.Join("/run/user", uid); checkFolder(run) == nil {
		dir := filepath.Join(run, "astravue-mcp")
		return dir, makeFolder(dir)
	}
	if home := homeOf(uid); home != "" {
		if info, err := os.Stat(home); err == nil && info.IsDir() && ownerOf(info) == os.Geteuid() {
			dir := filepath.Join(home, ".local", "state", "astravue-mcp")
			if err := makeFolder(dir); !errors.Is(err, syscall.EROFS) {
				return dir, err
			}
		}
	}
	dir := filepath.Join("/tmp", "astravue-mcp-"+uid)
	return dir, makeFolder(dir)
}

// homeOf returns a user's home, or "" if it is unknown. It uses [os/user] on macOS
// only: elsewhere, without cgo, that package reads HOME for a user that is not in
// /etc/passwd.
func homeOf(uid string) string {
	if runtime.GOOS == "darwin" {
		if u, err := user.LookupId(uid); err == nil {
			return u.HomeDir
		}
		return ""
	}
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[2] == uid && filepath.IsAbs(f[5]) {
			return f[5]
		}
	}
	return ""
}
