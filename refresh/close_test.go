package refresh_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func newUnsaved(t *testing.T, log *slog.Logger) (*authServer, *fullDisk, *refresh.Source, *refresh.Access) {
	a, store := newBubbleServer(t), new(fullDisk)
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

func TestNotSavedIsReportedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestNotSavedIsSavedLater(t *testing.T) {
	for name, late := range map[string]func(*testing.T, *fullDisk, *refresh.Source){
		"in the background": func(t *testing.T, store *fullDisk, s *refresh.Source) {
			advance(t, 6*time.Second)
			access(t, s)
			testenv.Eventually(t, "the mark is cleared", func() bool { return mark(t, store) == tokenstore.Mark{} })
		},
		"by Close": func(*testing.T, *fullDisk, *refresh.Source) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
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
		})
	}
}

// The next refresh of an unsaved grant spends the token that is in memory.
func TestNotSavedIsRenewedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store, s, first := newUnsaved(t, nil)
		advance(t, 29*time.Minute+30*time.Second)
		access(t, s)
		testenv.Eventually(t, "it is renewed", func() bool { return access(t, s).Generation != first.Generation })
		a.wantRequests(t, 2)
		store.set(func() { store.full = false })
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		advance(t, time.Hour)
		access(t, newSource(t, store))
		a.wantRequests(t, 3)
	})
}

// A save that was given up and finished late is no loss.
func TestSaveThatOnlySeemedToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(fullDisk)
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
	})
}

func TestLogoutWinsOverAnUnsavedGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}
