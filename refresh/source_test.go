package refresh_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestFreshTokenSendsNothing(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	g := a.issue(time.Minute)
	generation := save(t, store, g)
	s := newSource(t, store)
	got := access(t, s)
	if !got.Token.Equal(g.AccessToken) || got.Generation != generation || !got.ExpiresAt.Equal(g.ExpiresAt) ||
		!slices.Equal(got.Scopes, g.ScopesGranted) || !slices.Equal(got.ScopesRequested, g.ScopesRequested) || got.Issuer != g.Issuer {
		t.Errorf("got %+v of %+v", got, g)
	}
	if again := access(t, s); again != got {
		t.Error("two calls got two values")
	}
	token, err := s.OAuth2(t.Context()).Token()
	if err != nil || token.AccessToken != g.AccessToken.Reveal() || !token.Expiry.Equal(g.ExpiresAt) || !token.Valid() {
		t.Errorf("OAuth2 gave an invalid token, %v", err)
	}
	a.wantRequests(t, 0)
}

func TestNoGrant(t *testing.T) {
	s := newSource(t, new(tokenstore.Memory))
	err := wantError(t, s, refresh.ErrLoginRequired)
	if !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("%v does not wrap ErrNotFound", err)
	}
	if _, err := s.OAuth2(t.Context()).Token(); !errors.Is(err, refresh.ErrLoginRequired) {
		t.Errorf("OAuth2: %v", err)
	}
}

func TestUnknownExpiryIsUsedUntilRefused(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.TTL = -1
	generation := save(t, store, a.issue(0))
	s := newSource(t, store)
	advance(t, 1000*time.Hour)
	if got := access(t, s); got.Generation != generation || !got.ExpiresAt.IsZero() {
		t.Errorf("got %+v", got)
	}
	a.wantRequests(t, 0)
	got, err := s.Refused(t.Context(), generation)
	if err != nil || got.Generation == generation {
		t.Fatalf("got %+v, %v", got, err)
	}
	a.wantRequests(t, 1)
}

func TestEarlyRefreshIsInTheForegroundFirst(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	old := save(t, store, a.issue(29*time.Minute+30*time.Second))
	if got := access(t, newSource(t, store)); got.Generation == old {
		t.Error("the first token was not renewed although its end was near")
	}
	a.wantRequests(t, 1)
}

func TestEarlyRefreshIsInTheBackgroundLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(0))
		s := newSource(t, store)
		first := access(t, s)

		block := make(chan struct{})
		var blocked atomic.Int32
		a.set(func() {
			a.fault = func(http.ResponseWriter, *http.Request) bool { blocked.Add(1); <-block; return false }
		})
		advance(t, 29*time.Minute+30*time.Second)
		var slowest time.Duration
		for range 1000 {
			start := time.Now()
			if got := access(t, s); got != first {
				t.Fatal("got another token than the live one")
			}
			slowest = max(slowest, time.Since(start))
		}
		testenv.Eventually(t, "a refresh starts", func() bool { return blocked.Load() == 1 })
		if got := access(t, s); got != first {
			t.Error("callers do not get the live token while a refresh is under way")
		}
		if slowest > 500*time.Millisecond {
			t.Errorf("a caller with a live token waited %v", slowest)
		}
		close(block)
		testenv.Eventually(t, "the new token is handed out", func() bool { return access(t, s) != first })
		a.wantRequests(t, 1)
	})
}

func TestFailedEarlyRefreshIsNobodysError(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"503":           answers(503, ""),
		"hang up":       hangsUp,
		"invalid_grant": answers(400, "invalid_grant"),
		"429":           answers(429, "", "Retry-After", "7"),
	} {
		t.Run(name, func(t *testing.T) {
			a, store := newAuthServer(t), new(tokenstore.Memory)
			a.fault = fault
			g := a.issue(29*time.Minute + 30*time.Second)
			save(t, store, g)
			s := newSource(t, store)
			for range 100 { // the first in the foreground
				if got := access(t, s); !got.Token.Equal(g.AccessToken) {
					t.Fatal("got another token")
				}
			}
			a.wantRequests(t, 1)
		})
	}
}

