package mcpclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// wantStep checks which step an error names.
func wantStep(t *testing.T, err error, want mcpclient.Step) {
	t.Helper()
	if se := new(mcpclient.StepError); !errors.As(err, &se) || se.Step != want {
		t.Errorf("error %v, want it to name the step %v", err, want)
	}
}

// nobody is a browser in front of which nobody sits. It is open until the
// sign-in ends.
type nobody struct{ opened, closed atomic.Int32 }

func (n *nobody) open(ctx context.Context, url string) error {
	n.opened.Add(1)
	<-ctx.Done()
	n.closed.Add(1)
	return ctx.Err()
}

func TestSomebodyComesBackAtTheLastMoment(t *testing.T) {
	t.Parallel() // it waits for slow servers
	login := func(t *testing.T, exchange sandbox.Fault) error {
		srv := start(t, sandbox.Options{})
		exchange.Delay = 3 * time.Second
		srv.Fail(sandbox.StepExchange, exchange)
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.SignInTimeout = 2 * time.Second })
		return c.Login(t.Context(), nil)
	}
	t.Run("the exchange fails", func(t *testing.T) {
		t.Parallel()
		err := login(t, sandbox.Fault{Status: 400, Body: `{"error":"invalid_grant"}`})
		if te := new(authcode.TokenError); !errors.As(err, &te) || te.Code != "invalid_grant" {
			t.Errorf("Login: %v, want the failure of the exchange", err)
		}
		wantStep(t, err, mcpclient.StepExchange)
	})
	t.Run("tokens are issued", func(t *testing.T) {
		t.Parallel()
		if err := login(t, sandbox.Fault{CarryOut: true}); err != nil {
			t.Errorf("they are thrown away: %v", err)
		}
	})
}

func TestASignInWaitsForAnother(t *testing.T) {
	t.Parallel() // it waits for a lock
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	n := new(nobody)
	first, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.OpenBrowser = store, n.open })
	second, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.SignInTimeout = store, time.Second })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.Login(ctx, nil) }()
	testenv.Eventually(t, "the browser opens", func() bool { return n.opened.Load() == 1 })
	err := second.Login(t.Context(), nil)
	if !errors.As(err, new(*tokenstore.LockTimeoutError)) {
		t.Errorf("second Login: %v", err)
	}
	wantStep(t, err, mcpclient.StepCallback)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("first Login: %v", err)
	}
	if n := b.opened.Load(); n != 0 {
		t.Errorf("the second browser opened %d times", n)
	}
}

