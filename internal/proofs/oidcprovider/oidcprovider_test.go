// Package oidcprovider runs a client against the certified oidc-provider: an
// ordinary session with a person's browser, and the settings that break other
// clients, such as short lives, rotation under a bad network, registration and
// resource indicators as servers really do them. The outcome of each setting is
// kept in results.md, written with
//
//	go test ./internal/proofs/oidcprovider -update
//
// In that table no client opens a browser once it is signed in: a fault that only
// another sign-in mends is an error there.
package oidcprovider

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

var update = flag.Bool("update", false, "write results.md")

// A row is one setting. run returns what the user sees.
type row struct {
	name    string
	group   int // groups run beside each other, the rows of one do not
	setting string
	oidc    testenv.OIDCConfig
	run     func(*testing.T, *env) string
}

var rows = []row{
	{"Tokens3s", 0, "access tokens live 3 s", testenv.OIDCConfig{AccessTTL: 3 * time.Second}, lives(3*time.Second, 10*time.Second)},
	{"Tokens15s", 1, "access tokens live 15 s", testenv.OIDCConfig{AccessTTL: 15 * time.Second}, lives(15*time.Second, 35*time.Second)},
	{"Tokens90s", 2, "access tokens live 90 s", testenv.OIDCConfig{AccessTTL: 90 * time.Second}, lives(90*time.Second, 92*time.Second)},

	{"ResourceUnknown", 0, "`resource` is not one that the server knows", testenv.OIDCConfig{}, resourceUnknown},
	{"ResourceUnknownAtRefresh", 0, "`resource` is known no more at a refresh", testenv.OIDCConfig{AccessTTL: shortLife}, resourceUnknownAtRefresh},
	{"ResourceLostAtRefresh", 0, "`resource` is lost on the way of a refresh", testenv.OIDCConfig{AccessTTL: shortLife}, resourceLost},

	{"OfflineOnlyNotAsked", 0, "refresh tokens for `offline_access` only, which is not asked for", testenv.OIDCConfig{AccessTTL: shortLife, OfflineOnly: true}, offlineNotAsked},
	{"OfflineOnlyAsked", 0, "refresh tokens for `offline_access` only, which is asked for", testenv.OIDCConfig{AccessTTL: shortLife, OfflineOnly: true}, offlineAsked},
	{"OfflineOnlyWithoutPrompt", 0, "refresh tokens for `offline_access` only, and `prompt=consent` is lost on the way", testenv.OIDCConfig{AccessTTL: shortLife, OfflineOnly: true}, offlineWithoutPrompt},

	{"RegistrationNoneAndSecret", 0, "a registration is answered with method `none` and a secret", testenv.OIDCConfig{AccessTTL: shortLife}, noneAndSecret},
	{"RegistrationOff", 0, "registration is off", testenv.OIDCConfig{NoRegistration: true}, registrationOff},
	{"RegistrationOffClientGiven", 0, "registration is off, the client is one made by hand", testenv.OIDCConfig{
		NoRegistration: true,
		Clients: []map[string]any{{
			"client_id": "by-hand", "client_secret": "by-hand-secret", "token_endpoint_auth_method": "client_secret_post",
			"application_type": "native", "redirect_uris": []string{"http://127.0.0.1/callback"},
			"grant_types": []string{"authorization_code", "refresh_token"},
		}},
	}, clientGiven},

	{"RefreshDelayed", 3, "a refresh is answered after 5 s, access tokens live 15 s", testenv.OIDCConfig{AccessTTL: 15 * time.Second}, refreshDelayed},
	{"RefreshDelayedBeyondLife", 3, "a refresh is answered after 5 s, access tokens live 3 s", testenv.OIDCConfig{AccessTTL: 3 * time.Second}, deadOnArrival},
	{"RefreshFails", 3, "a refresh is answered 503", testenv.OIDCConfig{AccessTTL: shortLife}, refreshFails},
	{"RefreshCutOff", 0, "a refresh is carried out and its answer cut off", testenv.OIDCConfig{AccessTTL: 12 * time.Second}, refreshCutOff},

	{"RevocationOfJWT", 0, "revocation of a JWT access token is answered 400", testenv.OIDCConfig{}, revocation},
}

