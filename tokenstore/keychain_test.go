package tokenstore_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zalando/go-keyring"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

var (
	work = tokenstore.GrantKey("https://api.example.com/mcp", "work")
	home = tokenstore.GrantKey("https://api.example.com/mcp", "home")
)

func grant(token string) tokenstore.Record {
	return tokenstore.Record{Grant: &tokenstore.Grant{
		Issuer: "https://auth.example.com", AccessToken: tokenstore.NewSecret(token), RefreshToken: tokenstore.NewSecret("refresh " + token),
	}}
}

func save(ctx context.Context, s tokenstore.Store, key tokenstore.Key, token string) error {
	return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, grant(token))
		return err
	})
}

func mustSave(t testing.TB, s tokenstore.Store, key tokenstore.Key, token string) {
	t.Helper()
	if err := save(t.Context(), s, key, token); err != nil {
		t.Fatalf("save: %v", err)
	}
}

// wantToken reads the record and compares its access token, shown by its ends.
func wantToken(t testing.TB, s tokenstore.Store, key tokenstore.Key, want ...string) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if got := r.Grant.AccessToken.Reveal(); !slices.Contains(want, got) {
		t.Errorf("got token %.10q…, want one of %.10q", got, want)
	}
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	for _, other := range []error{tokenstore.ErrCorrupt, tokenstore.ErrNotFound, tokenstore.ErrUnavailable, tokenstore.ErrWrongIdentity} {
		if other != want && errors.Is(err, other) {
			t.Errorf("%s: %v is %v too", what, err, other)
		}
	}
}

func wantLocked(t testing.TB, s tokenstore.Store, key tokenstore.Key) *tokenstore.LockTimeoutError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := s.Update(ctx, key, func(context.Context, *tokenstore.Locked) error {
		t.Error("two hold the lock at once")
		return nil
	})
	timeout := new(tokenstore.LockTimeoutError)
	if !errors.As(err, &timeout) {
		t.Fatalf("got %v, want a *LockTimeoutError", err)
	}
	return timeout
}

var killsFlag = flag.Int("kills", 0, "how often a process is killed at each point; 0: once, 5 times where every part must be, in the long mode 500")

func kills() int {
	n := 1
	if os.Getenv(testenv.CI) == "1" {
		n = 5
	}
	if os.Getenv(testenv.Long) == "1" {
		n = 500
	}
	return cmp.Or(*killsFlag, n)
}

func testProcesses(t *testing.T, store string, p storetest.Processes) {
	t.Helper()
	p.Kills = kills()
	n := storetest.RunProcesses(t, p)
	testenv.Count(t, "kills of the store alone", "store", store,
		"kills", n.Killed, "intact records", n.Intact, "calls that finished late", n.Late)
}

// A strictRing is a keychain with the limits of all real ones: what does not
// fit into Windows' credentials or macOS' command line fails the test, and
// names that differ by case alone are the same.
type strictRing struct {
	t testing.TB

	mu    sync.Mutex
	items map[string]string
	hook  func(op, item string) error // before each call
}

func newRing(t testing.TB) *strictRing { return &strictRing{t: t, items: make(map[string]string)} }

func (r *strictRing) call(op, service, item string) (name string, err error) {
	r.mu.Lock()
	hook := r.hook
	r.mu.Unlock()
	if hook != nil {
		err = hook(op, item)
	}
	if strings.Trim(item, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.") != "" || len(item) > 100 {
		r.t.Errorf("item name %q", item)
	}
	return strings.ToLower(service + ":" + item), err
}

func (r *strictRing) Get(service, item string) (string, error) {
	name, err := r.call("get", service, item)
	r.mu.Lock()
	defer r.mu.Unlock()
	data, ok := r.items[name]
	if err == nil && !ok {
		err = keyring.ErrNotFound
	}
	return data, err
}