func TestTheLastWhoWaitsEndsTheSignIn(t *testing.T) {
	srv := start(t, sandbox.Options{})
	n := new(nobody)
	c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.OpenBrowser = n.open })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := c.Connect(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Connect: %v", err)
			}
		})
	}
	testenv.Eventually(t, "the browser opens", func() bool { return n.opened.Load() == 1 })
	cancel()
	wg.Wait()
	testenv.Eventually(t, "the sign-in ends", func() bool { return n.closed.Load() == 1 })

	// It was nobody's denial.
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() {
		for n.opened.Load() < 2 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, _ = c.Connect(ctx)
	if n := n.opened.Load(); n != 2 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestClose(t *testing.T) {
	srv := start(t, sandbox.Options{CheckSession: true})
	t.Run("ends a sign-in", func(t *testing.T) {
		n := new(nobody)
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.OpenBrowser = n.open })
		failed := make(chan error, 1)
		go func() { _, err := c.Connect(context.Background()); failed <- err }()
		testenv.Eventually(t, "the browser opens", func() bool { return n.opened.Load() == 1 })
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, mcpclient.ErrClosed) {
			t.Errorf("Connect: %v", err)
		}
	})
	t.Run("waits for an exchange", func(t *testing.T) {
		defer srv.Fail(sandbox.StepExchange, sandbox.Fault{Delay: 300 * time.Millisecond, CarryOut: true})()
		store := &tokenstore.Memory{}
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = c.Connect(ctx) }()
		testenv.Eventually(t, "the code is sent", func() bool { return steps(srv)[sandbox.StepExchange] > 0 })
		cancel() // and nobody waits for it any more
		time.Sleep(20 * time.Millisecond)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := store.Get(t.Context(), tokenstore.GrantKey(srv.URL(), "")); err != nil {
			t.Errorf("what was issued is lost: %v", err)
		}
	})
	t.Run("is the end", func(t *testing.T) {
		c, _ := newClient(t, srv, nil)
		session := connect(t, c)
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		mustCall(t, session) // with the token that there is
		if err := srv.ExpireAccess("olivia"); err != nil {
			t.Fatal(err)
		}
		if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrClosed) && !errors.As(err, new(*mcpclient.TokenRefusedError)) {
			t.Errorf("call: %v", err)
		}
		for name, call := range map[string]func() error{
			"Connect":    func() error { _, err := c.Connect(t.Context()); return err },
			"Login":      func() error { return c.Login(t.Context(), nil) },
			"Logout":     func() error { _, err := c.Logout(t.Context()); return err },
			"Status":     func() error { _, err := c.Status(t.Context()); return err },
			"Discover":   func() error { _, err := c.Discover(t.Context()); return err },
			"HTTPClient": func() error { _, err := c.HTTPClient().Get(srv.APIURL()); return err },
		} {
			if err := call(); !errors.Is(err, mcpclient.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("of one never used", func(t *testing.T) {
		c := &mcpclient.Client{Store: brokenStore{}}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Status(t.Context()); !errors.Is(err, mcpclient.ErrClosed) {
			t.Errorf("Status: %v", err)
		}
		if err := (&mcpclient.Client{Server: "ftp://x"}).Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFieldsThatAreWrong(t *testing.T) {
	for name, c := range map[string]*mcpclient.Client{
		"server without a scheme": {Server: "api.example.com/mcp"},
		"server in the clear":     {Server: "http://api.example.com/mcp"},
		"server with a password":  {Server: "https://user:hunter22@api.example.com/mcp"},
		"server with a fragment":  {Server: "https://api.example.com/mcp#x"},
		"server that is a file":   {Server: "file:///etc/passwd"},
		"resource without scheme": {Resource: "api.example.com"},
		"resource with fragment":  {Resource: "https://api.example.com/mcp#"},
	} {
		c.Store = &tokenstore.Memory{}
		for range 2 { // and stays so
			_, err := c.Connect(t.Context())
			if err == nil || strings.Contains(err.Error(), "hunter22") {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := c.HTTPClient().Get("https://api.example.com"); err == nil {
				t.Errorf("%s: HTTPClient works", name)
			}
		}
	}
	srv := start(t, sandbox.Options{})
	for _, redirect := range []string{"https://app.example.com/cb", "http://10.0.0.1/cb", "ftp://127.0.0.1/", "http://127.0.0.1:99999/cb", "http://127.0.0.1/cb#x"} {
		c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Registration.RedirectURL = redirect })
		wantStep(t, c.Login(t.Context(), nil), mcpclient.StepCallback)
		if b.opened.Load() != 0 {
			t.Errorf("%s: the browser is opened", redirect)
		}
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 0 {
		t.Errorf("%d clients registered", n)
	}
}

func TestUserAgent(t *testing.T) {
	for _, test := range []struct{ name, version, want string }{
		{"Acme Notes", "1.2", "Acme-Notes/1.2"},
		{"メモ", "1.2", "astravue-mcp/1.2"},
		{"Acme\r\nX: y", "版", "AcmeX-y"},
		{"Acme/2 (beta)", "v1.0.0+meta", "Acme2-beta/v1.0.0+meta"},
	} {
		var got string
		url := listen(t, func(w http.ResponseWriter, r *http.Request) { got = r.UserAgent() })
		c := &mcpclient.Client{Name: test.name, Version: test.version, Server: url, Store: &tokenstore.Memory{}}
		if resp, err := c.HTTPClient().Get(url); err != nil {
			t.Error(err)
		} else {
			_ = resp.Body.Close()
		}
		_ = c.Close()
		if got != test.want {
			t.Errorf("%q %q: User-Agent %q, want %q", test.name, test.version, got, test.want)
		}
	}
}

func TestAServerWithoutASignIn(t *testing.T) {
	s := newLegacyServer(t)
	c := &mcpclient.Client{Server: s.url, Store: &tokenstore.Memory{}}
	defer c.Close()
	err := c.Login(t.Context(), nil)
	if !errors.Is(err, mcpclient.ErrNoSignIn) || !errors.As(err, new(*discovery.NotFoundError)) {
		t.Errorf("Login: %v", err)
	}
	wantStep(t, err, mcpclient.StepDiscovery)
	mustCall(t, connect(t, c))
}

func TestAServerThatAsksForNoSignInButHasOne(t *testing.T) {
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepChallenge, sandbox.Fault{Times: 1, Body: `{"jsonrpc":"2.0","id":1,"result":{}}`})
	c, _ := newClient(t, srv, nil)
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want := map[sandbox.Step]int{
		sandbox.StepChallenge: 1, sandbox.StepResourceMetadata: 2, sandbox.StepServerMetadata: 1, // path first, then root
		sandbox.StepRegister: 1, sandbox.StepAuthorize: 1, sandbox.StepExchange: 1,
	}
	if diff := cmp.Diff(want, steps(srv)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestIssuer(t *testing.T) {
	for _, test := range []struct {
		name, host, issuer string
		good               bool
	}{
		{"announced", sandbox.IssuerAuth, "", true},
		{"announced, on the API host", sandbox.IssuerAPI, "", true},
		{"another than announced", sandbox.IssuerSplit, "", false},
		{"another than announced, pinned", sandbox.IssuerSplit, "ISSUER", true},
		{"announced and pinned", sandbox.IssuerAuth, "ISSUER", true},
		{"another is pinned, where nobody is", sandbox.IssuerAuth, "http://127.0.0.1:1", false},
		{"another is pinned, split", sandbox.IssuerSplit, "http://127.0.0.1:1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := start(t, sandbox.Options{IssuerHost: test.host})
			store := &tokenstore.Memory{}
			change := func(c *mcpclient.Client) {
				c.Issuer, c.Store = strings.Replace(test.issuer, "ISSUER", srv.Issuer(), 1), store
			}
			c, b := newClient(t, srv, change)
			err := c.Login(t.Context(), nil)
			if !test.good {
				if !errors.As(err, new(*discovery.MismatchError)) || b.opened.Load() != 0 {
					t.Errorf("Login: %v, browser opened %d times", err, b.opened.Load())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			next, b := newClient(t, srv, change)
			mustCall(t, connect(t, next))
			if st, err := next.Status(t.Context()); err != nil || !st.SignedIn || st.Issuer != srv.Issuer() || b.opened.Load() != 0 || st.IssuerUnlisted != (test.host == sandbox.IssuerSplit) {
				t.Errorf("Status: %+v, %v", st, err)
			}
		})
	}
}

// A server that names another issuer than the pinned one is not followed, with
// or without the pin in the process that finds out.
func TestAPinnedIssuerThatTheServerDoesNotName(t *testing.T) {
	for _, pinned := range []bool{true, false} {
		t.Run(fmt.Sprint("pinned here too: ", pinned), func(t *testing.T) {
			srv := start(t, sandbox.Options{IssuerHost: sandbox.IssuerSplit})
			store := &tokenstore.Memory{}
			first, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Issuer = store, srv.Issuer() })
			if err := first.Login(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: http.StatusUnauthorized})
			next, b := newClient(t, srv, func(c *mcpclient.Client) {
				c.Store = store
				if pinned {
					c.Issuer = srv.Issuer()
				}
			})
			_, err := next.Connect(t.Context())
			refused := new(mcpclient.TokenRefusedError)
			if !errors.As(err, &refused) || refused.Issuer != srv.Issuer() || refused.Named != srv.APIURL() {
				t.Errorf("Connect: %v", err)
			}
			wantOpened(t, b, 0)
		})
	}
}

// astravue answers as Astravue's documents have it, with documents to choose.
func astravue(t *testing.T, announced, issuer string, asked *[]string) http.RoundTripper {
	documents := map[string]any{
		"https://api.astravue.com/.well-known/oauth-protected-resource": map[string]any{
			"resource": "https://api.astravue.com", "authorization_servers": []string{announced},
		},
	}
	for _, at := range []string{
		"https://api.astravue.com/.well-known/oauth-authorization-server",
		"https://auth.astravue.com/.well-known/oauth-authorization-server/realms/astravue",
	} {
		const realm = "https://auth.astravue.com/realms/astravue"
		documents[at] = map[string]any{
			"issuer": issuer, "code_challenge_methods_supported": []string{"S256"},
			"authorization_endpoint": realm + "/protocol/openid-connect/auth", "token_endpoint": realm + "/protocol/openid-connect/token",
			"registration_endpoint": realm + "/clients-registrations/openid-connect",
		}
	}
	return testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		*asked = append(*asked, r.Method+" "+r.URL.String())
		status, body := http.StatusNotFound, []byte("no")
		if d, ok := documents[r.URL.String()]; ok {
			status = http.StatusOK
			body, _ = json.Marshal(d)
		} else if r.URL.String() == mcpclient.DefaultServer {
			status = http.StatusUnauthorized
		}
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
	})
}

func TestTheDefaultServerAllowsItsTwoIssuersAndNoOther(t *testing.T) {
	const api, realm = "https://api.astravue.com", "https://auth.astravue.com/realms/astravue"
	for _, test := range []struct {
		announced, issuer string
		good              bool
	}{
		{api, api, true},
		{api, realm, true},
		{realm, realm, true},
		{api, "https://auth.astravue.com/realms/other", false},
		{api, realm + "/", false},
		{api, "https://evil.example", false},
	} {
		var asked []string
		c := &mcpclient.Client{Store: &tokenstore.Memory{}, Transport: astravue(t, test.announced, test.issuer, &asked)}
		found, err := c.Discover(t.Context())
		switch {
		case !test.good && !errors.As(err, new(*discovery.MismatchError)):
			t.Errorf("%+v: %v", test, err)
		case test.good && err != nil:
			t.Errorf("%+v: %v", test, err)
		case test.good:
			cfg := found.Configuration
			if !found.SignIn || cfg.Issuer != test.issuer || cfg.Resource != mcpclient.DefaultServer ||
				!slices.Equal(cfg.Scopes, []string{"openid", "profile", "email"}) {
				t.Errorf("%+v: found %+v", test, cfg)
			}
		}
		_ = c.Close()
	}
}

func TestDocumentsOfAPublicServerMayNotPointAtThisComputer(t *testing.T) {
	var hit atomic.Bool
	local := listen(t, func(w http.ResponseWriter, r *http.Request) { hit.Store(true) })
	var asked []string
	for _, announced := range []string{local, "http://localhost:1", "http://auth.example.com", "file:///etc", "https://u:p@auth.example.com"} {
		c := &mcpclient.Client{Store: &tokenstore.Memory{}, Transport: astravue(t, announced, announced, &asked)}
		err := c.Login(t.Context(), nil)
		if !errors.As(err, new(*discovery.URLError)) {
			t.Errorf("%s: %v", announced, err)
		}
		wantStep(t, err, mcpclient.StepDiscovery)
		_ = c.Close()
	}
	for _, a := range asked {
		if !strings.Contains(a, "https://api.astravue.com/") {
			t.Errorf("asked %s", a)
		}
	}
	if hit.Load() {
		t.Error("this computer was asked")
	}
}

func TestResourceIsSentAsTheCallerHasIt(t *testing.T) {
	for _, test := range []struct{ resource, want string }{
		{"", "RESOURCE"},
		{"https://api.astravue.com/mcp", "https://api.astravue.com/mcp"},
		{"urn:astravue:api", "urn:astravue:api"},
		{mcpclient.NoResource, ""},
	} {
		srv := start(t, sandbox.Options{IgnoreResource: true})
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Resource = test.resource })
		session := connect(t, c)
		advance(t, srv, 31*time.Minute)
		mustCall(t, session)
		want := strings.Replace(test.want, "RESOURCE", srv.Resource(), 1)
		for _, r := range srv.Requests() {
			switch r.Step {
			case sandbox.StepAuthorize, sandbox.StepExchange, sandbox.StepRefresh:
				if got := r.Params.Get("resource"); got != want || r.Params.Has("resource") != (want != "") {
					t.Errorf("%q: %s sends resource %q", test.resource, r.Step, got)
				}
			}
		}
	}
}

