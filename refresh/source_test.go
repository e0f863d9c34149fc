package refresh_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// save stores g as a sign-in does and returns its generation.
func save(t testing.TB, store tokenstore.Store, g *tokenstore.Grant) (generation string) {
	t.Helper()
	err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) (err error) {
		generation, err = l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func stored(t testing.TB, store tokenstore.Store) tokenstore.Record {
	t.Helper()
	rec, err := store.Get(t.Context(), grantKey)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func mark(t testing.TB, store tokenstore.Store) (m tokenstore.Mark) {
	t.Helper()
	err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) (err error) {
		m, err = l.Mark(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func setMark(t testing.TB, store tokenstore.Store, m tokenstore.Mark) {
	t.Helper()
	if err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, m)
	}); err != nil {
		t.Fatal(err)
	}
}

func newSource(t testing.TB, store tokenstore.Store) *refresh.Source {
	return newSourceOf(t, refresh.Config{Store: store, Key: grantKey})
}

func newSourceOf(t testing.TB, cfg refresh.Config) *refresh.Source {
	s := refresh.New(cfg)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func access(t testing.TB, s *refresh.Source) *refresh.Access {
	t.Helper()
	a, err := s.Access(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantError fails t unless Access fails with target, and without any secret.
func wantError(t testing.TB, s *refresh.Source, target error) error {
	t.Helper()
	a, err := s.Access(t.Context())
	if !errors.Is(err, target) {
		t.Fatalf("Access returned %+v, %v; want the error %v", a, err, target)
	}
	if a != nil {
		t.Fatalf("Access returned a token beside %v", err)
	}
	return err
}

func wantRetry(t testing.TB, s *refresh.Source) *refresh.RetryError {
	t.Helper()
	_, err := s.Access(t.Context())
	var retry *refresh.RetryError
	if !errors.As(err, &retry) || errors.Is(err, refresh.ErrLoginRequired) {
		t.Fatalf("Access returned the error %v, want a RetryError", err)
	}
	return retry
}

func advance(t testing.TB, d time.Duration) { t.Cleanup(clock.Advance(d)) }

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

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

func TestExpiredTokenIsRenewedOnceAndSavedBeforeUse(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	old := a.issue(time.Hour)
	save(t, store, old)
	s := newSource(t, store)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			got, err := s.Access(t.Context())
			if err != nil || !a.accepts(got.Token.Reveal()) {
				t.Errorf("got %v, %v", got, err)
				return
			}
			rec, err := store.Get(t.Context(), grantKey)
			if err != nil || rec.Generation != got.Generation || !rec.Grant.AccessToken.Equal(got.Token) {
				t.Errorf("the token was handed out before it was stored (%v)", err)
			}
		})
	}
	wg.Wait()
	a.wantRequests(t, 1)
	g := stored(t, store).Grant
	if g.RefreshToken.Equal(old.RefreshToken) || g.RefreshExpiresAt.IsZero() || !slices.Equal(g.ScopesGranted, []string{"openid", "email"}) ||
		!slices.Equal(g.ScopesRequested, old.ScopesRequested) || g.Resource != theResource || g.ObtainedAt.Before(old.ObtainedAt) {
		t.Errorf("stored is %+v", g)
	}
	if m := mark(t, store); m != (tokenstore.Mark{}) {
		t.Errorf("a mark is left: %+v", m)
	}
}

func TestAnswerWithoutMembersKeepsTheOldOnes(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.omit = map[string]bool{"refresh_token": true, "scope": true}
	old := a.issue(time.Hour)
	save(t, store, old)
	access(t, newSource(t, store))
	g := stored(t, store).Grant
	if !g.RefreshToken.Equal(old.RefreshToken) || !slices.Equal(g.ScopesGranted, old.ScopesGranted) || g.AccessToken.Equal(old.AccessToken) {
		t.Errorf("stored is %+v", g)
	}
}

func TestResourceIsSentAsGrantedOrNotAtAll(t *testing.T) {
	for _, resource := range []string{"", theResource, "https://API.example/mcp/"} {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		g := a.issue(time.Hour)
		g.Resource = resource
		save(t, store, g)
		_, _ = newSource(t, store).Access(t.Context())
		a.wantRequests(t, 1)
		got, sent := a.forms[0]["resource"]
		if sent != (resource != "") || sent && !slices.Equal(got, []string{resource}) {
			t.Errorf("for %q the form had %q", resource, got)
		}
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
	a, store := newAuthServer(t), new(tokenstore.Memory)
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
	eventually(t, "a refresh starts", func() bool { return blocked.Load() == 1 })
	if got := access(t, s); got != first {
		t.Error("callers do not get the live token while a refresh is under way")
	}
	if slowest > 500*time.Millisecond {
		t.Errorf("a caller with a live token waited %v", slowest)
	}
	close(block)
	eventually(t, "the new token is handed out", func() bool { return access(t, s) != first })
	a.wantRequests(t, 1)
}

// Early is the last quarter of the life, at most a minute.
func TestWhenItIsEarly(t *testing.T) {
	for _, c := range []struct {
		ttl, age time.Duration
		early    bool
	}{
		{30 * time.Minute, 28*time.Minute + 55*time.Second, false},
		{30 * time.Minute, 29*time.Minute + 5*time.Second, true},
		{80 * time.Second, 55 * time.Second, false},
		{80 * time.Second, 65 * time.Second, true},
	} {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		a.TTL = c.ttl
		save(t, store, a.issue(c.age))
		access(t, newSource(t, store))
		if got := a.count() == 1; got != c.early {
			t.Errorf("a token of %v that is %v old: renewed %v, want %v", c.ttl, c.age, got, c.early)
		}
	}
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
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.fault = answers(429, "", "Retry-After", "20")
	save(t, store, a.issue(29*time.Minute+10*time.Second))
	s := newSource(t, store)
	access(t, s)
	a.wantRequests(t, 1)
	advance(t, 15*time.Second)
	access(t, s)
	time.Sleep(20 * time.Millisecond)
	a.wantRequests(t, 1)
	a.set(func() { a.fault = nil })
	advance(t, 10*time.Second)
	access(t, s)
	eventually(t, "it is tried again", func() bool { return a.count() == 2 })
	eventually(t, "the new token is handed out", func() bool { return access(t, s).Generation == stored(t, store).Generation })
}

func TestNoRefreshToken(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	g := a.issue(0)
	g.RefreshToken = tokenstore.Secret{}
	save(t, store, g)
	s := newSource(t, store)
	advance(t, 29*time.Minute+50*time.Second)
	access(t, s)
	advance(t, time.Minute)
	wantError(t, s, refresh.ErrLoginRequired)
	a.wantRequests(t, 0)
}

// The three ways a send ends, as rule 5 has them, for a token that has expired.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		mark  bool // the token may be spent
		final bool // only a sign-in helps
	}{
		{"400 invalid_grant", answers(400, "invalid_grant"), false, true},
		{"400 invalid_target", answers(400, "invalid_target"), false, true},
		{"401 invalid_client", answers(401, "invalid_client"), false, true},
		{"400 invalid_request", answers(400, "invalid_request"), false, false},
		{"400 unauthorized_client", answers(400, "unauthorized_client"), false, false},
		{"400 without a code", answers(400, ""), false, false},
		{"403", answers(403, "access_denied"), false, false},
		{"404", answers(404, ""), false, false},
		{"429", answers(429, ""), false, false},
		{"503 temporarily_unavailable", answers(503, "temporarily_unavailable"), false, false},
		{"redirect", answers(307, "", "Location", "/elsewhere"), false, false},
		{"500", answers(500, ""), true, false},
		{"503", answers(503, ""), true, false},
		{"500 invalid_grant", answers(500, "invalid_grant"), true, false},
		{"hang up", hangsUp, true, false},
		{"empty 200", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(200); return true }, true, false},
		{"cut off 200", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"access_token":"x`))
			return true
		}, true, false},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("<p>hello")); return true }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, store := newAuthServer(t), new(tokenstore.Memory)
			a.fault = c.fault
			old := a.issue(time.Hour)
			generation := save(t, store, old)
			s := newSource(t, store)
			if c.final {
				err := wantError(t, s, refresh.ErrLoginRequired)
				if errors.Is(err, refresh.ErrAnswerLost) {
					t.Errorf("no answer was lost: %v", err)
				}
				again := wantError(t, s, refresh.ErrLoginRequired)
				if again.Error() != err.Error() {
					t.Errorf("the second caller is told another reason: %v", again)
				}
				a.wantRequests(t, 1)
				// Other processes do not send it again either.
				wantError(t, newSource(t, store), refresh.ErrLoginRequired)
				a.wantRequests(t, 1)
				if g := stored(t, store).Grant; !g.RefreshToken.IsZero() {
					t.Error("the dead refresh token is still stored")
				}
				return
			}
			retry := wantRetry(t, s)
			var te *oauthhttp.TokenError
			if !errors.As(retry, &te) {
				t.Errorf("%v holds no TokenError", retry)
			}
			if m := mark(t, store); m.Pending != c.mark || m.Failures != 1 || m.Generation != generation || !m.NotBefore.Equal(retry.At) {
				t.Errorf("the mark is %+v, pending should be %v", m, c.mark)
			}
			// All share the back-off.
			wantRetry(t, s)
			wantRetry(t, newSource(t, store))
			a.wantRequests(t, 1)
			if rec := stored(t, store); rec.Generation != generation || !rec.Grant.RefreshToken.Equal(old.RefreshToken) {
				t.Error("the record has changed")
			}
			// A blip never costs a login where the token was not spent.
			a.set(func() { a.fault = nil })
			advance(t, 2*time.Second)
			if got := access(t, s); !a.accepts(got.Token.Reveal()) {
				t.Error("got a bad token")
			}
			a.wantRequests(t, 2)
			if m := mark(t, store); m != (tokenstore.Mark{}) {
				t.Errorf("a mark is left: %+v", m)
			}
		})
	}
}