func (r *strictRing) Set(service, item, data string) error {
	name, err := r.call("set", service, item)
	if err != nil {
		return err
	}
	command := fmt.Sprintf("add-generic-password -U -s '%s' -a '%s' -w 'go-keyring-base64:%s'\n", service, item, base64.StdEncoding.EncodeToString([]byte(data)))
	if len(data) > tokenstore.PartSize || len(data) > 2560 || len(command) > 3000 {
		r.t.Errorf("item of %d bytes, macOS command of %d", len(data), len(command))
	}
	if i := strings.IndexFunc(data, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		r.t.Errorf("item with %q", data[i])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items[name] = data
	return nil
}

func (r *strictRing) Delete(service, item string) error {
	name, err := r.call("delete", service, item)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.items[name]; err == nil && !ok {
		err = keyring.ErrNotFound
	}
	if err == nil {
		delete(r.items, name)
	}
	return err
}

func (r *strictRing) setHook(hook func(op, item string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook = hook
}

// names lists the items whose name contains part.
func (r *strictRing) names(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.items)), func(s string) bool { return !strings.Contains(s, part) })
}

// edit changes one item; "" deletes it.
func (r *strictRing) edit(name string, f func(string) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.items[name] = f(r.items[name]); r.items[name] == "" {
		delete(r.items, name)
	}
}

func (r *strictRing) open(dir string) *tokenstore.Keychain {
	k := &tokenstore.Keychain{LockDir: dir}
	k.SetItems(r)
	return k
}

const headPrefix = "astravue-mcp:"

func head(key tokenstore.Key) string { return headPrefix + tokenstore.HashName(string(key)) }

type damagedRing struct {
	*tokenstore.Keychain
	damage func(key tokenstore.Key)
}

func (d damagedRing) Damage(_ testing.TB, key tokenstore.Key) { d.damage(key) }

