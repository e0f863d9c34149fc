package refresh_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// The clock of a bubble stands still while anything runs: here the moment of
// the expiry, of the last quarter and of the end of a back-off can be met exactly.
func TestAtTheVeryMoment(t *testing.T) {
	for _, test := range []struct {
		name     string
		at       time.Duration // after the token of 40 s was asked for
		requests int
		old      bool // the token that is handed out
	}{
		{"a nanosecond before the last quarter", 30*time.Second - 1, 0, true},
		{"the last quarter begins", 30 * time.Second, 1, false},
		{"a nanosecond before the expiry", 40*time.Second - 1, 1, false},
		{"the expiry", 40 * time.Second, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests, store := 0, new(tokenstore.Memory)
				g := grantOf(40 * time.Second)
				save(t, store, g)
				time.Sleep(test.at)
				s := refresh.New(refresh.Config{Store: store, Key: grantKey, HTTPClient: answering(&requests, 200, `{"access_token":"next","expires_in":40}`)})
				defer s.Close()
				got := access(t, s)
				if requests != test.requests || got.Token.Equal(g.AccessToken) != test.old {
					t.Errorf("%d requests, want %d; the old token: %v", requests, test.requests, got.Token.Equal(g.AccessToken))
				}
			})
		})
	}
	// A failed refresh just before the expiry is nobody's error, and is one at it.
	t.Run("the expiry, and it cannot be renewed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			requests, store := 0, new(tokenstore.Memory)
			save(t, store, grantOf(40*time.Second))
			s := refresh.New(refresh.Config{Store: store, Key: grantKey, HTTPClient: answering(&requests, 429, `{}`)})
			defer s.Close()
			time.Sleep(40*time.Second - 1)
			access(t, s)
			time.Sleep(time.Nanosecond)
			retry := wantRetry(t, s)
			time.Sleep(time.Until(retry.At) - 1)
			wantRetry(t, s)
			if requests != 1 {
				t.Errorf("%d requests before the back-off is over", requests)
			}
			time.Sleep(time.Nanosecond)
			wantRetry(t, s)
			if requests != 2 {
				t.Errorf("%d requests when the back-off is over", requests)
			}
		})
	})
}

// grantOf is a grant of a server that listens nowhere.
func grantOf(life time.Duration) *tokenstore.Grant {
	now := clock.Now()
	return &tokenstore.Grant{
		Server: theServer, Account: theAccount, Issuer: "https://auth.example", TokenEndpoint: "https://auth.example/token",
		ClientID: theClient, AuthMethod: "none", AccessToken: tokenstore.NewSecret("first"), RefreshToken: tokenstore.NewSecret("refresh"),
		ObtainedAt: now, ExpiresAt: now.Add(life),
	}
}

// answering counts requests, and answers them at once.
func answering(requests *int, status int, body string) *http.Client {
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		*requests++
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

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
