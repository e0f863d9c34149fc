package tokenstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// readOnly reports whether a file is on a mount that nobody can write to.
func readOnly(file *os.File) bool {
	var stat unix.Statfs_t
	return unix.Fstatfs(int(file.Fd()), &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
}

// hasACL reports whether an access list names further users and groups. The group
// bits of the mode are then the limit for all of these.
func hasACL(path string) bool {
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
