package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A fullDisk is a store that cannot save records while full is set, and no
// marks while noMarks is.
type fullDisk struct {
	lock, mu      sync.Mutex
	entries       map[tokenstore.Entry][]byte
	full, noMarks bool
	late          bool          // what fails is written all the same
	slow          time.Duration // that a record takes to be written
}

var errDiskFull = fmt.Errorf("%w: disk full", tokenstore.ErrUnavailable)

func (d *fullDisk) Get(ctx context.Context, _ tokenstore.Key) (tokenstore.Record, error) {
	return tokenstore.NewLocked(d).Get(ctx)
}

func (d *fullDisk) Update(ctx context.Context, _ tokenstore.Key, f func(context.Context, *tokenstore.Locked) error) error {
	d.lock.Lock()
	defer d.lock.Unlock()
	return f(ctx, tokenstore.NewLocked(d))
}

func (d *fullDisk) Delete(ctx context.Context, key tokenstore.Key) error {
	return d.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error { return l.Delete(ctx) })
}

func (d *fullDisk) Read(_ context.Context, e tokenstore.Entry) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if data, ok := d.entries[e]; ok {
		return data, nil
	}
	return nil, tokenstore.ErrNotFound
}

func (d *fullDisk) Write(ctx context.Context, e tokenstore.Entry, data []byte) error {
	if e == tokenstore.EntryRecord {
		select {
		case <-time.After(d.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fails := e == tokenstore.EntryRecord && d.full || e == tokenstore.EntryMark && d.noMarks
	if !fails || d.late {
		if d.entries == nil {
			d.entries = map[tokenstore.Entry][]byte{}
		}
		d.entries[e] = data
	}
	if fails {
		return errDiskFull
	}
	return nil
}

func (d *fullDisk) Remove(_ context.Context, e tokenstore.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, e)
	return nil
}

func (d *fullDisk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func newUnsaved(t *testing.T, log *slog.Logger) (*authServer, *fullDisk, *refresh.Source, *refresh.Access) {
	a, store := newAuthServer(t), new(fullDisk)
	old := save(t, store, a.issue(time.Hour))
	store.full = true
	s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, SaveTimeout: 100 * time.Millisecond, Logger: log})
	got := access(t, s)
	if !a.accepts(got.Token.Reveal()) || got.Generation == old {
		t.Fatal("the token is not used from memory")
	}
	if stored(t, store).Generation != old || !mark(t, store).Pending {
		t.Fatal("the store should know that its token may be spent")
	}
	return a, store, s, got
}

// A store that takes longer for a save than it is tried again saves all the same.
func TestSlowSave(t *testing.T) {
	a, store := newAuthServer(t), new(fullDisk)
	old := save(t, store, a.issue(time.Hour))
	store.slow = 200 * time.Millisecond
	s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, SaveTimeout: 10 * time.Millisecond})
	got := access(t, s)
	if now := stored(t, store); now.Generation == old || !now.Grant.AccessToken.Equal(got.Token) {
		t.Error("the new token is not saved")
	}
	a.wantRequests(t, 1)
}

func TestNotSavedIsReportedByClose(t *testing.T) {
	var out testenv.Buffer
	a, _, s, got := newUnsaved(t, slog.New(slog.NewTextHandler(&out, nil)))
	if again := access(t, s); again != got {
		t.Error("got another token")
	}
	for range 2 {
		if err := s.Close(); !errors.Is(err, refresh.ErrNotSaved) || !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("Close returned %v", err)
		}
	}
	if !strings.Contains(out.String(), "outcome=not-saved") {
		t.Errorf("logged was %s", &out)
	}
	a.wantRequests(t, 1)
}

func TestNotSavedIsSavedLater(t *testing.T) {
	for name, late := range map[string]func(*testing.T, *fullDisk, *refresh.Source){
		"in the background": func(t *testing.T, store *fullDisk, s *refresh.Source) {
			advance(t, 6*time.Second)
			access(t, s)
			eventually(t, "the mark is cleared", func() bool { return mark(t, store) == tokenstore.Mark{} })
		},
		"by Close": func(*testing.T, *fullDisk, *refresh.Source) {},
	} {
		t.Run(name, func(t *testing.T) {
			a, store, s, got := newUnsaved(t, nil)
			store.set(func() { store.full = false })
			late(t, store, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if g := stored(t, store).Grant; !g.AccessToken.Equal(got.Token) {
				t.Error("stored is another token")
			}
			if m := mark(t, store); m != (tokenstore.Mark{}) {
				t.Errorf("a mark is left: %+v", m)
			}
			a.wantRequests(t, 1)
			advance(t, time.Hour)
			access(t, newSource(t, store)) // the session goes on
			a.wantRequests(t, 2)
		})
	}
}

// The next refresh of an unsaved grant spends the token that is in memory.
func TestNotSavedIsRenewedFromMemory(t *testing.T) {
	a, store, s, first := newUnsaved(t, nil)
	advance(t, 29*time.Minute+30*time.Second)
	access(t, s)
	eventually(t, "it is renewed", func() bool { return access(t, s).Generation != first.Generation })
	a.wantRequests(t, 2)
	store.set(func() { store.full = false })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	advance(t, time.Hour)
	access(t, newSource(t, store))
	a.wantRequests(t, 3)
}

// A save that was given up and finished late is no loss.
func TestSaveThatOnlySeemedToFail(t *testing.T) {
	a, store := newAuthServer(t), new(fullDisk)
	save(t, store, a.issue(time.Hour))
	store.full, store.late = true, true
	s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, SaveTimeout: 10 * time.Millisecond})
	got := access(t, s)
	store.set(func() { store.full = false })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if g := stored(t, store).Grant; !g.AccessToken.Equal(got.Token) {
		t.Error("stored is another token")
	}
}