func TestKeychainWithinLimits(t *testing.T) {
	t.Parallel()
	first := func(r *strictRing, key tokenstore.Key, part string) string {
		return r.names(strings.TrimPrefix(head(key), headPrefix) + part)[0]
	}
	for name, damage := range map[string]func(*strictRing, tokenstore.Key){
		"part missing": func(r *strictRing, k tokenstore.Key) { r.edit(first(r, k, "."), func(string) string { return "" }) },
		"part cut off": func(r *strictRing, k tokenstore.Key) {
			r.edit(first(r, k, "."), func(s string) string { return s[:len(s)-1] })
		},
		"part altered": func(r *strictRing, k tokenstore.Key) {
			r.edit(first(r, k, "."), func(s string) string { return "X" + s[1:] })
		},
		"head garbage":    func(r *strictRing, k tokenstore.Key) { r.edit(head(k), func(string) string { return "garbage" }) },
		"head cut off":    func(r *strictRing, k tokenstore.Key) { r.edit(head(k), func(s string) string { return s[:9] }) },
		"head of nothing": func(r *strictRing, k tokenstore.Key) { r.edit(head(k), func(string) string { return `{"v":1}` }) },
		"head from the future": func(r *strictRing, k tokenstore.Key) {
			r.edit(head(k), func(s string) string { return strings.Replace(s, `"v":1`, `"v":2`, 1) })
		},
		"head of many parts": func(r *strictRing, k tokenstore.Key) {
			r.edit(head(k), func(s string) string { return strings.Replace(s, `"parts":`, `"parts":9999`, 1) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for locks
			storetest.Run(t, func(t testing.TB) tokenstore.Store {
				r := newRing(t)
				return damagedRing{r.open(t.TempDir()), func(k tokenstore.Key) { damage(r, k) }}
			})
		})
	}
}

// long is a token of three parts.
func long(s string) string { return strings.Repeat(s, 3*tokenstore.PartSize/len(s)/2) }

func TestKeychainLeavesNothingBehind(t *testing.T) {
	r := newRing(t)
	k := r.open(t.TempDir())
	mustSave(t, k, work, long("first"))
	want := len(r.names(""))
	// Every call of a save fails once.
	for n := 1; ; n++ {
		old, err := k.Get(t.Context(), work)
		if err != nil {
			t.Fatal(err)
		}
		calls, failed := 0, false
		r.setHook(func(string, string) error {
			if calls++; calls == n {
				failed = true
				return errors.New("broken")
			}
			return nil
		})
		token := long(fmt.Sprint("n", n))
		err = save(t.Context(), k, work, token)
		r.setHook(nil)
		if err == nil {
			wantToken(t, k, work, token)
		} else {
			wantError(t, "save", err, tokenstore.ErrUnavailable)
			wantToken(t, k, work, token, old.Grant.AccessToken.Reveal())
		}
		mustSave(t, k, work, long("after"))
		if got := r.names(""); len(got) != want {
			t.Errorf("call %d fails: after the next save there is %q", n, got)
		}
		if !failed {
			break
		}
	}
	for n := 1; ; n++ {
		calls := 0
		r.setHook(func(string, string) error {
			if calls++; calls == n {
				return errors.New("broken")
			}
			return nil
		})
		err := k.Delete(t.Context(), work)
		r.setHook(nil)
		if err == nil {
			break
		}
		if _, err := k.Get(t.Context(), work); err != nil {
			wantError(t, "get", err, tokenstore.ErrNotFound)
		}
		if err := k.Delete(t.Context(), work); err != nil {
			t.Fatal(err)
		}
		if got := r.names(""); len(got) != 0 {
			t.Errorf("call %d fails: after the next delete there is %q", n, got)
		}
		mustSave(t, k, work, long("again"))
	}
}

func TestKeychainBindsRecordsToKeys(t *testing.T) {
	r := newRing(t)
	k := r.open(t.TempDir())
	mustSave(t, k, work, "work")
	mustSave(t, k, home, "home")
	for _, from := range r.names("") { // everything of work's, under home's names
		if rest, ok := strings.CutPrefix(from, head(work)); ok {
			r.edit(head(home)+rest, func(string) string { return r.items[from] })
		}
	}
	_, err := k.Get(t.Context(), home)
	wantError(t, "get", err, tokenstore.ErrCorrupt)
	wantToken(t, k, work, "work")
}

func TestKeychainReaderOvertaken(t *testing.T) {
	for _, saves := range []int{1, 2, 3} {
		r := newRing(t)
		dir := t.TempDir()
		reader, writer := r.open(dir), r.open(dir)
		mustSave(t, writer, work, long("0"))
		n := 0
		var inside bool
		r.setHook(func(op, item string) error {
			if part := strings.Contains(item, "."); op == "get" && part && !inside && n < saves {
				inside = true
				defer func() { inside = false }()
				n++
				ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
				defer cancel()
				if err := save(ctx, writer, work, long(fmt.Sprint(n))); err != nil {
					n = saves // the reader has the lock
				}
			}
			return nil
		})
		got, err := reader.Get(t.Context(), work)
		if err != nil || got.Grant.AccessToken.IsZero() {
			t.Errorf("%d saves while reading: %v", saves, err)
		}
	}
}

// A keychain that does not answer in time may do what it was told all the same.
func TestKeychainKeepsTheLockOfACallThatWasGivenUp(t *testing.T) {
	t.Parallel() // it waits for locks
	r := newRing(t)
	dir := t.TempDir()
	k, other := r.open(dir), r.open(dir)
	mustSave(t, k, work, long("old"))
	items := len(r.names(""))

	answer := make(chan bool)
	heads := 0
	r.setHook(func(op, item string) error {
		if op == "set" && !strings.Contains(item, ".") {
			if heads++; heads == 2 { // the one that makes the new parts the record
				<-answer
			}
		}
		return nil
	})
	k.CallTimeout = 500 * time.Millisecond
	start := time.Now()
	err := save(t.Context(), k, work, long("late"))
	wantError(t, "save", err, tokenstore.ErrUnavailable)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the save was given up after %v", d)
	}
	wantToken(t, other, work, long("old"))
	if e := wantLocked(t, other, work); e.Holder == "" {
		t.Error("the holder is not named")
	}
	wantLocked(t, k, work)
	_, err = k.Get(t.Context(), work) // it waits behind the call
	wantError(t, "get", err, tokenstore.ErrUnavailable)

	close(answer)
	if err := other.Update(t.Context(), work, func(ctx context.Context, l *tokenstore.Locked) error {
		got, err := l.Get(ctx)
		if err == nil && got.Grant.AccessToken.Reveal() != long("late") {
			t.Error("the lock was released before the late write")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	mustSave(t, other, work, long("new"))
	wantToken(t, k, work, long("new"))
	if got := r.names(""); len(got) != items {
		t.Errorf("%d items, want %d: %q", len(got), items, got)
	}
}

// Whose time is over when the new parts are the record has saved it, and leaves none of the old.
func TestKeychainTidiesUpThoughTheTimeIsOver(t *testing.T) {
	r := newRing(t)
	k := r.open(t.TempDir())
	mustSave(t, k, work, long("old"))
	items := len(r.names(""))
	ctx, cancel := context.WithCancel(t.Context())
	r.setHook(func(op, _ string) error {
		if op == "delete" {
			cancel()
		}
		return nil
	})
	if err := save(ctx, k, work, long("new")); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() == nil {
		t.Fatal("nothing was dropped")
	}
	wantToken(t, k, work, long("new"))
	if got := r.names(""); len(got) != items {
		t.Errorf("%d items, want %d: %q", len(got), items, got)
	}
}

func TestKeychainPromptAnsweredLetsEverybodyOn(t *testing.T) {
	r := newRing(t)
	k := r.open(t.TempDir())
	mustSave(t, k, work, "token")
	answer := make(chan bool)
	r.setHook(func(string, string) error { <-answer; return nil })
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() { wantToken(t, k, work, "token") })
	}
	time.AfterFunc(50*time.Millisecond, func() { close(answer) })
	g.Wait()
}

func TestKeychainGivesUpAtOnceWhenCancelled(t *testing.T) {
	r := newRing(t)
	k := r.open(t.TempDir())
	answer := make(chan bool)
	defer close(answer)
	r.setHook(func(string, string) error { <-answer; return nil })
	for range 2 { // the second waits for its turn
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := k.Get(ctx, work); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
}

func TestKeychainBroken(t *testing.T) {
	for name, hook := range map[string]func(string, string) error{
		"error":          func(string, string) error { return errors.New("untyped") },
		"panic":          func(string, string) error { panic("nil signal") },
		"no such binary": func(string, string) error { return &exec.Error{Name: "dbus-launch", Err: exec.ErrNotFound} },
		"unsupported":    func(string, string) error { return keyring.ErrUnsupportedPlatform },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRing(t)
			r.hook = hook
			k := r.open(t.TempDir())
			_, err := k.Get(t.Context(), work)
			wantError(t, "get", err, tokenstore.ErrUnavailable)
			wantError(t, "save", save(t.Context(), k, work, "token"), tokenstore.ErrUnavailable)
			wantError(t, "delete", k.Delete(t.Context(), work), tokenstore.ErrUnavailable)
			t.Log(err)
		})
	}
}

// forgetful takes everything and keeps nothing, as the macOS tool might.
type forgetful struct{ *strictRing }

func (forgetful) Set(string, string, string) error { return nil }

func TestKeychainThatKeepsNothingIsNoticed(t *testing.T) {
	k := &tokenstore.Keychain{LockDir: t.TempDir()}
	k.SetItems(forgetful{newRing(t)})
	if err := save(t.Context(), k, work, "token"); err == nil {
		t.Error("a save that kept nothing is no error")
	}
}

func TestKeychainLockFolder(t *testing.T) {
	dir, err := tokenstore.UserDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"} {
		t.Setenv(name, t.TempDir())
	}
	if got, err := tokenstore.UserDir(); got != dir || err != nil {
		t.Errorf("got %s, %v in another environment, want %s", got, err, dir)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := newRing(t).open(filepath.Join(file, "locks"))
	wantError(t, "save", save(t.Context(), k, work, "token"), tokenstore.ErrUnavailable)
}