// While a failed early refresh waits for its back-off, and again when it is
// over, callers are served; at the end they get the error.
func TestEarlyRefreshIsTriedAgainAfterTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		a.fault = answers(429, "", "Retry-After", "20")
		save(t, store, a.issue(29*time.Minute+10*time.Second))
		s := newSource(t, store)
		access(t, s)
		a.wantRequests(t, 1)
		advance(t, 15*time.Second)
		access(t, s)
		synctest.Wait()
		a.wantRequests(t, 1)
		a.set(func() { a.fault = nil })
		advance(t, 10*time.Second)
		access(t, s)
		testenv.Eventually(t, "it is tried again", func() bool { return a.count() == 2 })
		testenv.Eventually(t, "the new token is handed out", func() bool { return access(t, s).Generation == stored(t, store).Generation })
	})
}

// A clock that is set back does not stop a process from looking at its record.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(10*time.Minute))
		s := newSource(t, store)
		access(t, s)
		generation := save(t, store, a.issue(10*time.Minute))
		advance(t, -5*time.Minute)
		testenv.Eventually(t, "the record is looked at", func() bool { return access(t, s).Generation == generation })
	})
}

func TestRefused(t *testing.T) {
	t.Run("a newer stored one", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		old := save(t, store, a.issue(time.Minute))
		s := newSource(t, store)
		access(t, s)
		generation := save(t, store, a.issue(time.Minute))
		got, err := s.Refused(t.Context(), old)
		if err != nil || got.Generation != generation {
			t.Errorf("got %+v, %v", got, err)
		}
		a.wantRequests(t, 0)
	})
	t.Run("one forced refresh, then ErrRefused for a minute", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		old := save(t, store, a.issue(5*time.Minute))
		s, other := newSource(t, store), newSource(t, store)
		access(t, s)
		var wg sync.WaitGroup
		got := make([]*refresh.Access, 32)
		for i := range got {
			wg.Go(func() {
				var err error
				if got[i], err = s.Refused(t.Context(), old); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		a.wantRequests(t, 1)
		forced := got[0]
		for _, g := range got {
			if g != forced || g.Generation == old {
				t.Fatal("callers got different or old tokens")
			}
		}
		for _, s := range []*refresh.Source{s, other} { // in other processes too
			if _, err := s.Refused(t.Context(), forced.Generation); !errors.Is(err, refresh.ErrRefused) {
				t.Errorf("got %v", err)
			}
		}
		a.wantRequests(t, 1)
		advance(t, 61*time.Second)
		if got, err := other.Refused(t.Context(), forced.Generation); err != nil || got.Generation == forced.Generation {
			t.Errorf("a minute later: %+v, %v", got, err)
		}
		a.wantRequests(t, 2)
	})
	t.Run("the minute outlasts the forced token", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		a.TTL = 20 * time.Second
		s, other := newSource(t, store), newSource(t, store)
		if _, err := s.Refused(t.Context(), save(t, store, a.issue(5*time.Second))); err != nil {
			t.Fatal(err)
		}
		advance(t, 21*time.Second)
		next := access(t, s)
		a.wantRequests(t, 2)
		if _, err := other.Refused(t.Context(), next.Generation); !errors.Is(err, refresh.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("fresh from a sign-in", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		g := a.issue(0)
		generation := save(t, store, g)
		s := newSource(t, store)
		s.Adopt(generation, g)
		if got := access(t, s); got.Generation != generation {
			t.Errorf("got %+v", got)
		}
		if _, err := s.Refused(t.Context(), generation); !errors.Is(err, refresh.ErrRefused) {
			t.Errorf("got %v", err)
		}
		a.wantRequests(t, 0)
		advance(t, 5*time.Minute) // revoked in mid-session
		if _, err := s.Refused(t.Context(), generation); err != nil {
			t.Error(err)
		}
		a.wantRequests(t, 1)
	})
	t.Run("an expired one is no reason to force", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		a.TTL = 20 * time.Second
		g := a.issue(0)
		generation := save(t, store, g)
		s := newSource(t, store)
		s.Adopt(generation, g)
		advance(t, 30*time.Second)
		if _, err := s.Refused(t.Context(), generation); err != nil {
			t.Error(err)
		}
		a.wantRequests(t, 1)
	})
	// A JWT ends on the second, up to one before expires_in is over.
	t.Run("nor is one in its last second", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		a.TTL = 20 * time.Second
		g := a.issue(0)
		generation := save(t, store, g)
		s := newSource(t, store)
		s.Adopt(generation, g)
		advance(t, 19*time.Second+100*time.Millisecond)
		if got, err := s.Refused(t.Context(), generation); err != nil || got.Generation == generation {
			t.Errorf("got %+v, %v", got, err)
		}
		a.wantRequests(t, 1)
	})
	t.Run("a pending mark does not keep a refused token alive", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		generation := save(t, store, a.issue(29*time.Minute+30*time.Second))
		setMark(t, store, tokenstore.Mark{Pending: true, Generation: generation, At: clock.Now()})
		s := newSource(t, store)
		access(t, s)
		a.wantRequests(t, 0)
		if _, err := s.Refused(t.Context(), generation); err != nil {
			t.Error(err)
		}
		a.wantRequests(t, 1)
	})
	t.Run("the grant has ended", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		generation := save(t, store, a.issue(5*time.Minute))
		a.fault = answers(400, "invalid_grant")
		s := newSource(t, store)
		access(t, s)
		if _, err := s.Refused(t.Context(), generation); !errors.Is(err, refresh.ErrLoginRequired) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing is there", func(t *testing.T) {
		if _, err := newSource(t, new(tokenstore.Memory)).Refused(t.Context(), "x"); !errors.Is(err, refresh.ErrLoginRequired) {
			t.Errorf("got %v", err)
		}
	})
}