const (
	// shortLife is that of tokens which a test waits for the end of.
	shortLife = 5 * time.Second
	// patience bounds every wait for something that must come.
	patience = time.Minute
)

func TestMatrix(t *testing.T) {
	var (
		mu   sync.Mutex
		seen = map[string]string{}
		all  sync.WaitGroup
	)
	groups := map[int][]row{}
	for _, r := range rows {
		groups[r.group] = append(groups[r.group], r)
	}
	for _, group := range groups {
		all.Go(func() {
			for _, r := range group {
				t.Run(r.name, func(t *testing.T) {
					e := newEnv(t, r.oidc)
					sees := r.run(t, e)
					mu.Lock()
					defer mu.Unlock()
					seen[r.name] = fmt.Sprintf("| %s | %s | %s |\n", r.setting, e.proxy.happened(), sees)
				})
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	table := "Against `oidc-provider`, by a client that signs in and then may not open a browser:\n\n" +
		"| setting | what happens at the server | what the user sees |\n|---|---|---|\n"
	for _, r := range rows {
		if seen[r.name] == "" {
			testenv.Need(t, "a run of every row", false, "-run chose some, so there is no table")
		}
		table += seen[r.name]
	}
	testenv.Keep(t, "results.md", table, *update)
}

// lives makes calls for a while, from two clients with one grant, as if they
// were two processes. Every call succeeds, and no token is renewed more than
// once in its life.
func lives(ttl, while time.Duration) func(*testing.T, *env) string {
	return func(t *testing.T, e *env) string {
		one := e.client(t)
		two := &mcpclient.Client{Name: one.Name, Server: one.Server, Store: one.Store, NonInteractive: true}
		t.Cleanup(func() { _ = two.Close() })
		start := time.Now()
		sessions := []*mcp.ClientSession{e.session(t, one), connect(t, two)}
		var callers sync.WaitGroup
		end := time.Now().Add(while)
		for n := range 4 {
			callers.Go(func() {
				if err := calls(t, sessions[n%2], ttl/30, func() bool { return time.Now().After(end) }); err != nil {
					t.Errorf("a call: %v", err)
				}
			})
		}
		callers.Wait()
		life := time.Since(start)
		sent, tokens := e.proxy.refreshes()
		if sent != tokens {
			t.Errorf("%d refreshes with %d refresh tokens", sent, tokens)
		}
		// A token is renewed in its last quarter: earlier, and there would be more.
		if least, most := int(while/ttl), int(life/(ttl*3/4))+1; sent < least || sent > most {
			t.Errorf("%d refreshes in %s, want %d to %d", sent, life, least, most)
		}
		for _, form := range e.proxy.forms() {
			if form.Get("resource") != e.rs.URL {
				t.Errorf("a token request without the resource: %v", form["grant_type"])
			}
		}
		return says(t, nil)
	}
}

func noneAndSecret(t *testing.T, e *env) string {
	e.proxy.set(fault{kind: "register", answer: func(_ *http.Response, client map[string]any) {
		if client["token_endpoint_auth_method"] != "none" {
			t.Errorf("the provider chose %v", client["token_endpoint_auth_method"])
		}
		client["client_secret"], client["client_secret_expires_at"] = "nobody-asked-for-it", 0
	}})
	session := e.session(t, e.client(t))
	err := calls(t, session, pause, e.refreshed(1))
	for _, form := range e.proxy.forms() {
		if form.Has("client_secret") {
			t.Error("the secret was sent, against the method")
		}
	}
	return says(t, err)
}

func registrationOff(t *testing.T, e *env) string {
	err := e.client(t).Login(t.Context(), nil)
	if !errors.Is(err, mcpclient.ErrNoRegistration) {
		t.Errorf("Login: %v", err)
	}
	return says(t, err)
}

func clientGiven(t *testing.T, e *env) string {
	c := e.client(t)
	c.Registration = mcpclient.Registration{ClientID: "by-hand", ClientSecret: tokenstore.NewSecret("by-hand-secret")}
	return says(t, call(t, e.session(t, c)))
}

func resourceUnknown(t *testing.T, e *env) string {
	c := e.client(t)
	c.Resource = e.rs.URL + "/elsewhere"
	err := c.Login(t.Context(), nil)
	if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || ae.Code != "invalid_target" {
		t.Errorf("Login: %v", err)
	}
	return says(t, err)
}

func resourceUnknownAtRefresh(t *testing.T, e *env) string {
	session := e.session(t, e.client(t))
	e.proxy.set(fault{kind: "refresh", ask: func(form url.Values) { form.Set("resource", e.rs.URL+"/elsewhere") }})
	start := time.Now()
	err := calls(t, session, pause, never)
	if !errors.Is(err, mcpclient.ErrLoginRequired) || errors.Is(err, refresh.ErrAnswerLost) {
		t.Errorf("a call: %v", err)
	}
	if lasted := time.Since(start); lasted < shortLife/2 {
		t.Errorf("the token was used for %s only", lasted)
	}
	e.once(t)
	return "once the token has ended, " + says(t, err)
}

func resourceLost(t *testing.T, e *env) string {
	c := e.client(t)
	c.Scopes = []string{"openid", "mcp"} // with openid the provider has another use for a token
	session := e.session(t, c)
	e.proxy.set(fault{
		kind: "refresh",
		ask:  func(form url.Values) { form.Del("resource") },
		answer: func(_ *http.Response, answer map[string]any) {
			if token, _ := answer["access_token"].(string); token == "" || strings.Contains(token, ".") {
				t.Error("the new token is not opaque")
			}
		},
	})
	err := calls(t, session, pause, never)
	if te := new(mcpclient.TokenRefusedError); !errors.As(err, &te) || te.Resource != e.rs.URL {
		t.Errorf("a call: %v", err)
	}
	e.once(t)
	return says(t, err)
}

func offlineNotAsked(t *testing.T, e *env) string {
	return withoutRefresh(t, e, e.client(t))
}

func offlineWithoutPrompt(t *testing.T, e *env) string {
	c := e.client(t)
	c.Scopes = []string{"offline_access"}
	c.OpenBrowser = nil
	c.ShowURL = func(ctx context.Context, address string) error {
		u, err := url.Parse(address)
		if err != nil {
			return err
		}
		q := u.Query()
		if q.Get("prompt") != "consent" {
			t.Errorf("prompt=%q", q.Get("prompt"))
		}
		q.Del("prompt")
		u.RawQuery = q.Encode()
		return browse(ctx, u.String())
	}
	return withoutRefresh(t, e, c)
}

func withoutRefresh(t *testing.T, e *env, c *mcpclient.Client) string {
	session := e.session(t, c)
	if st := status(t, c); !st.SignedIn || st.Refreshable {
		t.Errorf("Status: %+v", st)
	}
	err := calls(t, session, pause, never)
	if !errors.Is(err, mcpclient.ErrLoginRequired) || errors.Is(err, refresh.ErrAnswerLost) {
		t.Errorf("a call: %v", err)
	}
	return "once the token has ended, " + says(t, err)
}

func offlineAsked(t *testing.T, e *env) string {
	c := e.client(t)
	c.Scopes = []string{"offline_access"}
	session := e.session(t, c)
	if st := status(t, c); !st.Refreshable {
		t.Errorf("Status: %+v", st)
	}
	return says(t, calls(t, session, pause, e.refreshed(1)))
}

func refreshDelayed(t *testing.T, e *env) string {
	session := e.session(t, e.client(t))
	e.proxy.set(fault{kind: "refresh", delay: 5 * time.Second})
	end := time.Now().Add(18 * time.Second) // when the second token is in use
	err := calls(t, session, pause, func() bool { return time.Now().After(end) && e.refreshed(1)() })
	e.once(t)
	return says(t, err)
}

func deadOnArrival(t *testing.T, e *env) string {
	session := e.session(t, e.client(t))
	e.proxy.set(fault{kind: "refresh", delay: 5 * time.Second})
	err := calls(t, session, pause, never)
	if re := new(refresh.RetryError); !errors.As(err, &re) || !errors.Is(err, refresh.ErrDeadOnArrival) {
		t.Errorf("a call: %v", err)
	}
	e.proxy.set(fault{})
	e.recovers(t, session)
	e.once(t)
	return says(t, err) + ", and calls go on when answers are fast again"
}

func refreshFails(t *testing.T, e *env) string {
	session := e.session(t, e.client(t))
	e.proxy.set(fault{kind: "refresh", refuse: http.StatusServiceUnavailable})
	start := time.Now()
	err := calls(t, session, pause, never)
	if re := new(refresh.RetryError); !errors.As(err, &re) || errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Errorf("a call: %v", err)
	}
	if lasted := time.Since(start); lasted < shortLife/2 {
		t.Errorf("the token was used for %s only", lasted)
	}
	if sent, tokens := e.proxy.refreshes(); sent > 2 || tokens != 1 {
		t.Errorf("%d refreshes with %d tokens, want one while the token lived and one after", sent, tokens)
	}
	e.proxy.set(fault{})
	e.recovers(t, session)
	return "once the token has ended, " + says(t, err) + ", and calls go on when it works again"
}

func refreshCutOff(t *testing.T, e *env) string {
	c := e.client(t)
	session := e.session(t, c)
	e.proxy.set(fault{kind: "refresh", cut: true})
	if err := calls(t, session, pause, e.refreshed(1)); err != nil {
		t.Errorf("a call while the token lives: %v", err)
	}
	e.proxy.set(fault{})
	expires := status(t, c).AccessExpiresAt
	err := calls(t, session, pause, never)
	for end := time.Now().Add(patience); errors.As(err, new(*refresh.RetryError)) && time.Now().Before(end); time.Sleep(pause) {
		err = call(t, session) // the failure was a moment ago, on a slow machine
	}
	if !errors.Is(err, refresh.ErrAnswerLost) || !errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Errorf("a call: %v", err)
	}
	if time.Now().Before(expires.Add(-time.Second)) {
		t.Error("the second refresh ended a grant whose access token was alive")
	}
	if sent, tokens := e.proxy.refreshes(); sent != 2 || tokens != 1 {
		t.Errorf("%d refreshes with %d tokens, want one token sent twice", sent, tokens)
	}
	if err := c.Login(t.Context(), nil); err != nil {
		t.Errorf("Login: %v", err)
	}
	if err := call(t, session); err != nil {
		t.Errorf("a call after the sign-in: %v", err)
	}
	return "once the token has ended, " + says(t, err) + ", and the session goes on after the sign-in"
}

func revocation(t *testing.T, e *env) string {
	c := e.client(t)
	if err := call(t, e.session(t, c)); err != nil {
		t.Errorf("a call: %v", err)
	}
	res, err := c.Logout(t.Context())
	if err != nil || res.Revocation != mcpclient.Revoked || res.Err != nil {
		t.Fatalf("Logout: %+v, %v", res, err)
	}
	if res.AccessUntil.IsZero() {
		t.Error("Logout does not say how long the access token lives")
	}
	if happened := e.proxy.happened(); !strings.Contains(happened, "revoke access_token 400 unsupported_token_type") {
		t.Errorf("at the server: %s", happened)
	}
	return "`LogoutResult`: " + string(res.Revocation) + ", and how long the access token lives on"
}

// says names err as a user of the library tells it from others.
func says(t *testing.T, err error) string {
	t.Helper()
	var (
		se  *mcpclient.StepError
		ae  *authcode.AuthorizationError
		re  *refresh.RetryError
		tre *mcpclient.TokenRefusedError
	)
	if err == nil {
		return "nothing: calls go on"
	}
	what := ""
	switch {
	case errors.Is(err, refresh.ErrAnswerLost):
		what = "`refresh.ErrAnswerLost`, an `ErrLoginRequired`"
	case errors.Is(err, mcpclient.ErrLoginRequired):
		what = "`mcpclient.ErrLoginRequired`"
	case errors.Is(err, mcpclient.ErrNoRegistration):
		what = "`mcpclient.ErrNoRegistration`"
	case errors.As(err, &ae):
		what = "`*authcode.AuthorizationError` (" + ae.Code + ")"
	case errors.As(err, &tre):
		what = "`*mcpclient.TokenRefusedError`"
	case errors.Is(err, refresh.ErrDeadOnArrival) && errors.As(err, &re):
		what = "`*refresh.RetryError` (`refresh.ErrDeadOnArrival`)"
	case errors.As(err, &re):
		what = "`*refresh.RetryError`"
	}
	if what == "" || !errors.As(err, &se) {
		t.Errorf("an error that has no name, or no step: %v", err)
		return ""
	}
	return fmt.Sprintf("step %d (%s): %s", se.Step, se.Step, what)
}

// An env is an MCP server, a provider, and a proxy in front of that.
type env struct {
	rs    *testenv.ResourceServer
	proxy *proxy
}

func newEnv(t *testing.T, cfg testenv.OIDCConfig) *env {
	e := &env{rs: testenv.JWKSServer(t), proxy: newProxy(t)}
	cfg.Resource, cfg.Issuer = e.rs.URL, e.proxy.URL
	provider := testenv.OIDCProvider(t, cfg)
	e.proxy.front(t, provider.Origin)
	e.rs.Trust(t, provider.Issuer, "mcp")
	return e
}

// client returns one that opens a browser at Login only.
func (e *env) client(t *testing.T) *mcpclient.Client {
	c := &mcpclient.Client{
		Name: "Acme Notes", Server: e.rs.URL, Store: &tokenstore.Memory{},
		NonInteractive: true, OpenBrowser: browse, SignInTimeout: patience,
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// session signs c in.
func (e *env) session(t *testing.T, c *mcpclient.Client) *mcp.ClientSession {
	t.Helper()
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatalf("Login: %v", err)
	}
	return connect(t, c)
}

// refreshed reports whether n refreshes have an answer.
func (e *env) refreshed(n int) func() bool {
	return func() bool { return e.proxy.refreshed() >= n }
}

// once checks that no refresh token was sent twice.
func (e *env) once(t *testing.T) {
	t.Helper()
	if sent, tokens := e.proxy.refreshes(); sent == 0 || sent != tokens {
		t.Errorf("%d refreshes with %d refresh tokens", sent, tokens)
	}
}

// recovers makes calls until one succeeds.
func (e *env) recovers(t *testing.T, session *mcp.ClientSession) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pause) {
		if err = call(t, session); err == nil {
			return
		}
	}
	t.Errorf("calls still fail: %v", err)
}

func connect(t *testing.T, c *mcpclient.Client) *mcp.ClientSession {
	t.Helper()
	session, err := c.Connect(t.Context())
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

func status(t *testing.T, c *mcpclient.Client) *mcpclient.Status {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// pause is between two calls.
const pause = 100 * time.Millisecond

func never() bool { return false }

// calls makes one call after the other until done or one fails, and returns
// why that did.
func calls(t *testing.T, session *mcp.ClientSession, pause time.Duration, done func() bool) error {
	t.Helper()
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(pause) {
		finished := done() // and then one more
		if err := call(t, session); err != nil || finished {
			return err
		}
	}
	t.Error("calls go on and on")
	return nil
}

func call(t *testing.T, session *mcp.ClientSession) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "whoami"})
	if err == nil && res.Content[0].(*mcp.TextContent).Text != "olivia" {
		t.Errorf("whoami: %+v", res.Content)
	}
	return err
}

var (
	formAction = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	formPrompt = regexp.MustCompile(`name="prompt" value="(\w+)"`)
)

// browse is an OpenBrowser without a screen: it fills in the provider's forms.
func browse(ctx context.Context, address string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	client := &http.Client{Jar: jar, Timeout: patience}
	method, form := http.MethodGet, url.Values{}
	for {
		req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		page, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		prompt := formPrompt.FindSubmatch(page)
		action := formAction.FindSubmatch(page)
		if prompt == nil || action == nil {
			return nil // the callback's page, or one that says what is wrong
		}
		method, address = http.MethodPost, html.UnescapeString(string(action[1]))
		form = url.Values{"prompt": {string(prompt[1])}, "login": {"olivia"}, "password": {"any"}}
	}
}
