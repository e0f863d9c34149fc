package mcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
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

// many signs in to n servers of srv's issuer, and returns the last error.
func many(t *testing.T, srv *sandbox.Server, store tokenstore.Store, n int) (err error) {
	t.Helper()
	for range n {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Server = store, another(t, srv) })
		err = c.Login(t.Context(), nil)
	}
	return err
}

func wantLimit(t *testing.T, err error, srv *sandbox.Server, most time.Duration) {
	t.Helper()
	limit := new(mcpclient.RegistrationLimitError)
	if !errors.As(err, &limit) {
		t.Fatalf("got %v, want a limit", err)
	}
	wantStep(t, err, mcpclient.StepRegistration)
	if left := limit.Until.Sub(clock.Now()); limit.Issuer != srv.Issuer() || left <= 0 || left > most {
		t.Errorf("%s, for %s", limit.Issuer, left)
	}
}

func TestTenRegistrationsADay(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	if err := many(t, srv, store, 10); err != nil {
		t.Fatal(err)
	}
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour)
	if n := registrations(srv); n != 10 {
		t.Errorf("%d registrations", n)
	}
	// Another issuer is not concerned, nor is a client made by hand.
	if err := many(t, start(t, sandbox.Options{IgnoreResource: true}), store, 1); err != nil {
		t.Error(err)
	}
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		c.Store, c.Server, c.Registration.ClientID = store, another(t, srv), srv.PublicClient()
	})
	if err := c.Login(t.Context(), nil); err != nil {
		t.Error(err)
	}
	advance(t, srv, 23*time.Hour)
	wantLimit(t, many(t, srv, store, 1), srv, time.Hour)
	advance(t, srv, 2*time.Hour)
	if err := many(t, srv, store, 10); err != nil {
		t.Error(err)
	}
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour)
}

// However the clock was set, nobody waits longer than a day, nor is let through by its being
// set back.
func TestTenRegistrationsADayUnderAWrongClock(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	jump(t, 400*24*time.Hour)
	if err := many(t, srv, store, 10); err != nil {
		t.Fatal(err)
	}
	jump(t, -400*24*time.Hour)
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour)
	jump(t, time.Minute)
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour-time.Minute)
	jump(t, 24*time.Hour)
	if err := many(t, srv, store, 1); err != nil {
		t.Errorf("after a day: %v", err)
	}
}

func TestTenRegistrationsADayOfAllWhoShareAStore(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	var done sync.WaitGroup
	var limited atomic.Int32
	for range 25 {
		server := another(t, srv)
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Server = store, server })
		done.Go(func() {
			if err := c.Login(t.Context(), nil); errors.As(err, new(*mcpclient.RegistrationLimitError)) {
				limited.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if n := registrations(srv); n != 10 || limited.Load() != 15 {
		t.Errorf("%d registrations, %d refused", n, limited.Load())
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

func TestRegistrationsThatWereNotMadeDoNotCount(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	undo := srv.Fail(sandbox.StepRegister, sandbox.Fault{Status: 403, Body: `{"error":"insufficient_scope"}`})
	if err := many(t, srv, store, 12); !errors.As(err, new(*dcr.Error)) {
		t.Errorf("refused: %v", err)
	}
	undo()
	gone := listenNowhere(t)
	for range 12 {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) {
			c.Store = store
			c.Transport = testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
				if strings.Contains(req.URL.Path, "clients-registrations") {
					req = req.Clone(req.Context())
					req.URL.Host = gone
				}
				return http.DefaultTransport.RoundTrip(req)
			})
		})
		if err := c.Login(t.Context(), nil); err == nil || errors.As(err, new(*mcpclient.RegistrationLimitError)) {
			t.Fatalf("nobody there: %v", err)
		}
	}
	if err := many(t, srv, store, 10); err != nil {
		t.Error(err)
	}
	// An answer that is lost may have been a client.
	store = &tokenstore.Memory{}
	defer srv.Fail(sandbox.StepRegister, sandbox.Fault{Drop: true, CarryOut: true})()
	if err := many(t, srv, store, 10); err == nil || errors.As(err, new(*mcpclient.RegistrationLimitError)) {
		t.Errorf("answers that are lost: %v", err)
	}
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour)
}

