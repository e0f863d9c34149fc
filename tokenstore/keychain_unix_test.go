//go:build unix

package tokenstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/zalando/go-keyring"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

// What is here needs a real Secret Service.

// realKeychain returns the store of the Secret Service for dir.
func realKeychain(dir string) *tokenstore.Keychain {
	return &tokenstore.Keychain{Service: "astravue-mcp test " + tokenstore.HashName(dir), LockDir: dir}
}

// items lists a service's items in the Secret Service.
func items(t testing.TB, service string) (names []string) {
	t.Helper()
	bus := sessionBus(t)
	for _, path := range testenv.SecretItems(t, bus, map[string]string{"service": service}) {
		attributes, err := bus.Object(secrets, path).GetProperty("org.freedesktop.Secret.Item.Attributes")
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, attributes.Value().(map[string]string)["username"])
	}
	return names
}

const secrets = "org.freedesktop.secrets"

func sessionBus(t testing.TB) *dbus.Conn {
	t.Helper()
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

func TestKeychain(t *testing.T) {
	testenv.SecretService(t)
	storetest.Run(t, func(t testing.TB) tokenstore.Store {
		k := realKeychain(t.TempDir())
		return damagedRing{k, func(tokenstore.Key) {
			for _, item := range items(t, k.Service) {
				if strings.HasSuffix(item, ".0") {
					if err := keyring.Set(k.Service, item, "altered"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}}
	})
}

// busVar hands a session bus to the processes that a test starts.
const busVar = "ASTRAVUE_MCP_TEST_BUS"

func TestKeychainProcesses(t *testing.T) {
	var line *storetest.Line
	if address := os.Getenv(busVar); address != "" { // its parent has looked whether there is a keychain
		t.Setenv(sessionBusVar, address)
	} else {
		testenv.SecretService(t)
		line = storetest.NewLine(t, "unix", socketOf(t, os.Getenv(sessionBusVar)))
		t.Setenv(busVar, "unix:path="+line.Addr)
	}
	testProcesses(t, "keychain", storetest.Processes{
		Open:    func(_ testing.TB, dir string) tokenstore.Store { return realKeychain(dir) },
		Entries: func(t testing.TB, dir string) []string { return items(t, realKeychain(dir).Service) },
		Stall:   func(testing.TB, string) (resume func()) { return line.Stall() },
	})
}

const sessionBusVar = "DBUS_SESSION_BUS_ADDRESS"

// socketOf finds the socket of a bus, as [net.Dial] names it.
func socketOf(t testing.TB, address string) string {
	t.Helper()
	address, _, _ = strings.Cut(address, ",")
	if path, ok := strings.CutPrefix(address, "unix:path="); ok {
		return path
	}
	name, ok := strings.CutPrefix(address, "unix:abstract=")
	if !ok {
		t.Fatalf("no socket in %q", address)
	}
	return "@" + name
}

// ownSession runs the calling test once more, in a D-Bus session with a
// keyring of its own, which it may break; only there it returns true. That
// process is no child of testenv: dbus-run-session starts it, and its checks
// need a [testing.T].
func ownSession(t *testing.T) bool {
	const inside = "ASTRAVUE_MCP_TEST_OWN_SESSION"
	if os.Getenv(inside) != "" {
		return true
	}
	for _, program := range []string{"dbus-run-session", "gnome-keyring-daemon", "bash"} {
		_, err := exec.LookPath(program)
		testenv.Need(t, program, err == nil, fmt.Sprint(err))
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "dbus-run-session", "--", "bash", "-c",
		`eval "$(printf pw | gnome-keyring-daemon --unlock --components=secrets)"; "$@"`, "bash",
		exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), inside+"=1")
	for _, name := range []string{"DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS"} {
		cmd.Env = append(cmd.Env, name+"=")
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+dir)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestKeychainLocked(t *testing.T) {
	if !ownSession(t) {
		return
	}
	k := realKeychain(t.TempDir())
	mustSave(t, k, work, "token")
	bus := sessionBus(t)
	collection := dbus.ObjectPath("/org/freedesktop/secrets/collection/login")
	if err := bus.Object(secrets, "/org/freedesktop/secrets").
		Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{collection}).Err; err != nil {
		t.Fatal(err)
	}
	_, err := k.Get(t.Context(), work)
	wantError(t, "get", err, tokenstore.ErrUnavailable)
	t.Log(err)
	wantError(t, "save", save(t.Context(), k, work, "new"), tokenstore.ErrUnavailable)
	wantError(t, "delete", k.Delete(t.Context(), work), tokenstore.ErrUnavailable)
}

func serviceProcess(t testing.TB) *os.Process {
	t.Helper()
	var pid uint32
	if err := sessionBus(t).BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, secrets).Store(&pid); err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(int(pid))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeychainServiceDies(t *testing.T) {
	if !ownSession(t) {
		return
	}
	k := realKeychain(t.TempDir())
	mustSave(t, k, work, "token")
	daemon := serviceProcess(t)
	if err := daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err := k.Get(t.Context(), work)
	wantError(t, "get", err, tokenstore.ErrUnavailable)
	t.Log(err)
}