// A grant is forced once a minute, which a clock that is set back does not make
// longer.
func TestForcedRefreshesUnderAClockThatIsSet(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	s := newSource(t, store)
	generation := save(t, store, a.issue(5*time.Minute))
	for n, jump := range []time.Duration{0, -time.Hour, 61 * time.Second, -24 * time.Hour} {
		advance(t, jump)
		got, err := s.Refused(t.Context(), generation)
		if err != nil {
			t.Fatalf("after a jump of %v: %v", jump, err)
		}
		generation = got.Generation
		a.wantRequests(t, n+1)
		if _, err := s.Refused(t.Context(), generation); !errors.Is(err, refresh.ErrRefused) {
			t.Errorf("after a jump of %v: %v", jump, err)
		}
		a.wantRequests(t, n+1)
	}
}

// A token that lives a second is renewed once in its life, from many goroutines
// of several processes.
func TestShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		a.TTL = time.Second
		a.fault = func(http.ResponseWriter, *http.Request) bool { time.Sleep(50 * time.Millisecond); return false }
		save(t, store, a.issue(time.Hour))
		start := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			s := newSource(t, store)
			for range 16 {
				wg.Go(func() {
					for time.Since(start) < 1200*time.Millisecond {
						if _, err := s.Access(t.Context()); err != nil {
							t.Errorf("after %v: %v", time.Since(start), err)
							return
						}
						time.Sleep(5 * time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		a.wantRequests(t, 2) // at once, and 0.75 s after the first was sent
	})
}

func TestCancelledCallersReturnAtOnceAndTheRefreshIsSaved(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	asked, block := make(chan struct{}), make(chan struct{})
	a.fault = func(http.ResponseWriter, *http.Request) bool { close(asked); <-block; return false }
	old := save(t, store, a.issue(time.Hour))
	s := newSource(t, store)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			_, err := s.Access(ctx)
			done <- err
		}()
	}
	patient := make(chan error, 1)
	go func() {
		_, err := s.Access(t.Context())
		patient <- err
	}()
	<-asked
	cancel()
	for range cap(done) {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := s.Access(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(block)
	if err := <-patient; err != nil {
		t.Errorf("another caller's cancellation reached this one: %v", err)
	}
	if stored(t, store).Generation == old {
		t.Error("nothing was saved")
	}
	a.wantRequests(t, 1)
}

func TestCloseWaitsForTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		asked, block := make(chan struct{}), make(chan struct{})
		a.fault = func(http.ResponseWriter, *http.Request) bool { close(asked); <-block; return false }
		old := save(t, store, a.issue(0))
		s := newSource(t, store)
		access(t, s)
		advance(t, 29*time.Minute+30*time.Second)
		access(t, s) // starts one in the background
		<-asked
		time.AfterFunc(50*time.Millisecond, func() { close(block) })
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if stored(t, store).Generation == old {
			t.Error("Close did not wait")
		}
		access(t, s)
		advance(t, time.Hour)
		wantError(t, s, refresh.ErrClosed)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Who has sent nothing yet need not wait for the lock when the process ends.
func TestCloseDoesNotWaitForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(time.Hour))
		if err := store.Update(t.Context(), grantKey, func(context.Context, *tokenstore.Locked) error {
			s := newSource(t, store)
			got := make(chan error)
			go func() {
				_, err := s.Access(context.Background())
				got <- err
			}()
			synctest.Wait()
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
	})
}

