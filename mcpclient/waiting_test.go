package mcpclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A slowEndpoint is a token endpoint that takes ten seconds for an answer,
// unless a test has seen what it wants to see before.
type slowEndpoint struct {
	asked chan struct{} // gets one for each request, up to ten
	hurry func()        // has all be answered now
}

const slow = 10 * time.Second

// signedIn starts a sandbox, a slow token endpoint before its own, and stores a
// grant that is renewed there.
func signedIn(t *testing.T, store tokenstore.Store) (*sandbox.Server, *slowEndpoint) {
	t.Helper()
	srv := start(t, sandbox.Options{})
	tokens, err := srv.Issue("olivia", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	real, err := url.Parse(tokens.TokenEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan struct{})
	e := &slowEndpoint{asked: make(chan struct{}, 10), hurry: sync.OnceFunc(func() { close(now) })}
	proxy := testenv.Proxy(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: real.Scheme, Host: real.Host}))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case e.asked <- struct{}{}:
		default:
		}
		select {
		case <-now:
		case <-time.After(slow):
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	t.Cleanup(e.hurry)
	seed(t, store, tokenstore.GrantKey(srv.URL(), ""), &tokenstore.Grant{
		Server: srv.URL(), SignIn: "1", Issuer: srv.Issuer(), TokenEndpoint: front.URL + real.Path,
		ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource,
		ScopesRequested: strings.Fields(tokens.Scope), ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: clock.Now(), ExpiresAt: clock.Now().Add(tokens.ExpiresIn),
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
	})
	return srv, e
}

// await waits until a refresh is under way.
func (e *slowEndpoint) await(t *testing.T) {
	t.Helper()
	select {
	case <-e.asked:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody asks for a token")
	}
}

// soon is well before a refresh that was begun at since is answered, and long
// enough for whoever does not wait for it.
func soon(t *testing.T, since time.Time, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Until(since.Add(slow / 2))):
		t.Fatalf("%s waits for the refresh", what)
		return nil
	}
}

