package tokenstore

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

// userDir returns a folder that all processes of this user share, whatever their
// environment is, and that Windows closes to other users.
func userDir() (string, error) {
	local, err := windows.KnownFolderPath(windows.FOLDERID_LocalAppData, windows.KF_FLAG_DEFAULT)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(local, "astravue-mcp")
	return dir, makeFolder(dir)
}
