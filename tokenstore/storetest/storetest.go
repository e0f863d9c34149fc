// Package storetest tests whether an implementation of [tokenstore.Store] keeps
// the contract. [Run] does so within one process. [RunProcesses] uses several:
// some are killed, and some give up calls that finish late.
//
// It stores made-up records only. It does not measure times, and does not look
// for secrets in the files or rows of a store.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// A Damager is a store that can damage a record. With it, [Run] tests that a
// damaged record is noticed and can be deleted. Embed a Store to make one.
type Damager interface {
	// Damage alters the record under key.
	Damage(t testing.TB, key tokenstore.Key)
}

// Run tests the stores that newStore returns. Each must be empty. Several exist at
// a time, and several goroutines use each.
func Run(t *testing.T, newStore func(t testing.TB) tokenstore.Store) {
	for _, test := range []struct {
		name string
		f    func(*testing.T, tokenstore.Store)
	}{
		{"nothing there", testEmpty},
		{"save and read back", testSave},
		{"no shared memory", testCopies},
		{"saved before the error", testDurableBeforeError},
		{"records of all sizes", testSizes},
		{"hostile keys", testKeys},
		{"two accounts never mix", testAccounts},
		{"delete", testDelete},
		{"damaged", testDamaged},
		{"mark", testMark},
		{"one at a time", testExclusion},
		{"readers among writers", testReaders},
		{"cancelled while waiting", testCancel},
		{"deadline while waiting", testDeadline},
		{"context already done", testDone},
		{"not held after return", testReleased},
		{"Locked of no use after return", testEscaped},
		{"keys do not wait for each other", testIndependent},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, newStore(t)) })
	}
}

// patience is how long a busy machine may take for an event that must come.
const patience = 20 * time.Second

var key = tokenstore.GrantKey("https://api.example.com/mcp", "work")

// grant returns the n-th grant of a kind, with tokens of about size bytes.
// wholeNumber recognises it.
func grant(n, size int) tokenstore.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second)
	return tokenstore.Record{Grant: &tokenstore.Grant{
		Server: "https://api.example.com/mcp", Account: "work",
		Issuer:             "https://auth.example.com/realms/main",
		TokenEndpoint:      "https://auth.example.com/realms/main/token",
		RevocationEndpoint: "https://auth.example.com/realms/main/revoke",
		ClientID:           "client-" + strconv.Itoa(n), ClientSecret: tokenstore.NewSecret("s3cret & <ünïcode>"),
		AuthMethod:   "client_secret_basic",
		Registration: tokenstore.RegistrationKey("https://auth.example.com", "app", "https://api.example.com", "http://127.0.0.1/callback"),
		Resource:     "https://api.example.com/mcp", ScopesRequested: []string{"read", "write"}, ScopesGranted: []string{"read"},
		AccessToken: token(n, size/2), ObtainedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		RefreshToken: token(n, size-size/2), RefreshExpiresAt: at.Add(24 * time.Hour), RefreshForever: n%2 == 0,
	}}
}

func registration() tokenstore.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return tokenstore.Record{Registration: &tokenstore.Registration{
		Issuer: "https://auth.example.com/realms/main", Server: "https://api.example.com/mcp", ClientID: "c", ClientSecret: tokenstore.NewSecret("s"),
		SecretExpiry: at.Add(time.Hour), AuthMethod: "none",
		RedirectURIs: []string{"http://127.0.0.1/callback", "http://127.0.0.1:20001/callback"}, RedirectURI: "http://127.0.0.1:20001/callback",
		ManagementURI: "https://auth.example.com/clients/c", ManagementToken: tokenstore.NewSecret("m"), CreatedAt: at,
	}}
}

func token(n, size int) tokenstore.Secret {
	unit := strconv.Itoa(n) + "."
	return tokenstore.NewSecret(strings.Repeat(unit, max(1, size/len(unit))))
}

