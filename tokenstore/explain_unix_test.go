//go:build unix && !darwin

package tokenstore_test

import (
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// A Secret Service that denies a method says nothing of the item: gnome-keyring does so to a client
// that it does not know yet.
func TestKeychainAsksAgain(t *testing.T) {
	denied := dbus.Error{Name: "org.freedesktop.DBus.Error.UnknownMethod", Body: []any{"no such method"}}
	r := newRing(t)
	k := r.open(t.TempDir())
	mustSave(t, k, work, long("old"))
	calls := 0
	r.setHook(func(string, string) error {
		if calls++; calls%2 == 1 {
			return denied
		}
		return nil
	})
	wantToken(t, k, work, long("old"))
	mustSave(t, k, work, long("new"))
	wantToken(t, k, work, long("new"))
	if err := k.Delete(t.Context(), work); err != nil {
		t.Error(err)
	}
	if got := r.names(""); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	_, err := k.Get(t.Context(), work)
	wantError(t, "get", err, tokenstore.ErrNotFound)

	r.setHook(func(string, string) error { return denied })
	_, err = k.Get(t.Context(), work)
	wantError(t, "get", err, tokenstore.ErrUnavailable)
	wantError(t, "delete", k.Delete(t.Context(), work), tokenstore.ErrUnavailable)
}