func TestOfflineAccessIsNotTheServersToAskFor(t *testing.T) {
	srv := start(t, sandbox.Options{ChallengeScopes: []string{"openid", "offline_access"}})
	store := &tokenstore.Memory{}
	login := func(scopes ...string) (scope, prompt string) {
		t.Helper()
		c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Scopes = store, scopes })
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		q := queryOf(t, b.urls[0])
		return q.Get("scope"), q.Get("prompt")
	}
	if scope, prompt := login(); scope != "openid" || prompt != "" {
		t.Errorf("unasked: scope %q, prompt %q", scope, prompt)
	}
	if scope, prompt := login("offline_access"); scope != "openid offline_access" || prompt != "consent" {
		t.Errorf("asked: scope %q, prompt %q", scope, prompt)
	}
	// What grew under another name is kept when a call signs in again.
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
	if err := srv.RevokeUser("olivia"); err != nil {
		t.Fatal(err)
	}
	advance(t, srv, 31*time.Minute)
	mustCall(t, connect(t, c))
	if q := queryOf(t, b.urls[0]); q.Get("scope") != "openid offline_access" {
		t.Errorf("again: scope %q", q.Get("scope"))
	}
	if scope, prompt := login(); scope != "openid" || prompt != "" {
		t.Errorf("no longer: scope %q, prompt %q", scope, prompt)
	}
}

