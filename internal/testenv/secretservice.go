package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// Keyring names the environment variable that, set to "throwaway", says that the Secret
// Service on the session bus belongs to this run alone. Tests break items and stop
// daemons, so without it nobody's own keyring is touched.
const Keyring = "ASTRAVUE_MCP_KEYRING"

// SecretService asks for a Secret Service on the session bus with an unlocked default
// collection that may be used and spoiled at will; `.ci/parts COMMAND` runs a command
// beside one.
func SecretService(t testing.TB) {
	t.Helper()
	const part = "a throw-away Secret Service"
	Need(t, part, runtime.GOOS == "linux", "only Linux has one")
	Need(t, part, os.Getenv(Keyring) == "throwaway", "run the tests under .ci/parts")
	err := unlocked()
	Need(t, part, err == nil, fmt.Sprint(err))
}

// unlocked reports why items cannot be kept in the default collection. It never prompts.
func unlocked() error {
	// godbus would start a bus of its own where none is announced.
	address := os.Getenv("DBUS_SESSION_BUS_ADDRESS")
	if address == "" {
		return fmt.Errorf("DBUS_SESSION_BUS_ADDRESS is not set")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	bus, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session bus: %w", err)
	}
	defer bus.Close()

	const service = "org.freedesktop.secrets"
	var collection dbus.ObjectPath
	err = bus.Object(service, "/org/freedesktop/secrets").
		CallWithContext(ctx, "org.freedesktop.Secret.Service.ReadAlias", 0, "default").Store(&collection)
	if err != nil {
		return fmt.Errorf("secret service: %w", err)
	}
	var locked bool
	err = bus.Object(service, collection).
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, "org.freedesktop.Secret.Collection", "Locked").Store(&locked)
	if err != nil {
		return fmt.Errorf("default collection %s: %w", collection, err)
	}
	if locked {
		return fmt.Errorf("default collection %s is locked", collection)
	}
	return nil
}

// SecretItems finds the items with these attributes in the Secret Service on the bus, locked or
// not. It asks again where gnome-keyring denies that it has the method, as it does, seldom, to a
// client's first call.
func SecretItems(t testing.TB, bus *dbus.Conn, attributes map[string]string) []dbus.ObjectPath {
	t.Helper()
	var open, locked []dbus.ObjectPath
	var err error
	for range 3 {
		err = bus.Object("org.freedesktop.secrets", "/org/freedesktop/secrets").
			Call("org.freedesktop.Secret.Service.SearchItems", 0, attributes).Store(&open, &locked)
		var denied dbus.Error
		if !errors.As(err, &denied) || denied.Name != "org.freedesktop.DBus.Error.UnknownMethod" {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(open, locked)
}
