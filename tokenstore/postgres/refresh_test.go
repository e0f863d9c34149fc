package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Four replicas serve the same users when all tokens have just expired: each
// is renewed once, by one of them, against a server that ends the session of
// who sends a refresh token twice.
func TestReplicasRefreshOnce(t *testing.T) {
	const replicas, users = 4, 200
	sb, err := sandbox.Start(sandbox.Options{CheckSession: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sb.Close() })
	dsn := testenv.Postgres(t)
	seed := open(t, dsn, 4)
	keys := make([]tokenstore.Key, users)
	for i := range keys {
		tokens, err := sb.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		account, now := fmt.Sprintf("user-%d", i), clock.Now()
		keys[i] = tokenstore.GrantKey(sb.URL(), account)
		if err := seed.Update(t.Context(), keys[i], func(ctx context.Context, l *tokenstore.Locked) error {
			_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
				Server: sb.URL(), Account: account, Issuer: sb.Issuer(), TokenEndpoint: tokens.TokenEndpoint,
				ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
				AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now, ExpiresAt: now.Add(tokens.ExpiresIn),
				RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
			}})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}

	sb.Advance(time.Hour)
	t.Cleanup(clock.Advance(time.Hour))
	var g sync.WaitGroup
	var mu sync.Mutex
	got := make(map[tokenstore.Key]map[string]bool)
	start := time.Now()
	for range replicas {
		s := open(t, dsn, 8)
		for _, key := range keys {
			g.Go(func() {
				source := refresh.New(refresh.Config{Store: s, Key: key})
				a, err := source.Access(t.Context())
				if err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if got[key] == nil {
					got[key] = make(map[string]bool)
				}
				got[key][a.Token.Reveal()] = true
				if err := source.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	g.Wait()
	t.Logf("%d replicas × %d users in %v", replicas, users, time.Since(start).Round(time.Millisecond))
	if n := sb.Counts().Requests[sandbox.StepRefresh]; n != users {
		t.Errorf("%d token requests for %d users", n, users)
	}
	if n := sb.Counts().Grants; n != users {
		t.Errorf("%d of %d sessions are left", n, users)
	}
	for key, tokens := range got {
		if len(tokens) != 1 {
			t.Errorf("%s: the replicas have %d tokens", key, len(tokens))
		}
	}
	const locks = `select count(*)::int from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
	if n := query[int](t, admin(t, dsn), locks)[0]; n != 0 {
		t.Errorf("%d locks are still held", n)
	}
}
