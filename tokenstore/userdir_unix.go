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

// userDir returns a private folder that is the same for all processes of this
// user. No environment variable is asked, HOME, TMPDIR and XDG_RUNTIME_DIR
// included, since two processes that share a keychain may differ in all of
// them.
//
// The first of these is it, and nobody else has a say in which that is, or two
// processes could each hold a lock of their own:
//
//   - the login session's folder, which is where its message bus and so its
//     keychain is found;
//   - the home that the user database names, if it is this user's and can be
//     written to at all;
//   - /tmp, for a user without a home. Another user can take that name first,
//     and it is then refused. While it is ours he cannot take it, since /tmp
//     is sticky; a cleaner of /tmp spares it, since each lock renews its file.
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

// homeOf returns a user's home; "": none is known. [os/user] is asked only
// where it does not look at HOME, as it does without cgo for a user that
// /etc/passwd does not have.
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