// renewedOnce checks that the refresh has been saved after all, and that it was
// the only one.
func renewedOnce(t *testing.T, srv *sandbox.Server, store tokenstore.Store, old tokenstore.Record, sessions ...*mcp.ClientSession) {
	t.Helper()
	key := tokenstore.GrantKey(srv.URL(), "")
	eventually(t, "the renewed grant is saved", func() bool {
		r, err := store.Get(t.Context(), key)
		return err == nil && r.Generation != old.Generation && !r.Grant.RefreshToken.Equal(old.Grant.RefreshToken)
	})
	for _, session := range sessions {
		mustCall(t, session)
	}
	if n := steps(srv)[sandbox.StepRefresh]; n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func record(t *testing.T, srv *sandbox.Server, store tokenstore.Store) tokenstore.Record {
	t.Helper()
	r, err := store.Get(t.Context(), tokenstore.GrantKey(srv.URL(), ""))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// noBrowser has a client use store and fail where only a sign-in helps.
func noBrowser(store tokenstore.Store) func(*mcpclient.Client) {
	return func(c *mcpclient.Client) { c.Store, c.NonInteractive = store, true }
}

func TestCallsWithALiveTokenDoNotWaitForASlowRefresh(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 30*time.Minute-30*time.Second) // it is time to renew the token, which lives

	begun := time.Now()
	done := make(chan error, 8)
	call := func() { done <- callTool(t.Context(), session) }
	go call()
	if err := soon(t, begun, "the call that starts it", done); err != nil {
		t.Errorf("the call that starts it: %v", err)
	}
	endpoint.await(t)
	for range 3 {
		for range 8 {
			go call()
		}
		for range 8 {
			if err := soon(t, begun, "a call", done); err != nil {
				t.Errorf("a call: %v", err)
			}
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session)
}

// twoOfOne returns two sessions of one account that share nothing but a folder,
// as those of two processes do: the store's locks are not of a process.
func twoOfOne(t *testing.T) (srv *sandbox.Server, endpoint *slowEndpoint, store tokenstore.Store, mine, theirs *mcp.ClientSession) {
	t.Helper()
	dir := t.TempDir()
	open := func() tokenstore.Store {
		return &tokenstore.File{
			Dir: dir, Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q"),
		}
	}
	store = open()
	srv, endpoint = signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	other, _ := newClient(t, srv, noBrowser(open()))
	return srv, endpoint, store, connect(t, c), connect(t, other)
}

func TestCallsWithALiveTokenDoNotWaitForAnothersRefresh(t *testing.T) {
	srv, endpoint, store, session, theirs := twoOfOne(t)
	old := record(t, srv, store)
	advance(t, srv, 30*time.Minute-30*time.Second)

	begun := time.Now()
	mustCall(t, theirs)
	endpoint.await(t) // it holds the lock
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(t.Context(), session) }()
	}
	for range 8 {
		if err := soon(t, begun, "a call", done); err != nil {
			t.Errorf("a call: %v", err)
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session, theirs)
}

func TestCancelledCallersDoNotWaitForASlowRefreshWhichIsSaved(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	var notices atomic.Int32
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		noBrowser(store)(c)
		below := mcpclient.NewTransport(srv.URL())
		c.Transport = wire(func(r *http.Request) (*http.Response, error) {
			if cancels(r) {
				notices.Add(1)
			}
			return below.RoundTrip(r)
		})
	})
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 31*time.Minute) // the token has expired

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	callers := map[string]func() error{
		"a call":    func() error { return callTool(ctx, session) },
		"a listing": func() error { _, err := session.ListTools(ctx, nil); return err },
		"Connect":   func() error { _, err := c.Connect(ctx); return err },
		"a request": func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.APIURL()+"/api/v1/projects", nil)
			if err != nil {
				return err
			}
			resp, err := c.HTTPClient().Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			return err
		},
	}
	for n := range 16 { // of the SDK's ways through a Connect that is given up some are rare
		callers[fmt.Sprint("Connect ", n)] = callers["Connect"]
	}
	begun := time.Now()
	results := map[string]chan error{}
	for name, call := range callers {
		done := make(chan error, 1)
		results[name] = done
		go func() { done <- call() }()
	}
	stays := make(chan error, 1)
	go func() { stays <- callTool(t.Context(), session) }()
	endpoint.await(t)
	for name, done := range results {
		select {
		case err := <-done:
			t.Errorf("%s has a result without a token: %v", name, err)
		default:
		}
	}
	cancel()
	for name, done := range results {
		if err := soon(t, begun, name, done); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	if err := <-stays; err != nil {
		t.Errorf("the caller who stays: %v", err)
	}
	renewedOnce(t, srv, store, old, session)
	if err := session.Close(); err != nil { // sees its notices off
		t.Errorf("Close: %v", err)
	}
	if n := notices.Load(); n != 0 {
		t.Errorf("the server was told %d times to cancel what it was never asked for", n)
	}
}

// cancels reports whether r is a notice that a call is cancelled.
func cancels(r *http.Request) bool {
	if r.GetBody == nil {
		return false
	}
	body, err := r.GetBody()
	if err != nil {
		return false
	}
	msg, err := io.ReadAll(body)
	return err == nil && bytes.Contains(msg, []byte(`"notifications/cancelled"`))
}

func TestARefreshThatAllHaveGivenUpIsSaved(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 31*time.Minute)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := time.Now()
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(ctx, session) }()
	}
	endpoint.await(t)
	cancel()
	for range 8 {
		if err := soon(t, begun, "a call", done); !errors.Is(err, context.Canceled) {
			t.Errorf("a call: %v", err)
		}
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session)
}

func TestCancelledCallersDoNotWaitForAnothersRefresh(t *testing.T) {
	srv, endpoint, store, session, theirs := twoOfOne(t)
	old := record(t, srv, store)
	advance(t, srv, 31*time.Minute)

	begun := time.Now()
	other := make(chan error, 1)
	go func() { other <- callTool(t.Context(), theirs) }()
	endpoint.await(t) // it holds the lock
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(ctx, session) }()
	}
	select {
	case err := <-done:
		t.Fatalf("a call has a result without a token: %v", err)
	case <-time.After(100 * time.Millisecond): // so that they wait for the lock
	}
	cancel()
	for range 8 {
		if err := soon(t, begun, "a call", done); !errors.Is(err, context.Canceled) {
			t.Errorf("a call: %v", err)
		}
	}
	endpoint.hurry()
	if err := <-other; err != nil {
		t.Errorf("the other's call: %v", err)
	}
	renewedOnce(t, srv, store, old, session, theirs)
}
