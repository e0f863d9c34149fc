package mcpclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestRequestsOfEachStart(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	shared := func(c *mcpclient.Client) { c.Store = store }
	quiet := func(c *mcpclient.Client) { c.Store, c.NonInteractive = store, true }
	cold := map[sandbox.Step]int{
		sandbox.StepChallenge: 1, sandbox.StepResourceMetadata: 1, sandbox.StepServerMetadata: 1,
		sandbox.StepRegister: 1, sandbox.StepAuthorize: 1, sandbox.StepExchange: 1, sandbox.StepMCP: 2,
	}
	warm := map[sandbox.Step]int{sandbox.StepMCP: 2}
	var running *mcpclient.Client
	for _, test := range []struct {
		name   string
		before time.Duration
		change func(*mcpclient.Client)
		keep   bool // use the last client again
		want   map[sandbox.Step]int
	}{
		{"cold", 0, shared, false, cold},
		{"warm", 0, quiet, false, warm},
		{"expired", 31 * time.Minute, quiet, false, map[sandbox.Step]int{sandbox.StepRefresh: 1, sandbox.StepMCP: 2}},
		{"after another process's refresh", 0, quiet, false, warm},
		{"in the same process", 0, nil, true, warm},
		{"expired in the same process", 31 * time.Minute, nil, true, map[sandbox.Step]int{sandbox.StepRefresh: 1, sandbox.StepMCP: 2}},
		// Its GET is for the client of an earlier day, which may be gone; the
		// prompt is that of an account with a name.
		{"another account", 0, func(c *mcpclient.Client) { c.Store, c.Account = store, "work" }, false, map[sandbox.Step]int{
			sandbox.StepChallenge: 1, sandbox.StepResourceMetadata: 1, sandbox.StepServerMetadata: 1,
			sandbox.StepAuthorize: 2, sandbox.StepExchange: 1, sandbox.StepMCP: 2,
		}},
		{"nobody to ask", 0, func(c *mcpclient.Client) { c.NonInteractive = true }, false, map[sandbox.Step]int{
			sandbox.StepChallenge: 2, // server/discover, and the SDK's second try, initialize
		}},
	} {
		if test.before > 0 {
			advance(t, srv, test.before)
		}
		if !test.keep {
			running, _ = newClient(t, srv, test.change)
		}
		srv.ClearRequests()
		session, err := running.Connect(t.Context())
		if err == nil {
			err = callTool(t.Context(), session)
			_ = session.Close()
		}
		if err != nil && !errors.Is(err, mcpclient.ErrLoginRequired) {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, steps(srv)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestCallsThatAreRefusedAtOnceShareAStepUp(t *testing.T) {
	srv := start(t, sandbox.Options{ToolScopes: map[string]string{"list_spaces": "spaces:read"}})
	c, b := newClient(t, srv, nil)
	session := connect(t, c)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := callTool(t.Context(), session); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	}
	wg.Wait()
	if n := b.opened.Load(); n != 2 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestStepUpWithNobodyToAsk(t *testing.T) {
	srv := start(t, sandbox.Options{ToolScopes: map[string]string{"list_spaces": "spaces:read"}})
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	session := connect(t, c)
	err := callTool(t.Context(), session)
	if !errors.Is(err, mcpclient.ErrLoginRequired) || !errors.As(err, new(*mcpclient.ForbiddenError)) {
		t.Errorf("call: %v", err)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
	if _, err := session.ListTools(t.Context(), nil); err != nil {
		t.Errorf("the session is of no use: %v", err)
	}
}

// A countedBody tells whether all of its copies are closed.
type countedBody struct {
	io.Reader
	open *atomic.Int32
}

func (b countedBody) Close() error { b.open.Add(-1); return nil }

func TestBodiesAreClosed(t *testing.T) {
	for _, test := range []struct {
		name   string
		repeat bool
		change func(*mcpclient.Client)
		fault  sandbox.Fault
		status int // 0: an error
	}{
		{"refused, nobody to ask", true, func(c *mcpclient.Client) { c.NonInteractive = true }, sandbox.Fault{}, 401},
		{"refused, signed in", true, nil, sandbox.Fault{}, 405}, // the API only reads
		{"refused, cannot be repeated", false, nil, sandbox.Fault{}, 401},
		{"forbidden", true, nil, sandbox.Fault{Status: 403, Body: "no"}, 403},
		{"refused for good", true, nil, sandbox.Fault{Status: 401, Body: "no"}, 401},
		{"closed", true, func(c *mcpclient.Client) { _ = c.Close() }, sandbox.Fault{}, 0},
		{"store damaged", true, func(c *mcpclient.Client) { c.Store = brokenStore{tokenstore.ErrCorrupt} }, sandbox.Fault{}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			if test.fault.Status != 0 {
				srv.Fail(sandbox.StepAPI, test.fault)
			}
			c, _ := newClient(t, srv, test.change)
			var open atomic.Int32
			body := func() (io.ReadCloser, error) {
				open.Add(1)
				return countedBody{strings.NewReader(`{"name":"Launch"}`), &open}, nil
			}
			first, _ := body()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.APIURL()+"/api/v1/projects", first)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if test.repeat {
				req.GetBody = body
			}
			resp, err := c.HTTPClient().Do(req)
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != test.status {
					t.Errorf("status %d, want %d", resp.StatusCode, test.status)
				}
			} else if test.status != 0 {
				t.Error(err)
			}
			if n := open.Load(); n != 0 {
				t.Errorf("%d bodies are left open", n)
			}
		})
	}
}

// A brokenStore cannot be used at all.
type brokenStore struct{ err error }

func (s brokenStore) Get(context.Context, tokenstore.Key) (tokenstore.Record, error) {
	return tokenstore.Record{}, s.err
}

func (s brokenStore) Update(context.Context, tokenstore.Key, func(context.Context, *tokenstore.Locked) error) error {
	return s.err
}

func (s brokenStore) Delete(context.Context, tokenstore.Key) error { return s.err }

func TestTheServersOriginHasManySpellings(t *testing.T) {
	store := &tokenstore.Memory{}
	seed(t, store, tokenstore.GrantKey("https://api.example.com/mcp", ""), &tokenstore.Grant{
		Server: "https://api.example.com/mcp", Issuer: "https://auth.example.com", TokenEndpoint: "https://auth.example.com/token",
		ClientID: "c", AuthMethod: "none", Resource: "https://api.example.com/mcp", AccessToken: tokenstore.NewSecret("at"),
	})
	var bearer string
	c := &mcpclient.Client{Server: "HTTPS://API.example.com:443/mcp", Store: store, Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		bearer = r.Header.Get("Authorization")
		return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})}
	defer c.Close()
	for url, want := range map[string]string{
		"https://api.example.com/v1/tasks":        "Bearer at",
		"https://API.EXAMPLE.com:443/v1/tasks":    "Bearer at",
		"https://api.example.com./v1/tasks":       "Bearer at",
		"https://api.example.com:8443/v1/tasks":   "",
		"https://api.example.com.evil.test/tasks": "",
		"https://sub.api.example.com/tasks":       "",
		"http://api.example.com/v1/tasks":         "",
		"http://api.example.com:443/v1/tasks":     "",
		"https://user@api.example.com/v1/tasks":   "Bearer at",
	} {
		resp, err := c.HTTPClient().Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if bearer != want {
			t.Errorf("%s gets %q", url, bearer)
		}
	}
}

