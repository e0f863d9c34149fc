//go:build unix

package tokenstore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	openNoWait   = syscall.O_NONBLOCK // does not wait for a pipe's other end
	openNoFollow = syscall.O_NOFOLLOW | openNoWait
)

func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// ownFile refuses a file of a store that belongs to others or that they can reach.
func ownFile(path string, info fs.FileInfo) error {
	switch owner, perm := ownerOf(info), info.Mode().Perm(); {
	case owner != os.Geteuid():
		return exposed(path, foreign(owner), "mv", path, path+".foreign")
	case perm&0o077 != 0:
		return exposed(path, open(perm), "chmod", "-R", "go-rwx", filepath.Dir(path))
	}
	return nil
}

// givenFile refuses a file that [ReadSecretFile] may not read.
func givenFile(path string, file *os.File, info fs.FileInfo) error {
	mounted := readOnly(file)
	owner, perm := ownerOf(info), info.Mode().Perm()
	allowed := fs.FileMode(0o700)
	switch {
	case mounted:
		allowed = 0o755
	case owner == os.Geteuid():
	case owner == 0:
		allowed = 0o740
	default:
		return exposed(path, foreign(owner), asRoot("chown", strconv.Itoa(os.Geteuid()), path)...)
	}
	switch {
	case perm&^allowed == 0:
		return nil
	case owner != os.Geteuid():
		return exposed(path, open(perm), asRoot("chmod", "o-rwx,g-wx", path)...)
	}
	return exposed(path, open(perm), "chmod", "go-rwx", path)
}

// checkFolder refuses a folder that belongs to another user, that others can write
// to, or that others could replace through a folder or symbolic link on the way
// to it. It walks the path from the root, one name at a time, and checks each
// folder before it looks inside. If dir does not exist, it returns the error of
// the file system.
//
// Others may list dir: its files are closed to them and are named by hashes. The
// owner of a folder above dir is trusted, since somebody chose the path.
func checkFolder(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	at := "/" // as far as the walk has come; without symbolic links
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	above := info // of the folder that at is in
	links := 0
	for left := strings.Split(dir, "/"); len(left) > 0; {
		name := left[0]
		left = left[1:]
		switch {
		case name == "" || name == ".":
			continue
		case !info.IsDir():
			return &fs.PathError{Op: "open", Path: at, Err: syscall.ENOTDIR}
		case name == "..":
			at = filepath.Dir(at)
			if info, err = os.Lstat(at); err != nil {
				return err
			}
			if above, err = os.Lstat(filepath.Dir(at)); err != nil {
				return err
			}
			continue
		case othersWrite(at, info) && info.Mode()&fs.ModeSticky == 0:
			return exposed(at, open(info.Mode().Perm())+", who can so replace what is in it", closeFolder(at, info)...)
		}
		next := filepath.Join(at, name)
		found, err := os.Lstat(next)
		if err != nil {
			return err
		}
		if owner := ownerOf(found); othersWrite(at, info) && owner != os.Geteuid() && owner != 0 && owner != ownerOf(info) {
			return exposed(next, foreign(owner), moveAway(next, info)...)
		}
		if found.Mode().Type() != fs.ModeSymlink {
			at, above, info = next, info, found
			continue
		}
		if links++; links > 40 {
			return &fs.PathError{Op: "open", Path: dir, Err: syscall.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			at = "/"
			if info, err = os.Lstat(at); err != nil {
				return err
			}
			above = info
		}
		left = append(strings.Split(target, "/"), left...)
	}
	switch owner := ownerOf(info); {
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: at, Err: syscall.ENOTDIR}
	case owner != os.Geteuid():
		return exposed(at, foreign(owner), moveAway(at, above)...)
	case othersWrite(at, info):
		return exposed(at, open(info.Mode().Perm()), "chmod", "-R", "go-rwx", at)
	}
	return nil
}

// othersWrite reports whether a user other than its owner can write to a folder.
// A group with the user's own number is private to the user, as login programs
// have it (pam_umask's usergroups): they let it write to all that the user makes.
// So it does not count.
func othersWrite(path string, info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Mode&0o022 == 0 {
		return false
	}
	uid := os.Geteuid()
	private := uid != 0 && int(stat.Gid) == uid && os.Getegid() == uid
	return stat.Mode&0o002 != 0 || !private || hasACL(path)
}

// closeFolder returns the command after which others cannot replace files in a
// folder that they can write to.
func closeFolder(path string, info fs.FileInfo) []string {
	if ownerOf(info) == os.Geteuid() {
		return []string{"chmod", "go-w", path}
	}
	return asRoot("chmod", "+t", path)
}

// moveAway returns the command that moves another user's folder out of the way.
func moveAway(path string, above fs.FileInfo) []string {
	command := []string{"mv", path, path + ".foreign"}
	if above.Mode()&fs.ModeSticky != 0 && ownerOf(above) != os.Geteuid() {
		return asRoot(command...) // in a sticky folder only the owner and root may move it
	}
	return command
}

func asRoot(command ...string) []string {
	if os.Geteuid() == 0 {
		return command
	}
	return append([]string{"sudo"}, command...)
}

func exposed(path, why string, mend ...string) error {
	return &FileError{Path: path, Why: why, Mend: mend, Err: ErrExposed}
}

func foreign(owner int) string {
	return fmt.Sprintf("belongs to another user (%d), and this program runs as %d", owner, os.Geteuid())
}

func open(perm fs.FileMode) string {
	if perm&0o022 != 0 {
		return fmt.Sprintf("can be written by other users (%v)", perm)
	}
	return fmt.Sprintf("can be read by other users (%v)", perm)
}
