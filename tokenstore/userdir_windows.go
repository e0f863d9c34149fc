package tokenstore

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

// userDir returns a folder that is the same for all processes of this user,
// whatever their environment says, and that Windows closes to others.
func userDir() (string, error) {
	local, err := windows.KnownFolderPath(windows.FOLDERID_LocalAppData, windows.KF_FLAG_DEFAULT)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(local, "astravue-mcp")
	return dir, makeFolder(dir)
}