// registrar is a transport that changes what registration answers.
func registrar(change func(map[string]any)) http.RoundTripper {
	return testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusCreated {
			return resp, err
		}
		var m map[string]any
		err = json.NewDecoder(resp.Body).Decode(&m)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		change(m)
		body, _ := json.Marshal(m)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		return resp, nil
	})
}

func TestThePortIsTaken(t *testing.T) {
	keep := func(portless bool) func(map[string]any) {
		return func(m map[string]any) {
			m["redirect_uris"] = slices.DeleteFunc(m["redirect_uris"].([]any), func(u any) bool {
				return (u == callback.DefaultRedirectURI) != portless
			})
		}
	}
	for _, test := range []struct {
		name, redirect string
		change         func(map[string]any)
		clients        int
	}{
		{"both addresses are registered", "", func(map[string]any) {}, 1},
		{"the one without a port is", "", keep(true), 1},
		{"the one with a port is", "", keep(false), 2},
		{"the caller's has no port", "http://localhost/callback", func(map[string]any) {}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			c, b := newClient(t, srv, func(c *mcpclient.Client) {
				c.Transport, c.Registration.RedirectURL = registrar(test.change), test.redirect
			})
			var ports []string
			login := func() {
				t.Helper()
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				u, _ := url.Parse(queryOf(t, b.urls[len(b.urls)-1]).Get("redirect_uri"))
				ports = append(ports, u.Port())
			}
			login()
			login()
			taken, err := net.Listen("tcp", "127.0.0.1:"+ports[0])
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			login()
			if ports[0] != ports[1] || ports[0] == ports[2] {
				t.Errorf("ports %q", ports)
			}
			if n := steps(srv)[sandbox.StepRegister]; n != test.clients {
				t.Errorf("%d registrations", n)
			}
		})
	}
	t.Run("it is the caller's", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		srv := start(t, sandbox.Options{})
		c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Registration.RedirectURL = "http://" + taken.Addr().String() + "/cb" })
		err = c.Login(t.Context(), nil)
		if !errors.As(err, new(*callback.PortError)) || b.opened.Load() != 0 {
			t.Errorf("Login: %v", err)
		}
		wantStep(t, err, mcpclient.StepCallback)
	})
}