// listenNowhere returns an address at which nobody listens.
func listenNowhere(t *testing.T) string {
	srv := httptest.NewServer(nil)
	srv.Close()
	return strings.TrimPrefix(srv.URL, "http://")
}

// A count that cannot be read begins anew: it must lock nobody out.
func TestACountThatIsDamaged(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	store := &tokenstore.Memory{}
	key := tokenstore.Key(fmt.Sprintf("%q %q", "registrations", srv.Issuer()))
	if err := store.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Pending: true, Tries: 99, At: clock.Now()})
	}); err != nil {
		t.Fatal(err)
	}
	if err := many(t, srv, store, 10); err != nil {
		t.Fatal(err)
	}
	wantLimit(t, many(t, srv, store, 1), srv, 24*time.Hour)
}

func (b *fakeBrowser) prompts(t *testing.T) (prompts []string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.urls {
		prompts = append(prompts, queryOf(t, u).Get("prompt"))
	}
	return prompts
}

func TestAClientOfManyServersAsksFirst(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	for _, test := range []struct {
		name   string
		change func(*mcpclient.Client)
		want   []string
	}{
		{"registered", func(*mcpclient.Client) {}, []string{"", "", ""}},
		{"by hand", func(c *mcpclient.Client) { c.Registration.ClientID = srv.PublicClient() }, []string{"consent", "", "consent"}},
		{"by hand, named account", func(c *mcpclient.Client) { c.Registration.ClientID, c.Account = srv.PublicClient(), "work" },
			[]string{"consent select_account", "select_account", "consent select_account"}},
		{"by hand, offline", func(c *mcpclient.Client) {
			c.Registration.ClientID, c.Scopes = srv.PublicClient(), []string{"offline_access"}
		}, []string{"consent", "consent", "consent"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, b := newClient(t, srv, test.change)
			for range 2 {
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Logout(t.Context()); err != nil { // and with the grant goes what is known
				t.Fatal(err)
			}
			if err := c.Login(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if got := b.prompts(t); !slices.Equal(got, test.want) {
				t.Errorf("prompts %q, want %q", got, test.want)
			}
		})
	}
}

// refusesConsent has srv refuse prompt=consent as a server that knows no such thing does.
func refusesConsent(srv *sandbox.Server) (undo func()) {
	return srv.Fail(sandbox.StepAuthorize, sandbox.Fault{
		Set:   map[string]any{"code": nil, "error": "invalid_request"},
		Match: func(r *http.Request) bool { return strings.Contains(r.URL.Query().Get("prompt"), "consent") },
	})
}

func TestConsentThatIsRefused(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true})
	undo := refusesConsent(srv)
	store := &tokenstore.Memory{}
	change := func(c *mcpclient.Client) { c.Store, c.Registration.ClientID = store, srv.PublicClient() }
	login := func(want ...string) {
		t.Helper()
		c, b := newClient(t, srv, change)
		warned := 0
		if err := c.Login(t.Context(), &mcpclient.LoginOptions{OnWarning: func(err error) {
			if warned++; !errors.Is(err, mcpclient.ErrConsentNotAsked) {
				t.Errorf("warning: %v", err)
			}
		}}); err != nil {
			t.Fatal(err)
		}
		if got := b.prompts(t); !slices.Equal(got, want) {
			t.Errorf("prompts %q, want %q", got, want)
		}
		if gaveUp := want[len(want)-1] == ""; (warned == 1) != gaveUp {
			t.Errorf("%d warnings", warned)
		}
		if _, err := c.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	login("consent", "")
	login("") // it is remembered
	undo()
	login("") // for a day
	advance(t, srv, 25*time.Hour)
	login("consent")
	defer refusesConsent(srv)()
	login("consent", "")
	jump(t, -48*time.Hour) // to before it was noted
	login("consent", "")

	t.Run("for something else", func(t *testing.T) {
		defer srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "invalid_request"}})()
		c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Registration.ClientID = srv.PublicClient() })
		err := c.Login(t.Context(), nil)
		if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || ae.Code != "invalid_request" {
			t.Errorf("Login: %v", err)
		}
		wantOpened(t, b, 2)
	})
	t.Run("of a web application", func(t *testing.T) {
		srv := start(t, sandbox.Options{IgnoreResource: true, AppRedirectURLs: []string{webCallback}})
		defer refusesConsent(srv)()
		store := &tokenstore.Memory{}
		id, secret := srv.App()
		for _, succeeds := range []bool{false, true} {
			c, b := newClient(t, srv, func(c *mcpclient.Client) {
				c.Store, c.NonInteractive = store, true
				c.Registration = mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret), RedirectURL: webCallback}
			})
			address, pending, err := c.BeginLogin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if asks := queryOf(t, address).Get("prompt") == "consent"; asks == succeeds {
				t.Errorf("it asks for consent: %v", asks)
			}
			if err := c.FinishLogin(t.Context(), pending, b.visit(t, address)); (err == nil) != succeeds {
				t.Errorf("FinishLogin: %v", err)
			}
		}
	})
}

