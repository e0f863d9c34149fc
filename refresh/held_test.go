package refresh_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

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