func TestNotSent(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	generation := save(t, store, a.issue(time.Hour))
	s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") },
	}}})
	wantRetry(t, s)
	if m := mark(t, store); m.Pending || m.Failures != 1 || m.Generation != generation {
		t.Errorf("the mark is %+v", m)
	}
	if got := access(t, newSourceAfter(t, store, 2*time.Second)); !a.accepts(got.Token.Reveal()) {
		t.Error("got a bad token")
	}
	a.wantRequests(t, 1)
}

// newSourceAfter is what another process sees some time later.
func newSourceAfter(t testing.TB, store tokenstore.Store, d time.Duration) *refresh.Source {
	advance(t, d)
	return newSource(t, store)
}

func TestBackoffDoublesUpToAMinute(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.fault = answers(429, "")
	save(t, store, a.issue(time.Hour))
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		want *= time.Second
		retry := wantRetry(t, newSource(t, store))
		a.wantRequests(t, i+1)
		if got := retry.At.Sub(clock.Now()); got > want || got < want*3/4-time.Second/2 {
			t.Errorf("after %d failures the back-off is %v, want about %v", i+1, got, want)
		}
		advance(t, retry.At.Sub(clock.Now()))
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.fault = answers(503, "", "Retry-After", "120")
	save(t, store, a.issue(time.Hour))
	s := newSource(t, store)
	if got := wantRetry(t, s).At.Sub(clock.Now()); got < 119*time.Second || got > 120*time.Second {
		t.Errorf("the back-off is %v", got)
	}
	advance(t, 110*time.Second)
	wantRetry(t, s)
	wantRetry(t, newSource(t, store))
	a.wantRequests(t, 1)
	advance(t, 10*time.Second)
	wantRetry(t, s)
	a.wantRequests(t, 2)
}

