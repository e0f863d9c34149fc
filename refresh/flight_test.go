package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

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

// A store that takes longer for a save than it is tried again saves all the same.
func TestSlowSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(fullDisk)
		old := save(t, store, a.issue(time.Hour))
		store.slow = 200 * time.Millisecond
		s := newSourceOf(t, refresh.Config{Store: store, Key: grantKey, SaveTimeout: 10 * time.Millisecond})
		got := access(t, s)
		if now := stored(t, store); now.Generation == old || !now.Grant.AccessToken.Equal(got.Token) {
			t.Error("the new token is not saved")
		}
		a.wantRequests(t, 1)
	})
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

func TestLockTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBubbleServer(t)
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
	})
}

// A failure while a process waits for the lock is its failure too: the others
// do not try in turn.
func TestThoseWhoWaitShareTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
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
	})
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

// A back-off ends when the clock says so, also if it was set. One that seems
// longer than any can be was written before the clock was set back.
func TestABackoffUnderAClockThatIsSet(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		jump  time.Duration
		tried bool
	}{
		{"a second, set ahead", answers(503, "temporarily_unavailable"), time.Hour, true},
		{"a second, set back", answers(503, "temporarily_unavailable"), -10 * time.Minute, false},
		{"a second, set back by a day", answers(503, "temporarily_unavailable"), -24 * time.Hour, true},
		{"half an hour, set ahead", answers(429, "", "Retry-After", "1800"), time.Hour, true},
		{"half an hour, set back", answers(429, "", "Retry-After", "1800"), -10 * time.Minute, false},
		{"half an hour, set back by a day", answers(429, "", "Retry-After", "1800"), -24 * time.Hour, true},
		{"of no known outcome, set ahead", hangsUp, time.Hour, true},
		{"of no known outcome, set back by a day", hangsUp, -24 * time.Hour, true},
	} {
		for _, elsewhere := range []bool{false, true} { // by another process, which knows the mark alone
			t.Run(fmt.Sprintf("%s, asked elsewhere %v", test.name, elsewhere), func(t *testing.T) {
				a, store := newAuthServer(t), new(tokenstore.Memory)
				a.fault = test.fault
				save(t, store, a.issue(48*time.Hour)) // it has expired, also a day ago
				s := newSource(t, store)
				wantRetry(t, s)
				a.wantRequests(t, 1)
				a.set(func() { a.fault = nil })
				advance(t, test.jump)
				if elsewhere {
					s = newSource(t, store)
				}
				if !test.tried {
					wantRetry(t, s)
					a.wantRequests(t, 1)
					advance(t, -test.jump+time.Hour)
				}
				access(t, s)
				a.wantRequests(t, 2)
			})
		}
	}
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
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
		a.lose = hangsUp
		g := a.issue(0)
		save(t, store, g)
		s := newSource(t, store)
		access(t, s)
		advance(t, 29*time.Minute+30*time.Second)
		access(t, s)
		testenv.Eventually(t, "an early refresh fails", func() bool { return mark(t, store).Pending })
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
	})
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

// A mark that says that an answer is missing outlives a clock that is set: one
// more try, and not while the access token seems to live.
func TestAPendingMarkUnderAClockThatIsSet(t *testing.T) {
	for _, jump := range []time.Duration{-24 * time.Hour, -10 * time.Minute, 0, time.Hour, 24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			a, store := newAuthServer(t), new(tokenstore.Memory)
			generation := save(t, store, a.issue(29*time.Minute+30*time.Second))
			setMark(t, store, tokenstore.Mark{Pending: true, Generation: generation, At: clock.Now(), Tries: 1})
			advance(t, jump)
			got := access(t, newSource(t, store))
			if jump <= 0 {
				a.wantRequests(t, 0)
				if got.Generation != generation {
					t.Error("got another token")
				}
				return
			}
			a.wantRequests(t, 1)
			if m := mark(t, store); m != (tokenstore.Mark{}) {
				t.Errorf("a mark is left: %+v", m)
			}
		})
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

// When a sign-in last went to a new issuer is no business of a refresh, which
// leaves it in the mark whatever comes of it.
func TestARefreshKeepsWhenTheIssuerWasNew(t *testing.T) {
	at := clock.Now().Add(-time.Hour).UTC()
	for name, test := range map[string]struct {
		age   time.Duration // of the access token
		fault func(http.ResponseWriter, *http.Request) bool
		mark  func(generation string) tokenstore.Mark
		force bool
	}{
		"renewed":                           {age: time.Hour},
		"renewed, with a mark of its own":   {age: time.Hour, mark: func(g string) tokenstore.Mark { return tokenstore.Mark{Generation: g, Failures: 2} }},
		"renewed, with an older mark":       {age: time.Hour, mark: func(string) tokenstore.Mark { return tokenstore.Mark{Generation: "older", Pending: true} }},
		"renewed, with a mark of who knows": {age: time.Hour, mark: func(string) tokenstore.Mark { return tokenstore.Mark{Pending: true} }},
		"forced":                            {force: true},
		"failed":                            {age: time.Hour, fault: answers(503, "")},
		"refused":                           {age: time.Hour, fault: answers(400, "invalid_grant")},
		"refused, with an answer lost":      {age: time.Hour, fault: answers(400, "invalid_grant"), mark: func(g string) tokenstore.Mark { return tokenstore.Mark{Generation: g, Pending: true} }},
		"client is gone":                    {age: time.Hour, fault: answers(401, "invalid_client")},
	} {
		t.Run(name, func(t *testing.T) {
			a, store := newAuthServer(t), new(tokenstore.Memory)
			a.fault = test.fault
			generation := save(t, store, a.issue(test.age))
			var m tokenstore.Mark
			if test.mark != nil {
				m = test.mark(generation)
			}
			m.NewIssuerAt = at
			setMark(t, store, m)
			s := newSource(t, store)
			got, err := s.Access(t.Context())
			if err == nil && test.force {
				_, err = s.Refused(t.Context(), got.Generation)
			}
			if (err != nil) != (test.fault != nil) {
				t.Fatal(err)
			}
			a.wantRequests(t, 1)
			if m := mark(t, store); !m.NewIssuerAt.Equal(at) {
				t.Errorf("the mark is %+v", m)
			}
		})
	}
	t.Run("saved later", func(t *testing.T) {
		_, store, s, _ := newUnsaved(t, nil)
		m := mark(t, store)
		m.NewIssuerAt = at
		setMark(t, store, m)
		store.set(func() { store.full = false })
		if err := s.Close(); err != nil || errors.Is(err, refresh.ErrNotSaved) {
			t.Fatal(err)
		}
		if m := mark(t, store); m != (tokenstore.Mark{NewIssuerAt: at}) {
			t.Errorf("the mark is %+v", m)
		}
	})
}

func TestDeadOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := newBubbleServer(t), new(tokenstore.Memory)
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
	})
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
		synctest.Test(t, func(t *testing.T) {
			a, store := newBubbleServer(t), new(tokenstore.Memory)
			save(t, store, a.issue(time.Hour))
			s := newSource(t, store)
			got := make(chan *refresh.Access)
			var generation string
			if err := store.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) (err error) {
				go func() {
					a, _ := s.Access(context.Background())
					got <- a
				}()
				synctest.Wait()
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
	})
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