// wholeNumber returns the n of the grant r, or an error if r is a mixture of
// several grants.
func wholeNumber(r tokenstore.Record) (int, error) {
	if r.Grant == nil {
		return 0, errors.New("not a grant")
	}
	n, err := strconv.Atoi(strings.TrimPrefix(r.Grant.ClientID, "client-"))
	if err != nil {
		return 0, err
	}
	unit := strconv.Itoa(n) + "."
	for _, s := range []tokenstore.Secret{r.Grant.AccessToken, r.Grant.RefreshToken} {
		if strings.ReplaceAll(s.Reveal(), unit, "") != "" {
			return 0, fmt.Errorf("a token of %s is not its own", r.Grant.ClientID)
		}
	}
	return n, nil
}

// equal compares two records without their generations.
func equal(a, b tokenstore.Record) bool {
	a.Generation, b.Generation = "", ""
	return reflect.DeepEqual(a, b)
}

func save(t testing.TB, s tokenstore.Store, key tokenstore.Key, r tokenstore.Record) (generation string) {
	t.Helper()
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) (err error) {
		generation, err = l.Save(ctx, r)
		return err
	}); err != nil {
		t.Fatalf("save %q: %v", key, err)
	}
	return generation
}

func get(t testing.TB, s tokenstore.Store, key tokenstore.Key) tokenstore.Record {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return r
}

func wantNone(t testing.TB, s tokenstore.Store, key tokenstore.Key) {
	t.Helper()
	if r, err := s.Get(t.Context(), key); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Fatalf("get %q: got %v, %v, want ErrNotFound", key, r, err)
	}
}

// add saves the grant that follows the stored one.
func add(ctx context.Context, s tokenstore.Store, key tokenstore.Key, size int) error {
	return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		n := 0
		switch r, err := l.Get(ctx); {
		case err == nil:
			if n, err = wholeNumber(r); err != nil {
				return err
			}
		case !errors.Is(err, tokenstore.ErrNotFound):
			return err
		}
		_, err := l.Save(ctx, grant(n+1, size))
		return err
	})
}

func testEmpty(t *testing.T, s tokenstore.Store) {
	wantNone(t, s, key)
	if err := s.Delete(t.Context(), key); err != nil {
		t.Errorf("delete nothing: %v", err)
	}
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Get(ctx); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("Locked.Get: got %v, want ErrNotFound", err)
		}
		if m, err := l.Mark(ctx); m != (tokenstore.Mark{}) || err != nil {
			t.Errorf("Mark: got %v, %v", m, err)
		}
		return errors.Join(l.SetMark(ctx, tokenstore.Mark{}), l.Delete(ctx))
	}); err != nil {
		t.Errorf("update of nothing: %v", err)
	}
	wantNone(t, s, key)
}

