package refresh_test

import (
	"errors"
	"net/http"
	"slices"
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

// The sandbox was written apart from this package, from what the service and
// Keycloak document.
func newSandbox(t *testing.T, confidential bool) (*sandbox.Server, *tokenstore.Memory) {
	t.Helper()
	sb := testenv.Sandbox(t, sandbox.Options{CheckSession: true})
	o, secret, method := sandbox.IssueOptions{}, "", "none"
	if confidential {
		o.ClientID, secret = sb.App()
		o.NoResource, method = true, "client_secret_post"
	}
	tokens, err := sb.Issue("mia", o)
	if err != nil {
		t.Fatal(err)
	}
	now := clock.Now()
	store := new(tokenstore.Memory)
	save(t, store, &tokenstore.Grant{
		Server: sb.URL(), Issuer: sb.Issuer(), TokenEndpoint: tokens.TokenEndpoint,
		ClientID: tokens.ClientID, ClientSecret: tokenstore.NewSecret(secret), AuthMethod: method,
		Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now, ExpiresAt: now.Add(tokens.ExpiresIn),
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
	})
	return sb, store
}

// later moves the clocks on both sides.
func later(t *testing.T, sb *sandbox.Server, d time.Duration) {
	advance(t, d)
	sb.Advance(d)
}

func wantRefreshes(t *testing.T, sb *sandbox.Server, want int) {
	t.Helper()
	if got := sb.Counts().Requests[sandbox.StepRefresh]; got != want {
		t.Fatalf("the sandbox got %d refreshes, want %d", got, want)
	}
}

func TestSandboxSessionOfADay(t *testing.T) {
	sb, store := newSandbox(t, false)
	s, other := newSource(t, store), newSource(t, store)
	scopes := access(t, s).Scopes
	for i := range 24 {
		later(t, sb, 31*time.Minute)
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() {
				a, err := []*refresh.Source{s, other}[n%2].Access(t.Context())
				if err != nil {
					t.Error(err)
				} else if got := slices.Sorted(slices.Values(a.Scopes)); !slices.Equal(got, slices.Sorted(slices.Values(scopes))) {
					t.Errorf("the scopes are %q now", got)
				}
			})
		}
		wg.Wait()
		wantRefreshes(t, sb, i+1)
	}
	if g := stored(t, store).Grant; g.RefreshExpiresAt.IsZero() {
		t.Error("refresh_expires_in was not kept")
	}
	if err := sb.EndSession("mia"); err != nil {
		t.Fatal(err)
	}
	later(t, sb, 31*time.Minute)
	wantError(t, s, refresh.ErrLoginRequired)
	wantError(t, other, refresh.ErrLoginRequired)
	wantRefreshes(t, sb, 25)
}

func TestSandboxConfidentialAppWithoutResource(t *testing.T) {
	sb, store := newSandbox(t, true)
	later(t, sb, time.Hour)
	access(t, newSource(t, store))
	wantRefreshes(t, sb, 1)
}

func TestSandboxAnswerLost(t *testing.T) {
	sb, store := newSandbox(t, false)
	later(t, sb, time.Hour)
	sb.Fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true, Times: 1})
	wantRetry(t, newSource(t, store))
	later(t, sb, 2*time.Second)
	wantError(t, newSource(t, store), refresh.ErrAnswerLost)
}

func TestSandboxOverloaded(t *testing.T) {
	sb, store := newSandbox(t, false)
	later(t, sb, time.Hour)
	sb.Fail(sandbox.StepRefresh, sandbox.Fault{Status: 503, Header: http.Header{"Retry-After": {"5"}}, Times: 2})
	s := newSource(t, store)
	for range 2 {
		wantRetry(t, s)
		later(t, sb, 6*time.Second)
	}
	access(t, s)
	wantRefreshes(t, sb, 3)
}

func TestSandboxClientDeleted(t *testing.T) {
	sb, store := newSandbox(t, false)
	if err := sb.DeleteClient(sb.PublicClient()); err != nil {
		t.Fatal(err)
	}
	later(t, sb, time.Hour)
	_, err := newSource(t, store).Access(t.Context())
	var client *refresh.ClientError // it is none that was registered dynamically
	if !errors.As(err, &client) {
		t.Errorf("got %v", err)
	}
}