// A back-off that only a clock set back can have made holds nobody.
func TestBackoffOfAnotherClock(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	generation := save(t, store, a.issue(time.Hour))
	setMark(t, store, tokenstore.Mark{Generation: generation, Failures: 3, NotBefore: clock.Now().Add(24 * time.Hour)})
	access(t, newSource(t, store))
	a.wantRequests(t, 1)
}

func TestMarkOfAnOlderGenerationIsVoid(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(29*time.Minute+30*time.Second))
	setMark(t, store, tokenstore.Mark{Pending: true, Generation: "older", At: clock.Now(), Tries: 1, NotBefore: clock.Now().Add(time.Minute)})
	access(t, newSource(t, store))
	a.wantRequests(t, 1)
	if m := mark(t, store); m != (tokenstore.Mark{}) {
		t.Errorf("a mark is left: %+v", m)
	}
}

// The server rotated and the answer was lost: one more try, not before the
// access token is dead, and then the error says what happened.
func TestAnswerLost(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.lose = hangsUp
	g := a.issue(0)
	save(t, store, g)
	s := newSource(t, store)
	access(t, s)
	advance(t, 29*time.Minute+30*time.Second)
	access(t, s)
	eventually(t, "an early refresh fails", func() bool { return mark(t, store).Pending })
	a.set(func() { a.lose = nil })
	for range 10 { // here, and in processes that start now
		advance(t, 2*time.Second)
		access(t, s)
		if got := access(t, newSource(t, store)); !got.Token.Equal(g.AccessToken) || !a.accepts(got.Token.Reveal()) {
			t.Fatal("the live token is gone")
		}
	}
	a.wantRequests(t, 1)
	advance(t, time.Minute)
	other := newSource(t, store)
	err := wantError(t, other, refresh.ErrAnswerLost)
	if !errors.Is(err, refresh.ErrLoginRequired) {
		t.Errorf("%v does not wrap ErrLoginRequired", err)
	}
	wantError(t, other, refresh.ErrAnswerLost)
	wantError(t, s, refresh.ErrLoginRequired)
	a.wantRequests(t, 2)
	if m := mark(t, store); m.Pending {
		t.Errorf("the mark is left: %+v", m)
	}
}