func testSave(t *testing.T, s tokenstore.Store) {
	seen := make(map[string]bool)
	for i, want := range []tokenstore.Record{grant(1, 100), grant(2, 5000), registration(), grant(2, 5000)} {
		want.Generation = "not this one"
		generation := save(t, s, key, want)
		if generation == "" || generation == want.Generation || seen[generation] {
			t.Errorf("save %d: generation %q is not a new one", i, generation)
		}
		seen[generation] = true
		if got := get(t, s, key); !equal(got, want) || got.Generation != generation {
			t.Errorf("save %d: got generation %q, %+v, want %q, %+v", i, got.Generation, got, generation, want)
		}
		if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			if got, err := l.Get(ctx); !equal(got, want) || got.Generation != generation {
				t.Errorf("save %d: Locked.Get: got %+v, %v, want %+v", i, got, err, want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func testCopies(t *testing.T, s tokenstore.Store) {
	saved := grant(1, 100)
	save(t, s, key, saved)
	saved.Grant.ScopesGranted[0] = "changed"
	got := get(t, s, key)
	if !equal(got, grant(1, 100)) {
		t.Error("a change after Save reached the store")
	}
	got.Grant.ScopesGranted[0] = "changed"
	got.Grant.ClientID = "changed"
	if !equal(get(t, s, key), grant(1, 100)) {
		t.Error("a change after Get reached the store")
	}
}

func testDurableBeforeError(t *testing.T, s tokenstore.Store) {
	errMine := errors.New("mine")
	err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		for n := 1; n <= 2; n++ {
			if _, err := l.Save(ctx, grant(n, 3000)); err != nil {
				t.Error(err)
			}
			if !equal(get(t, s, key), grant(n, 3000)) {
				t.Errorf("save %d cannot be read before Update returns", n)
			}
		}
		return errMine
	})
	if err != errMine {
		t.Errorf("Update: got %v, want the callback's own error", err)
	}
	if !equal(get(t, s, key), grant(2, 3000)) {
		t.Error("an error undid a save")
	}
}

func testSizes(t *testing.T, s tokenstore.Store) {
	for _, size := range []int{64 << 10, 0, 1, 1000, 1200, 1400, 2000, 3333, 4000, 8 << 10, 64 << 10, 10} {
		want := grant(7, size)
		save(t, s, key, want)
		if !equal(get(t, s, key), want) {
			t.Errorf("%d bytes: read back another record", size)
		}
	}
}

func testKeys(t *testing.T, s tokenstore.Store) {
	keys := []tokenstore.Key{
		"", " ", "a", "A", "a ", "a.mark", "a.record", "a.lock", "a#sign-in", ".", "..", "../a", "/etc/passwd", `C:\a`, `..\a`, "CON", "nul:",
		"a\x00b", "a\nb", "a\r\nb", "\xff\xfe", "\ufffd", "é", "e\u0301", "日本語", "💥", "'; drop table x; --", "$(reboot)", "-w", `"`, "'", "%s%n",
		tokenstore.Key(strings.Repeat("x", 20000)), tokenstore.Key(strings.Repeat("x", 20001)),
		tokenstore.GrantKey("a", "b"), tokenstore.GrantKey("a b", ""), tokenstore.GrantKey(`a" "b`, ""), tokenstore.GrantKey("", "a"),
		tokenstore.RegistrationKey("a", "b", ""), tokenstore.RegistrationKey("a", "b", "c"), tokenstore.RegistrationKey("a", "b", "", "c"),
	}
	for n, k := range keys {
		save(t, s, k, grant(n, 10))
	}
	for n, k := range keys {
		if !equal(get(t, s, k), grant(n, 10)) {
			t.Errorf("%.40q holds the record of another key", k)
		}
	}
	for n, k := range keys {
		if err := s.Delete(t.Context(), k); err != nil {
			t.Errorf("delete %.40q: %v", k, err)
		}
		wantNone(t, s, k)
		if n+1 < len(keys) && !equal(get(t, s, keys[n+1]), grant(n+1, 10)) {
			t.Errorf("deleting %.40q deleted more", k)
		}
	}
}

func testAccounts(t *testing.T, s tokenstore.Store) {
	var g sync.WaitGroup
	for _, account := range []int{1000, 2000} {
		k := tokenstore.GrantKey("https://api.example.com/mcp", strconv.Itoa(account))
		g.Go(func() {
			for n := account; n < account+10; n++ {
				save(t, s, k, grant(n, 3000))
				if !equal(get(t, s, k), grant(n, 3000)) {
					t.Errorf("account %d: read back another record", account)
				}
			}
		})
	}
	g.Wait()
}

func testDelete(t *testing.T, s tokenstore.Store) {
	save(t, s, key, grant(1, 5000))
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Pending: true})
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	wantNone(t, s, key)
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		if m, err := l.Mark(ctx); m != (tokenstore.Mark{}) || err != nil {
			t.Errorf("the mark outlived its record: %v, %v", m, err)
		}
		if _, err := l.Save(ctx, grant(2, 5000)); err != nil {
			return err
		}
		return l.Delete(ctx)
	}); err != nil {
		t.Fatal(err)
	}
	wantNone(t, s, key)
	save(t, s, key, grant(3, 5000))
	if !equal(get(t, s, key), grant(3, 5000)) {
		t.Error("a deleted record cannot be saved again")
	}
}