// A server shares the client of its origin, but not what was allowed to another path.
func TestAnotherPathOfAnOriginAsksFirst(t *testing.T) {
	srv := start(t, sandbox.Options{IgnoreResource: true, ResourceMetadata: "none"})
	store := &tokenstore.Memory{}
	for _, test := range []struct{ server, prompt string }{
		{srv.URL(), ""}, {srv.APIURL() + "/api/v1", "consent"}, {srv.APIURL() + "/api/v1", ""}, {srv.URL(), ""},
	} {
		c, b := newClient(t, srv, func(c *mcpclient.Client) {
			c.Store, c.Server, c.Issuer, c.Resource = store, test.server, srv.Issuer(), mcpclient.NoResource
		})
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if got := b.prompts(t); !slices.Equal(got, []string{test.prompt}) {
			t.Errorf("%s: prompts %q, want %q", test.server, got, test.prompt)
		}
	}
	if n := registrations(srv); n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func TestAServerThatIsNotListed(t *testing.T) {
	for _, test := range []struct {
		list  func(srv *sandbox.Server) any
		warns bool
	}{
		{func(*sandbox.Server) any { return nil }, false},
		{func(*sandbox.Server) any { return []string{} }, false},
		{func(*sandbox.Server) any { return "all of them" }, false},
		{func(srv *sandbox.Server) any { return []any{"https://other.example", 7} }, false},
		{func(srv *sandbox.Server) any { return []string{"https://other.example", srv.URL()} }, false},
		{func(srv *sandbox.Server) any { return []string{strings.Replace(srv.URL(), "http", "HTTP", 1)} }, false},
		{func(srv *sandbox.Server) any { return []string{"https://other.example"} }, true},
		{func(srv *sandbox.Server) any { return []string{srv.URL() + "/", srv.APIURL()} }, true},
	} {
		srv := start(t, sandbox.Options{})
		list := test.list(srv)
		srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"protected_resources": list}})
		c, _ := newClient(t, srv, nil)
		warned := false
		if err := c.Login(t.Context(), &mcpclient.LoginOptions{OnWarning: func(err error) { warned = errors.Is(err, mcpclient.ErrNotListed) }}); err != nil {
			t.Errorf("%v: %v", list, err)
		}
		if warned != test.warns {
			t.Errorf("%v: warned %v", list, warned)
		}
	}
}