// A second try that the server did not carry out says nothing about the first.
func TestPendingMarkOutlivesAnUnrelatedRefusal(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	generation := save(t, store, a.issue(time.Hour))
	setMark(t, store, tokenstore.Mark{Pending: true, Generation: generation, At: clock.Now(), Tries: 1})
	a.fault = answers(429, "")
	wantRetry(t, newSource(t, store))
	if m := mark(t, store); !m.Pending || m.Tries != 1 {
		t.Errorf("the mark is %+v", m)
	}
	a.set(func() { a.fault = answers(400, "invalid_grant") })
	wantError(t, newSourceAfter(t, store, 2*time.Second), refresh.ErrAnswerLost)
}

func TestDeadOnArrival(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.TTL = 50 * time.Millisecond
	a.fault = func(http.ResponseWriter, *http.Request) bool { time.Sleep(100 * time.Millisecond); return false }
	old := a.issue(time.Hour)
	save(t, store, old)
	s, other := newSource(t, store), newSource(t, store)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			s := s
			if i%2 == 0 {
				s = other
			}
			_, err := s.Access(t.Context())
			if retry := (*refresh.RetryError)(nil); !errors.As(err, &retry) || !errors.Is(err, refresh.ErrDeadOnArrival) {
				t.Errorf("got the error %v", err)
			}
		})
	}
	wg.Wait()
	wantError(t, s, refresh.ErrDeadOnArrival)
	wantError(t, newSource(t, store), refresh.ErrDeadOnArrival)
	a.wantRequests(t, 1)
	if stored(t, store).Grant.RefreshToken.Equal(old.RefreshToken) {
		t.Error("the rotated refresh token was not saved")
	}
	// It is no loss: once the server is quick again, so are we.
	a.set(func() { a.fault = nil; a.TTL = time.Hour })
	advance(t, 10*time.Second)
	access(t, s)
	a.wantRequests(t, 2)
}

// A token that lives a second is renewed once in its life, from many goroutines
// of several processes.
func TestShortLives(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
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
	a, store := newAuthServer(t), new(tokenstore.Memory)
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
	a, store := newAuthServer(t), new(tokenstore.Memory)
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
}

func TestLogoutElsewhereEndsCallsWithinAMinute(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
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
	eventually(t, "the logout is noticed", func() bool {
		_, err := s.Access(t.Context())
		return errors.Is(err, refresh.ErrLoginRequired)
	})
	// And a sign-in elsewhere is noticed by the next call.
	generation := save(t, store, a.issue(0))
	if got := access(t, s); got.Generation != generation {
		t.Error("got an old token")
	}
	a.wantRequests(t, 0)
}

func TestLogoutDuringARefreshWins(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(0))
	s := newSource(t, store)
	access(t, s)
	if err := store.Delete(t.Context(), grantKey); err != nil {
		t.Fatal(err)
	}
	advance(t, time.Hour)
	wantError(t, s, refresh.ErrLoginRequired)
	if _, err := store.Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("a refresh has made a record: %v", err)
	}
	a.wantRequests(t, 0)
}

func TestRenewedElsewhereIsAdopted(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(0))
	s, other := newSource(t, store), newSource(t, store)
	access(t, s)
	access(t, other)
	advance(t, time.Hour)
	if want, got := access(t, s), access(t, other); got.Generation != want.Generation {
		t.Error("two processes have two tokens")
	}
	a.wantRequests(t, 1)
}

