package mcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// another returns the address of one more server that has srv's authorization server.
func another(t *testing.T, srv *sandbox.Server) string {
	t.Helper()
	api, err := url.Parse(srv.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(api) },
		ModifyResponse: func(resp *http.Response) error {
			if !strings.Contains(resp.Request.URL.Path, "oauth-protected-resource") && resp.Header.Get("WWW-Authenticate") == "" {
				return nil
			}
			data, err := io.ReadAll(resp.Body)
			own := func(s string) string {
				return strings.ReplaceAll(s, srv.APIURL(), "http://"+resp.Request.Header.Get("X-Own"))
			}
			text := own(string(data))
			resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
			resp.Header.Set("Content-Length", fmt.Sprint(len(text)))
			if c := resp.Header.Get("WWW-Authenticate"); c != "" {
				resp.Header.Set("WWW-Authenticate", own(c))
			}
			return err
		},
	}
	address := listen(t, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Own", r.Host)
		proxy.ServeHTTP(w, r)
	})
	return address + "/mcp"
}

// registrations counts those that were made.
func registrations(srv *sandbox.Server) int { return srv.Counts().Clients }

func TestAClientForEachServer(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	ids := map[string]bool{}
	for i, server := range []string{srv.URL(), srv.URL(), another(t, srv), srv.APIURL() + "/mcp"} {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Server, c.Account = store, server, fmt.Sprint(i) })
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids[st.ClientID] = true
	}
	if len(ids) != 2 || registrations(srv) != 2 {
		t.Errorf("%d clients are used, %d registered", len(ids), registrations(srv))
	}
}

// What an older version has stored under a key without the server's origin serves the grant that names
// it, and no sign-in.
func TestARegistrationOfAnOlderVersion(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	change := func(c *mcpclient.Client) { c.Store = store }
	first, _ := newClient(t, srv, change)
	if err := first.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const redirect = "http://127.0.0.1/callback"
	then := tokenstore.Key(fmt.Sprintf("%q %q %q %q", "registration", srv.Issuer(), "Acme Notes", redirect))
	now := tokenstore.RegistrationKey(srv.Issuer(), "Acme Notes", srv.APIURL(), redirect)
	registration, err := store.Get(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := store.Get(t.Context(), tokenstore.GrantKey(srv.URL(), ""))
	if err != nil {
		t.Fatal(err)
	}
	grant.Grant.Registration = then
	seed(t, store, tokenstore.GrantKey(srv.URL(), ""), grant.Grant)
	if err := store.Update(t.Context(), then, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, registration)
		return errors.Join(err, store.Delete(ctx, now))
	}); err != nil {
		t.Fatal(err)
	}
	old := grant.Grant.ClientID

	advance(t, srv, time.Hour)
	c, b := newClient(t, srv, change)
	mustCall(t, connect(t, c)) // with a refresh
	wantOpened(t, b, 0)

	if err := srv.DeleteClient(old); err != nil {
		t.Fatal(err)
	}
	advance(t, srv, time.Hour)
	c, b = newClient(t, srv, change)
	mustCall(t, connect(t, c))
	wantOpened(t, b, 1)
	if _, err := store.Get(t.Context(), then); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("a client that the server has forgotten is kept: %v", err)
	}
	if r, err := store.Get(t.Context(), now); err != nil || r.Registration.ClientID == old || r.Registration.Server != srv.URL() {
		t.Errorf("the new registration: %+v, %v", r.Registration, err)
	}
}

// Of ten thousand users of a server each has the one client, also where they come all at once.
func TestManyUsersOfAServerAreOneRegistration(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	var done sync.WaitGroup
	for i := range 60 {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) {
			c.Store, c.Account, c.Registration.RedirectURL = store, fmt.Sprint(i), webCallback
		})
		done.Go(func() {
			if _, _, err := c.BeginLogin(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if n := registrations(srv); n != 1 {
		t.Errorf("%d registrations", n)
	}
}