func testDamaged(t *testing.T, s tokenstore.Store) {
	d, ok := s.(Damager)
	if !ok {
		t.Skip("the store is not a storetest.Damager")
	}
	for _, recover := range []struct {
		name string
		f    func(context.Context, *tokenstore.Locked) error
		want error
	}{
		{"delete", func(ctx context.Context, l *tokenstore.Locked) error { return l.Delete(ctx) }, tokenstore.ErrNotFound},
		{"save", func(ctx context.Context, l *tokenstore.Locked) error {
			_, err := l.Save(ctx, grant(2, 100))
			return err
		}, nil},
	} {
		save(t, s, key, grant(1, 5000))
		d.Damage(t, key)
		for range 2 { // reading it changes nothing
			if _, err := s.Get(t.Context(), key); !errors.Is(err, tokenstore.ErrCorrupt) {
				t.Errorf("Get: got %v, want ErrCorrupt", err)
			}
		}
		if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			if _, err := l.Get(ctx); !errors.Is(err, tokenstore.ErrCorrupt) {
				t.Errorf("Locked.Get: got %v, want ErrCorrupt", err)
			}
			return recover.f(ctx, l)
		}); err != nil {
			t.Errorf("%s: %v", recover.name, err)
		}
		if _, err := s.Get(t.Context(), key); !errors.Is(err, recover.want) {
			t.Errorf("after %s: got %v, want %v", recover.name, err, recover.want)
		}
	}
}

func testMark(t *testing.T, s tokenstore.Store) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := tokenstore.Mark{Pending: true, Generation: "G", At: at, Tries: 2, NotBefore: at.Add(time.Minute), Failures: 3, NewIssuerAt: at.Add(time.Hour)}
	step := func(name string, want tokenstore.Mark, f func(context.Context, *tokenstore.Locked) error) {
		t.Helper()
		if err := s.Update(t.Context(), key, f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			if got, err := l.Mark(ctx); got != want || err != nil {
				t.Errorf("%s: got mark %v, %v, want %v", name, got, err, want)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	step("set without a record", want, func(ctx context.Context, l *tokenstore.Locked) error { return l.SetMark(ctx, want) })
	wantNone(t, s, key)
	step("save beside it", want, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, grant(1, 5000))
		return err
	})
	want.Tries++
	step("change", want, func(ctx context.Context, l *tokenstore.Locked) error { return l.SetMark(ctx, want) })
	step("clear", tokenstore.Mark{}, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{})
	})
	if !equal(get(t, s, key), grant(1, 5000)) {
		t.Error("the mark changed the record")
	}
}

func testExclusion(t *testing.T, s tokenstore.Store) {
	const goroutines, rounds = 8, 5
	var g sync.WaitGroup
	for range goroutines {
		g.Go(func() {
			for range rounds {
				if err := add(t.Context(), s, key, 100); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if got, err := wholeNumber(get(t, s, key)); got != goroutines*rounds {
		t.Errorf("%d of %d updates were lost (%v)", goroutines*rounds-got, goroutines*rounds, err)
	}
}

func testReaders(t *testing.T, s tokenstore.Store) {
	save(t, s, key, grant(1, 100))
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := 1; ctx.Err() == nil; {
				last = readNext(t, s, last)
			}
		})
	}
	for n := 2; n < 20; n++ {
		save(t, s, key, grant(n, 1<<(n%14)))
	}
	cancel()
	readers.Wait()
}

// readNext reads a whole record that is not older than the last one.
func readNext(t testing.TB, s tokenstore.Store, last int) int {
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Errorf("a reader among writers: %v", err)
		return last
	}
	n, err := wholeNumber(r)
	if err != nil || n < last {
		t.Errorf("a reader among writers: got record %d after %d (%v)", n, last, err)
	}
	return n
}

// hold keeps key's lock until release is called.
func hold(t testing.TB, s tokenstore.Store, key tokenstore.Key) (release func()) {
	t.Helper()
	held, done, let := make(chan bool), make(chan error, 1), make(chan bool)
	go func() {
		done <- s.Update(t.Context(), key, func(context.Context, *tokenstore.Locked) error {
			close(held)
			<-let
			return nil
		})
	}()
	select {
	case <-held:
	case err := <-done:
		t.Fatalf("take the lock: %v", err)
	case <-time.After(patience):
		t.Fatal("the lock is not given")
	}
	return sync.OnceFunc(func() {
		close(let)
		if err := <-done; err != nil {
			t.Errorf("release the lock: %v", err)
		}
	})
}

func mustNotRun(t testing.TB) func(context.Context, *tokenstore.Locked) error {
	return func(context.Context, *tokenstore.Locked) error {
		t.Error("two hold the lock at once")
		return nil
	}
}

// soon fails the test if f takes long.
func soon(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan bool)
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not return", what)
	}
}