func TestASecretThatHasExpiredIsNotUsed(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, func(c *mcpclient.Client) {
		c.Transport = registrar(func(m map[string]any) {
			m["client_secret"], m["client_secret_expires_at"] = "s3cr3t-s3cr3t", time.Now().Add(time.Hour).Unix()
			m["token_endpoint_auth_method"] = "none"
		})
	})
	for _, d := range []time.Duration{0, 30 * time.Minute, time.Hour} {
		advance(t, srv, d)
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 2 || b.opened.Load() != 3 {
		t.Errorf("%d registrations, browser opened %d times", n, b.opened.Load())
	}
}

func TestNoWayToAClientID(t *testing.T) {
	srv := start(t, sandbox.Options{Registration: "none"})
	c, _ := newClient(t, srv, nil)
	err := c.Login(t.Context(), nil)
	if !errors.Is(err, mcpclient.ErrNoRegistration) {
		t.Errorf("Login: %v", err)
	}
	wantStep(t, err, mcpclient.StepRegistration)
	id, secret := srv.App()
	for _, method := range []string{"", "client_secret_post", "client_secret_basic"} {
		c, _ = newClient(t, srv, func(c *mcpclient.Client) {
			c.Registration = mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret), AuthMethod: method}
		})
		session := connect(t, c)
		advance(t, srv, 31*time.Minute)
		mustCall(t, session)
	}
}

func TestInvalidClientAtTheExchangeForgetsTheRegistration(t *testing.T) {
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepExchange, sandbox.Fault{Times: 1, Status: 401, Body: `{"error":"invalid_client"}`})
	c, _ := newClient(t, srv, nil)
	err := c.Login(t.Context(), nil)
	if te := new(authcode.TokenError); !errors.As(err, &te) || te.Code != "invalid_client" {
		t.Errorf("Login: %v", err)
	}
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 2 {
		t.Errorf("%d registrations", n)
	}
}