// TestAnIntranetMayNameItsOwnHosts: a server with an ordinary name, which a look
// at the spelling takes for a public one, and its sign-in at a private address.
func TestAnIntranetMayNameItsOwnHosts(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/oauth-protected-resource/mcp":
			fmt.Fprint(w, `{"resource":"https://mcp.corp.example/mcp","authorization_servers":["https://10.0.0.2/realms/x"]}`)
		case "/.well-known/oauth-authorization-server/realms/x":
			fmt.Fprint(w, `{"issuer":"https://10.0.0.2/realms/x","authorization_endpoint":"https://10.0.0.2/auth","token_endpoint":"https://10.0.0.2/token","code_challenge_methods_supported":["S256"]}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	for at, ok := range map[string]bool{"10.0.0.1": true, "203.0.113.1": false} {
		c := &mcpclient.Client{
			Server: "https://mcp.corp.example/mcp", Store: &tokenstore.Memory{},
			Registration: mcpclient.Registration{ClientID: "app", RedirectURL: "https://app.example/cb"},
			Transport: &oauthhttp.Transport{
				Server: "https://mcp.corp.example/mcp", TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"},
				Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
					if host == "mcp.corp.example" {
						host = at
					}
					return []netip.Addr{netip.MustParseAddr(host)}, nil
				},
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
				},
			},
		}
		address, _, err := c.BeginLogin(t.Context())
		if (err == nil) != ok || ok != strings.HasPrefix(address, "https://10.0.0.2/auth?") || !ok && !errors.As(err, new(*discovery.URLError)) {
			t.Errorf("at %s: %q, %v", at, address, err)
		}
		_ = c.Close()
	}
}

// TestRedirectsCarryTheTokenNoFurther also has the transport under a client
// that follows everything.
func TestRedirectsCarryTheTokenNoFurther(t *testing.T) {
	var target, bearer string
	other := listen(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	})
	server := listen(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/start") {
			http.Redirect(w, r, target, http.StatusTemporaryRedirect)
			return
		}
		bearer = r.Header.Get("Authorization")
	})
	store := &tokenstore.Memory{}
	seed(t, store, tokenstore.GrantKey(server+"/mcp", ""), &tokenstore.Grant{
		Server: server + "/mcp", Issuer: server, TokenEndpoint: server + "/token",
		ClientID: "c", AuthMethod: "none", Resource: server + "/mcp", AccessToken: tokenstore.NewSecret("at"),
	})
	c := &mcpclient.Client{Server: server + "/mcp", Store: store, NonInteractive: true}
	defer c.Close()
	for _, test := range []struct {
		asked, target string
		carried       bool
	}{
		{server + "/mcp/start", server + "/mcp", true},
		{server + "/mcp/start", server + "/mcp/", true},
		{server + "/mcp/start", "x?y=z", true},
		{server + "/mcp/start", "/tenant", false},
		{server + "/mcp/start", "/mcp2", false},
		{server + "/mcp/start", "/mcp/../tenant", false},
		{server + "/mcp/start", "/mcp/%2e%2e/tenant", false},
		{server + "/mcp/start", "//evil.invalid/mcp", false},
		{server + "/v1/start", "/v1/start/", true},
		{server + "/v1/start", "/mcp/x", true},
		{server + "/v1/start", "/v1/other", false},
		{server + "/v1/start", "/v2", false},
		{other + "/mcp", server + "/mcp", false},
		{other + "/mcp", server + "/tenant", false},
	} {
		target = test.target
		for name, hc := range map[string]*http.Client{"its own": c.HTTPClient(), "another": {Transport: c.HTTPClient().Transport}} {
			bearer = ""
			resp, err := hc.Get(test.asked)
			if err == nil {
				_ = resp.Body.Close()
			} else if name == "its own" {
				t.Errorf("%s to %s: %v", test.asked, test.target, err)
			}
			if got := bearer != ""; got != test.carried {
				t.Errorf("%s client, %s to %s: the token is carried: %v", name, test.asked, test.target, got)
			}
		}
	}
}

func TestAStalledAnswerHoldsNobodyUp(t *testing.T) {
	done := make(chan struct{})
	url := listen(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-done:
		case <-r.Context().Done():
		}
	})
	defer close(done)
	c := &mcpclient.Client{Server: url, Store: &tokenstore.Memory{}, NonInteractive: true}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Connect(ctx); !errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Errorf("Connect: %v", err)
	}
}

func TestNotificationsStreamsAndEndsNeverSignIn(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, nil)
	hc := c.HTTPClient()
	for name, req := range map[string]struct {
		method, body string
		header       http.Header
	}{
		"notification":     {"POST", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, nil},
		"response":         {"POST", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil},
		"request null":     {"POST", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, nil},
		"stream":           {"GET", "", http.Header{"Accept": {"text/event-stream"}}},
		"end of a session": {"DELETE", "", http.Header{"Mcp-Session-Id": {"1"}}},
	} {
		r, err := http.NewRequestWithContext(t.Context(), req.method, srv.URL(), strings.NewReader(req.body))
		if err != nil {
			t.Fatal(err)
		}
		if req.header != nil {
			r.Header = req.header
		}
		resp, err := hc.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || len(body) == 0 {
			t.Errorf("%s: the refusal is not handed back: %d %q", name, resp.StatusCode, body)
		}
	}
	if n := b.opened.Load(); n != 0 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestADenialLastsAMinute(t *testing.T) {
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied"}})
	c, b := newClient(t, srv, nil)
	get := func(want int32) {
		t.Helper()
		_, err := c.HTTPClient().Get(srv.APIURL() + "/api/v1/projects")
		if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || !ae.Denied() {
			t.Errorf("GET: %v", err)
		}
		if n := b.opened.Load(); n != want {
			t.Errorf("browser opened %d times, want %d", n, want)
		}
	}
	get(1)
	get(1)
	advance(t, srv, 61*time.Second)
	get(2)
	if err := c.Login(t.Context(), nil); err == nil { // a person asks: the denial does not count
		t.Error("Login succeeded")
	}
	if n := b.opened.Load(); n != 3 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestAnOpenersErrorIsLoggedWithoutTheAddress(t *testing.T) {
	srv := start(t, sandbox.Options{})
	var log testenv.Buffer
	secrets := make(chan string, 2)
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		b := newBrowser()
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.ShowURL = func(_ context.Context, url string) error {
			secrets <- queryOf(t, url).Get("state")
			return fmt.Errorf("write: no terminal for %s", url)
		}
		c.OpenBrowser = func(ctx context.Context, page string) error {
			secrets <- path.Base(page)
			go func() {
				for strings.Count(log.String(), "no browser could be opened") < 2 && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				_ = b.open(ctx, page) // a person opens it after all
			}()
			return fmt.Errorf("exec: no browser for %s, which ends in %s", page, path.Base(page))
		}
	})
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s := <-secrets; strings.Contains(log.String(), s) {
			t.Error("the state, or the page that leads to it, is in the log")
		}
	}
}