// Those who wait take what another process has got, however little it has left:
// they do not renew it again.
func TestRenewedElsewhereIsAdoptedThoughItIsEarlyAgain(t *testing.T) {
	t.Run("before the lock", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(0))
		s := newSource(t, store)
		access(t, s)
		advance(t, time.Hour)
		generation := save(t, store, a.issue(29*time.Minute+30*time.Second))
		if got := access(t, s); got.Generation != generation {
			t.Errorf("got %+v", got)
		}
		a.wantRequests(t, 0)
	})
	t.Run("under the lock", func(t *testing.T) {
		a, store := newAuthServer(t), new(tokenstore.Memory)
		save(t, store, a.issue(time.Hour))
		s := newSource(t, store)
		got := make(chan *refresh.Access)
		var generation string
		if err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) (err error) {
			go func() {
				a, _ := s.Access(context.Background())
				got <- a
			}()
			time.Sleep(50 * time.Millisecond)
			generation, err = l.Save(ctx, tokenstore.Record{Grant: a.issue(29*time.Minute + 30*time.Second)})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got := <-got; got == nil || got.Generation != generation {
			t.Errorf("got %+v", got)
		}
		a.wantRequests(t, 0)
	})
}

// A slowReader is a store whose readers are overtaken.
type slowReader struct {
	tokenstore.Store
	overtake func()
}

func (r *slowReader) Get(ctx context.Context, key tokenstore.Key) (tokenstore.Record, error) {
	rec, err := r.Store.Get(ctx, key)
	if f := r.overtake; f != nil {
		r.overtake = nil
		f()
	}
	return rec, err
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

func TestMarkThatCannotBeReadCountsAsPending(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(29*time.Minute+30*time.Second))
	setMark(t, store, tokenstore.Mark{Pending: true})
	access(t, newSource(t, store))
	a.wantRequests(t, 0)
	a.fault = answers(400, "invalid_grant")
	wantError(t, newSourceAfter(t, store, time.Hour), refresh.ErrAnswerLost)
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

func TestWrongKindOfRecord(t *testing.T) {
	store := new(tokenstore.Memory)
	if err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{ClientID: "x"}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	wantError(t, newSource(t, store), tokenstore.ErrCorrupt)
}

func TestInvalidClientDropsTheRegistrationThatIsStillStored(t *testing.T) {
	for _, c := range []struct {
		name, storedID string
		kept           bool
	}{
		{"same client", theClient, false},
		{"made anew meanwhile", "client-2", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, store := newAuthServer(t), new(tokenstore.Memory)
			a.fault = answers(401, "invalid_client")
			save(t, store, a.issue(time.Hour))
			if err := store.Update(t.Context(), registrationKey, func(ctx context.Context, l *tokenstore.Locked) error {
				_, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{ClientID: c.storedID}})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			wantError(t, newSource(t, store), refresh.ErrLoginRequired)
			_, err := store.Get(t.Context(), registrationKey)
			if kept := err == nil; kept != c.kept {
				t.Errorf("registration kept: %v (%v)", kept, err)
			}
		})
	}
}

func TestInvalidClientOfARegisteredByHandOneKeepsTheGrant(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	a.fault = answers(401, "invalid_client")
	g := a.issue(time.Hour)
	g.Registration = ""
	generation := save(t, store, g)
	_, err := newSource(t, store).Access(t.Context())
	var client *refresh.ClientError
	if !errors.As(err, &client) || client.ClientID != theClient || errors.Is(err, refresh.ErrLoginRequired) {
		t.Errorf("got %v", err)
	}
	if stored(t, store).Generation != generation {
		t.Error("the grant has changed")
	}
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

// A clock that is set back does not stop a process from looking at its record.
func TestClockSetBack(t *testing.T) {
	a, store := newAuthServer(t), new(tokenstore.Memory)
	save(t, store, a.issue(10*time.Minute))
	s := newSource(t, store)
	access(t, s)
	generation := save(t, store, a.issue(10*time.Minute))
	advance(t, -5*time.Minute)
	eventually(t, "the record is looked at", func() bool { return access(t, s).Generation == generation })
}

// Whoever stood still for as long as a request may take can have lost the lock
// meanwhile, to a store that takes it away from the silent. The token may be
// spent then.
func TestATokenIsNotSentByWhoStoodStill(t *testing.T) {
	a := newAuthServer(t)
	store := new(tokenstore.Memory)
	save(t, store, a.issue(time.Hour))
	s := newSource(t, store)
	disarm := crashpoint.Arm(func(point string) {
		if point == "refresh.marked" {
			advance(t, 31*time.Second)
		}
	})
	err := wantRetry(t, s)
	disarm()
	var te *oauthhttp.TokenError
	if !errors.As(err, &te) || te.Outcome != oauthhttp.NotSent {
		t.Errorf("got %v", err)
	}
	a.wantRequests(t, 0)
	advance(t, 2*time.Second)
	access(t, s)
	a.wantRequests(t, 1)
}