// A flight that has ended takes nobody aboard, not even in the moment in which
// its goroutine has yet to end: what it yielded may have expired by then.
func TestFlightThatHasEndedServesNobody(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	asked := make(chan struct{})
	a.fault = func(http.ResponseWriter, *http.Request) bool { asked <- struct{}{}; return false }
	for range 300 {
		save(t, store, a.issue(0))
		s := newSource(t, store)
		access(t, s)
		due := clock.Advance(a.TTL - 30*time.Second)
		access(t, s) // refreshes in the background
		<-asked
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		expired := clock.Advance(a.TTL)
		wantError(t, s, refresh.ErrClosed)
		expired()
		due()
	}
}

// Close is bounded by the deadline of the request.
func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		block := make(chan struct{})
		defer close(block)
		a.fault = func(http.ResponseWriter, *http.Request) bool { <-block; return true }
		save(t, store, a.issue(time.Hour))
		s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, RequestTimeout: time.Second})
		start := time.Now()
		if err := wantRetry(t, s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := s.Close(); err != nil || time.Since(start) > 5*time.Second {
			t.Errorf("closed after %v: %v", time.Since(start), err)
		}
		if !mark(t, store).Pending {
			t.Error("the mark is gone although the request was sent")
		}
	})
}

func TestLogoutElsewhereEndsCallsWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(0))
		s := newSource(t, store)
		access(t, s)
		if err := store.Delete(t.Context(), grantKey); err != nil {
			t.Fatal(err)
		}
		advance(t, 59*time.Second)
		access(t, s)
		advance(t, 2*time.Second)
		access(t, s) // the one that looks does not wait
		testenv.Eventually(t, "the logout is noticed", func() bool {
			_, err := s.Access(t.Context())
			return errors.Is(err, refresh.ErrLoginRequired)
		})
		// And a sign-in elsewhere is noticed by the next call.
		generation := save(t, store, a.issue(0))
		if got := access(t, s); got.Generation != generation {
			t.Error("got an old token")
		}
		a.wantRequests(t, 0)
	})
}

func TestSignInDuringALookWins(t *testing.T) {
	a, store := newAuthServer(t), &slowReader{Store: new(tokenstore.Memory)}
	save(t, store, a.issue(0))
	s := newSource(t, store)
	access(t, s)
	save(t, store, a.issue(0))
	var generation string
	overtaken := make(chan struct{})
	store.overtake = func() {
		g := a.issue(0)
		generation = save(t, store, g)
		s.Adopt(generation, g)
		close(overtaken)
	}
	advance(t, 2*time.Minute)
	access(t, s)
	<-overtaken
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := access(t, s); got.Generation != generation {
		t.Error("an older grant was put in the place of the sign-in's")
	}
}

func TestAnotherIssuersGrantIsNotUsed(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	for _, age := range []time.Duration{0, time.Hour} {
		save(t, store, a.issue(age))
		s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, Accepts: func(g *tokenstore.Grant) bool { return g.Issuer == "https://auth.example/" }})
		wantError(t, s, refresh.ErrLoginRequired)
	}
	a.wantRequests(t, 0)
}
