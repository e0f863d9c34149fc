//go:build unix && !darwin

package tokenstore

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os/exec"

	"github.com/godbus/dbus/v5"
	"github.com/zalando/go-keyring"
)

// explain wraps an error of go-keyring in ErrUnavailable, with words for a person.
// go-keyring has no error types of its own here, so explain looks for those that
// it passes on.
func explain(err error) error {
	var (
		call dbus.Error
		run  *exec.Error
		dial *net.OpError
		path *fs.PathError
	)
	switch {
	case errors.Is(err, keyring.ErrUnsupportedPlatform):
		return unavailable("there is no keychain on this platform", err)
	case errors.As(err, &dial), errors.As(err, &run), errors.As(err, &path):
		return unavailable("there is no D-Bus session here, and so no keychain", err)
	case errors.Is(err, dbus.ErrClosed), errors.Is(err, io.EOF):
		return unavailable("the D-Bus session has ended, or restarts", err)
	case errors.As(err, &call):
		switch call.Name {
		case "org.freedesktop.Secret.Error.NoSuchObject",
			"org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.DBus.Error.UnknownInterface", "org.freedesktop.DBus.Error.UnknownMethod":
			// Either the item was deleted after go-keyring found it and before it read
			// it, and the next search will say so. Or gnome-keyring did not know its
			// client yet and denied that it has the method, which says nothing about
			// the item.
			return passing{unavailable("the keychain service refused", err)}
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
			"org.freedesktop.DBus.Error.Spawn.ServiceNotFound", "org.freedesktop.DBus.Error.Spawn.ExecFailed":
			return unavailable("no keychain service (Secret Service) runs in this D-Bus session", err)
		}
		return unavailable("the keychain service refused", err)
	}
	return unavailable("the keychain is locked, or none was ever made", err)
}