func TestLogoutWinsOverAnUnsavedGrant(t *testing.T) {
	_, store, s, _ := newUnsaved(t, nil)
	store.set(func() { store.full = false })
	if err := store.Delete(t.Context(), grantKey); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("the logout was undone: %v", err)
	}
}

// Without a mark nothing is sent: a crash could not be told from a blip.
func TestNothingIsSentWithoutAMark(t *testing.T) {
	a, store := newAuthServer(t), new(fullDisk)
	save(t, store, a.issue(time.Hour))
	store.noMarks = true
	s := newSource(t, store)
	if err := wantRetry(t, s); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	a.wantRequests(t, 0)
	store.set(func() { store.noMarks = false })
	advance(t, 2*time.Second)
	access(t, s)
	a.wantRequests(t, 1)
}

func TestLockTimeout(t *testing.T) {
	a := newAuthServer(t)
	store := &tokenstore.Memory{LockTimeout: 50 * time.Millisecond}
	save(t, store, a.issue(time.Hour))
	held, release := make(chan struct{}), make(chan struct{})
	go func() {
		_ = store.Update(context.Background(), grantKey, func(context.Context, *tokenstore.Locked) error {
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	s := newSource(t, store)
	var timeout *tokenstore.LockTimeoutError
	if err := wantRetry(t, s); !errors.As(err, &timeout) || timeout.Waited < 50*time.Millisecond {
		t.Errorf("got %v", err)
	}
	a.wantRequests(t, 0)
	close(release)
	advance(t, 2*time.Second)
	access(t, s)
	a.wantRequests(t, 1)
}

// Who has sent nothing yet need not wait for the lock when the process ends.
func TestCloseDoesNotWaitForTheLock(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(time.Hour))
	if err := store.Update(t.Context(), grantKey, func(context.Context, *tokenstore.Locked) error {
		s := newSource(t, store)
		got := make(chan error)
		go func() {
			_, err := s.Access(context.Background())
			got <- err
		}()
		time.Sleep(20 * time.Millisecond)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, refresh.ErrClosed) {
			t.Errorf("got %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	a.wantRequests(t, 0)
}

// A failure while a process waits for the lock is its failure too: the others
// do not try in turn.
func TestThoseWhoWaitShareTheFailure(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	generation := save(t, store, a.issue(time.Hour))
	s := newSource(t, store)
	got := make(chan error)
	if err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		go func() {
			_, err := s.Access(context.Background())
			got <- err
		}()
		time.Sleep(50 * time.Millisecond)
		err := l.SetMark(ctx, tokenstore.Mark{Generation: generation, Failures: 1, NotBefore: clock.Now()})
		time.Sleep(10 * time.Millisecond)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err, retry := <-got, (*refresh.RetryError)(nil); !errors.As(err, &retry) {
		t.Errorf("got %v", err)
	}
	a.wantRequests(t, 0)
	access(t, s)
	a.wantRequests(t, 1)
}

// What is logged and what errors say, in every verb, shows no secret.
func TestNothingSecretIsShown(t *testing.T) {
	var out testenv.Buffer
	a, store := newAuthServer(t), new(tokenstore.Memory)
	g := a.issue(time.Hour)
	save(t, store, g)
	s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	var secrets testenv.Secrets
	add := func(g *tokenstore.Grant) {
		secrets.Add("access_token", g.AccessToken.Reveal())
		secrets.Add("refresh_token", g.RefreshToken.Reveal())
	}
	add(g)
	show := func(v any) { fmt.Fprintf(&out, "%v %+v %#v %s %q\n", v, v, v, v, v) }
	show(access(t, s))
	now := stored(t, store).Grant
	add(now)
	a.fault = answers(400, now.RefreshToken.Reveal())
	advance(t, time.Hour)
	show(wantRetry(t, s))
	a.set(func() { a.fault = answers(400, "invalid_grant") })
	advance(t, time.Minute)
	err := wantError(t, s, refresh.ErrLoginRequired)
	show(err)
	var te *oauthhttp.TokenError
	if !errors.As(err, &te) || te.Code != "invalid_grant" {
		t.Errorf("%v does not hold the server's answer", err)
	}
	secrets.Sweep(t, "the output", out.String())
	for _, want := range []string{"outcome=refreshed", "outcome=refused", "step=refresh", "server=" + theServer, "account=olivia", "client_id=client-1", "duration="} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}
