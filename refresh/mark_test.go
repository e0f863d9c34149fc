package refresh_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

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
