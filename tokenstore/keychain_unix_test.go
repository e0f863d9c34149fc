//go:build unix

package tokenstore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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
	var open, locked []dbus.ObjectPath
	if err := bus.Object(secrets, "/org/freedesktop/secrets").Call("org.freedesktop.Secret.Service.SearchItems", 0,
		map[string]string{"service": service}).Store(&open, &locked); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Concat(open, locked) {
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

func TestKeychainProcesses(t *testing.T) {
	testenv.SecretService(t)
	storetest.RunProcesses(t, storetest.Processes{
		Open:    func(_ testing.TB, dir string) tokenstore.Store { return realKeychain(dir) },
		Entries: func(t testing.TB, dir string) []string { return items(t, realKeychain(dir).Service) },
	})
}

// ownSession runs the calling test once more, in a D-Bus session with a
// keyring of its own, which it may break; only there it returns true.
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

func TestKeychainThatAnswersLate(t *testing.T) {
	if !ownSession(t) {
		return
	}
	dir := t.TempDir()
	k, other := realKeychain(dir), realKeychain(dir)
	mustSave(t, k, work, long("old"))
	want := len(items(t, k.Service))
	daemon := serviceProcess(t)
	k.CallTimeout = 100 * time.Millisecond
	late := 0
	for round := range 6 {
		err := k.Update(t.Context(), work, func(ctx context.Context, l *tokenstore.Locked) error {
			timer := time.AfterFunc(time.Duration(round)*5*time.Millisecond, func() { _ = daemon.Signal(syscall.SIGSTOP) })
			defer timer.Stop()
			_, err := l.Save(ctx, grant(long(fmt.Sprint("late", round))))
			return err
		})
		if err == nil { // it was faster
			_ = daemon.Signal(syscall.SIGCONT)
			continue
		}
		late++
		wantError(t, "save", err, tokenstore.ErrUnavailable)
		wantLocked(t, other, work)
		if err := daemon.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		newer := long(fmt.Sprint("newer", round))
		mustSave(t, other, work, newer)
		time.Sleep(20 * time.Millisecond)
		wantToken(t, other, work, newer)
		if got := items(t, other.Service); len(got) != want {
			t.Errorf("round %d: %d items, want %d: %q", round, len(got), want, got)
		}
	}
	if late == 0 {
		t.Error("no save was late")
	}
	t.Logf("%d saves were given up", late)
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