// A failingStore is a Memory whose grants cannot be written.
type failingStore struct {
	tokenstore.Memory
	write, remove error
}

type failingEntries struct {
	tokenstore.Entries
	s *failingStore
}

func (e failingEntries) Read(context.Context, tokenstore.Entry) ([]byte, error) {
	return nil, tokenstore.ErrNotFound
}

func (e failingEntries) Write(context.Context, tokenstore.Entry, []byte) error { return e.s.write }

func (e failingEntries) Remove(context.Context, tokenstore.Entry) error { return e.s.remove }

func (s *failingStore) Update(ctx context.Context, key tokenstore.Key, f func(context.Context, *tokenstore.Locked) error) error {
	if key.IsSignIn() || !strings.HasPrefix(string(key), `"grant"`) {
		return s.Memory.Update(ctx, key, f)
	}
	return f(ctx, tokenstore.NewLocked(failingEntries{s: s}))
}

func TestTokensThatCannotBeSaved(t *testing.T) {
	t.Parallel() // it takes as long as a save is tried
	srv := start(t, sandbox.Options{})
	full := fmt.Errorf("%w: disk full", tokenstore.ErrUnavailable)
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = &failingStore{write: full} })
	err := c.Login(t.Context(), nil)
	if !errors.Is(err, mcpclient.ErrNotSaved) || !errors.Is(err, full) {
		t.Errorf("Login: %v", err)
	}
	wantStep(t, err, mcpclient.StepExchange)
	if b.lastStatus() != http.StatusInternalServerError {
		t.Errorf("the page says %d", b.lastStatus())
	}
	c, _ = newClient(t, srv, func(c *mcpclient.Client) { c.Store = &failingStore{remove: full} })
	if err := c.Login(t.Context(), nil); err != nil {
		t.Errorf("only an old mark could not be removed: %v", err)
	}
}

func TestLogoutForgetsAlsoIfItsContextEnds(t *testing.T) {
	t.Parallel() // it waits for a slow server
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepRevoke, sandbox.Fault{Delay: 5 * time.Second, Status: 200})
	c, _ := newClient(t, srv, nil)
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	res, err := c.Logout(ctx)
	if err != nil || res.Revocation != mcpclient.RevocationFailed || !errors.Is(res.Err, context.DeadlineExceeded) {
		t.Errorf("Logout: %+v, %v", res, err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.SignedIn {
		t.Errorf("Status: %+v, %v", st, err)
	}
}

func TestADamagedGrant(t *testing.T) {
	srv := start(t, sandbox.Options{})
	for name, mend := range map[string]func(*mcpclient.Client) error{
		"Login":  func(c *mcpclient.Client) error { return c.Login(t.Context(), nil) },
		"Logout": func(c *mcpclient.Client) error { _, err := c.Logout(t.Context()); return err },
	} {
		t.Run(name, func(t *testing.T) {
			store := &tokenstore.Memory{}
			c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			seed(t, store, tokenstore.GrantKey(srv.URL(), ""), &tokenstore.Grant{})
			damage(t, store, tokenstore.GrantKey(srv.URL(), ""))
			if _, err := c.Connect(t.Context()); !errors.Is(err, tokenstore.ErrCorrupt) {
				t.Errorf("Connect: %v", err)
			}
			if b.opened.Load() != 0 {
				t.Error("the browser is opened")
			}
			if err := mend(c); err != nil {
				t.Fatal(err)
			}
			mustCall(t, connect(t, c))
		})
	}
}

// damage has the record under key be of another kind.
func damage(t *testing.T, store tokenstore.Store, key tokenstore.Key) {
	t.Helper()
	err := store.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A denial is a minute's, not as long as a clock that was set back makes it.
func TestADenialUnderAClockThatIsSetBack(t *testing.T) {
	srv := start(t, sandbox.Options{})
	undo := srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied"}})
	c, b := newClient(t, srv, nil)
	get := func() int {
		resp, err := c.HTTPClient().Get(srv.APIURL() + "/api/v1/projects")
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for range 2 {
		if get() == http.StatusOK {
			t.Error("a denied sign-in succeeded")
		}
	}
	wantOpened(t, b, 1)
	undo()
	jump(t, -time.Hour)
	if status := get(); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	wantOpened(t, b, 2)
}