func testCancel(t *testing.T, s tokenstore.Store) {
	release := hold(t, s, key)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	soon(t, "a cancelled Update", func() {
		if err := s.Update(ctx, key, mustNotRun(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("Update: got %v, want context.Canceled", err)
		}
	})
	soon(t, "a cancelled Delete", func() {
		if err := s.Delete(ctx, key); !errors.Is(err, context.Canceled) {
			t.Errorf("Delete: got %v, want context.Canceled", err)
		}
	})
	release()
	save(t, s, key, grant(1, 10))
}

func testDeadline(t *testing.T, s tokenstore.Store) {
	save(t, s, key, grant(1, 10))
	release := hold(t, s, key)
	defer release()
	wantTimeout(t, s, key)
	if !equal(get(t, s, key), grant(1, 10)) {
		t.Error("Get does not read past a lock")
	}
	release()
	save(t, s, key, grant(2, 10))
}

func wantTimeout(t testing.TB, s tokenstore.Store, key tokenstore.Key) (holder string) {
	t.Helper()
	const wait = 500 * time.Millisecond // no busy machine stands still for half of it
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var timeout *tokenstore.LockTimeoutError
	soon(t, "an Update with a deadline", func() {
		err := s.Update(ctx, key, mustNotRun(t))
		if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Update: got %v, want a *LockTimeoutError for context.DeadlineExceeded", err)
		}
	})
	if timeout == nil {
		return ""
	}
	if timeout.Waited < wait/2 || timeout.Waited > patience {
		t.Errorf("Update waited %v, it says, of %v", timeout.Waited, wait)
	}
	return timeout.Holder
}

func testDone(t *testing.T, s tokenstore.Store) {
	save(t, s, key, grant(1, 10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, key); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: got %v, want context.Canceled", err)
	}
	if err := s.Update(ctx, key, mustNotRun(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: got %v, want context.Canceled", err)
	}
	if err := s.Delete(ctx, key); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: got %v, want context.Canceled", err)
	}
	if !equal(get(t, s, key), grant(1, 10)) {
		t.Error("the record has changed")
	}
}

func testReleased(t *testing.T, s tokenstore.Store) {
	for name, f := range map[string]func(context.Context, *tokenstore.Locked) error{
		"error":  func(context.Context, *tokenstore.Locked) error { return errors.New("mine") },
		"panic":  func(context.Context, *tokenstore.Locked) error { panic("mine") },
		"Goexit": func(context.Context, *tokenstore.Locked) error { runtime.Goexit(); return nil },
	} {
		soon(t, "an Update that ends with "+name, func() {
			defer func() { _ = recover() }()
			_ = s.Update(t.Context(), key, f)
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := s.Update(ctx, key, func(context.Context, *tokenstore.Locked) error { return nil }); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
		cancel()
	}
}

func testEscaped(t *testing.T, s tokenstore.Store) {
	save(t, s, key, grant(1, 10))
	var escaped *tokenstore.Locked
	if err := s.Update(t.Context(), key, func(_ context.Context, l *tokenstore.Locked) error {
		escaped = l
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := escaped.Save(t.Context(), grant(2, 10)); err == nil {
		t.Error("Save after Update has returned: no error")
	}
	if err := escaped.Delete(t.Context()); err == nil {
		t.Error("Delete after Update has returned: no error")
	}
	if !equal(get(t, s, key), grant(1, 10)) {
		t.Error("a Locked was of use after Update has returned")
	}
}

func testIndependent(t *testing.T, s tokenstore.Store) {
	type name struct{}
	ctx := context.WithValue(t.Context(), name{}, "value")
	soon(t, "an Update of other keys", func() {
		if err := s.Update(ctx, key.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
			if ctx.Value(name{}) != "value" {
				t.Error("the callback's context is not made from the caller's")
			}
			return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
				if _, err := l.Save(ctx, grant(1, 10)); err != nil {
					return err
				}
				return s.Delete(ctx, tokenstore.GrantKey("https://api.example.com/mcp", "home"))
			})
		}); err != nil {
			t.Error(err)
		}
	})
	if !equal(get(t, s, key), grant(1, 10)) {
		t.Error("a save under two locks is lost")
	}
}
