package refresh_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
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
	if client, ok := inMemory.Load(t.Name()); ok && cfg.HTTPClient == nil {
		cfg.HTTPClient = client.(*http.Client)
	}
	s := refresh.New(cfg)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newSourceAfter is what another process sees some time later.
func newSourceAfter(t testing.TB, store tokenstore.Store, d time.Duration) *refresh.Source {
	advance(t, d)
	return newSource(t, store)
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
	return &http.Client{Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		*requests++
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
}
