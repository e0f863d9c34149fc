package mcpclient_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

func queryOf(t *testing.T, raw string) url.Values {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func listen(t *testing.T, h http.HandlerFunc) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// A wire is a transport that is one function.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) { return w(req) }

// seed stores a grant, as an earlier sign-in has left it.
func seed(t *testing.T, store tokenstore.Store, key tokenstore.Key, g *tokenstore.Grant) {
	t.Helper()
	err := store.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that happens off the path.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 seconds", what)
		}
	}
}
