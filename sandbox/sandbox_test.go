package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

func TestSignInByPages(t *testing.T) {
	s := start(t, sandbox.Options{})
	p := newPerson(t)
	v := p.open(authorizeURL(s))
	if v.status != 200 || !strings.Contains(v.body, "mia-sandbox") || !strings.Contains(v.body, "Sandbox CLI") {
		t.Fatalf("sign-in page: %d %s", v.status, v.body)
	}
	if v = v.submit("username", "mia", "password", "wrong"); !strings.Contains(v.body, `role="alert"`) {
		t.Fatal("a wrong password is not said to be wrong")
	}
	if v = v.signIn("mia"); !strings.Contains(v.body, "127.0.0.1:3142") || !strings.Contains(v.body, "Mia") {
		t.Fatalf("consent page: %s", v.body)
	}
	cb := v.approve()
	if cb.Get("state") != "st&te=1" || cb.Get("iss") != s.Issuer() || cb.Get("session_state") == "" {
		t.Errorf("callback: %v", cb)
	}
	a := exchange(t, s, cb.Get("code"))
	if a.status != 200 {
		t.Fatalf("exchange: %d %v", a.status, a.m)
	}
	for _, member := range []string{"access_token", "expires_in", "refresh_expires_in", "refresh_token", "token_type", "id_token", "not-before-policy", "session_state", "scope"} {
		if _, ok := a.m[member]; !ok {
			t.Errorf("answer has no %s", member)
		}
	}
	if a.m["expires_in"] != 1800.0 || a.m["refresh_expires_in"] != 86400.0 || a.m["token_type"] != "Bearer" {
		t.Errorf("answer: %v %v %v", a.m["expires_in"], a.m["refresh_expires_in"], a.m["token_type"])
	}
	if got := use(t, s, a.str("access_token")); got != 200 {
		t.Errorf("mcp: %d", got)
	}

	// The browser is signed in and has consented: no page.
	if v := p.open(authorizeURL(s)); v.callback.Get("code") == "" {
		t.Errorf("second sign-in shows a page: %s", v.body)
	}
	if v := p.open(authorizeURL(s, "prompt", "none")); v.callback.Get("code") == "" {
		t.Errorf("prompt=none: %v", v.callback)
	}
	if v := newPerson(t).open(authorizeURL(s, "prompt", "none")); v.callback.Get("error") != "login_required" || v.callback.Get("iss") != s.Issuer() {
		t.Errorf("prompt=none for a stranger: %v", v.callback)
	}
	if v := p.open(authorizeURL(s, "prompt", "none", "scope", "openid offline_access")); v.callback.Get("error") != "interaction_required" {
		t.Errorf("prompt=none for more: %v", v.callback)
	}
	if v := p.open(authorizeURL(s, "prompt", "consent")); !strings.Contains(v.body, `id="approve"`) {
		t.Error("prompt=consent shows no consent page")
	}
	if v := p.open(authorizeURL(s, "prompt", "login")); !strings.Contains(v.body, "Sign in again") {
		t.Error("prompt=login shows no sign-in page")
	}
	v = p.open(authorizeURL(s, "prompt", "select_account"))
	if !strings.Contains(v.body, "Choose an account") || !strings.Contains(v.body, "signed in") {
		t.Error("prompt=select_account shows no accounts")
	}
	if v = v.signIn("noah"); !strings.Contains(v.body, "Noah") {
		t.Error("the other account is not asked")
	}
	if v = v.submit("decision", "switch"); !strings.Contains(v.body, `name="password"`) {
		t.Error("no way to another account")
	}
	if v := newPerson(t).open(authorizeURL(s, "login_hint", "adam@<b>")); !strings.Contains(v.body, `value="adam@&lt;b&gt;"`) {
		t.Error("login_hint does not fill the name, escaped")
	}
}

func TestDenial(t *testing.T) {
	s := start(t, sandbox.Options{})
	v := newPerson(t).open(authorizeURL(s)).signIn("mia").submit("decision", "deny")
	if v.callback.Get("error") != "access_denied" || v.callback.Get("state") != "st&te=1" || v.callback.Get("iss") != s.Issuer() {
		t.Errorf("deny: %v", v.callback)
	}
	v = newPerson(t).open(authorizeURL(s)).submit("action", "cancel")
	if v.callback.Get("error") != "access_denied" {
		t.Errorf("cancel: %v", v.callback)
	}
}

func TestPagesBelongToTheirBrowser(t *testing.T) {
	s := start(t, sandbox.Options{})
	victim, attacker := newPerson(t), newPerson(t)
	v := victim.open(authorizeURL(s)).signIn("mia")
	stolen := *v
	stolen.p = attacker
	if w := stolen.submit("decision", "approve"); w.status != 400 || w.callback != nil {
		t.Errorf("another browser approves: %d", w.status)
	}
	if w := v.submit("decision", "approve", "csrf", "guessed"); w.status != 400 || w.callback != nil {
		t.Errorf("a form without our token approves: %d", w.status)
	}
	v.approve()
	if w := v.submit("decision", "approve"); w.status != 400 {
		t.Errorf("a form is good twice: %d", w.status)
	}
	for _, h := range []string{"Content-Security-Policy", "X-Frame-Options", "Referrer-Policy", "Cache-Control"} {
		if v.header.Get(h) == "" {
			t.Errorf("page has no %s", h)
		}
	}
}

func TestAuthorizationRequest(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	for name, c := range map[string]struct {
		change []string
		page   bool   // ends on an error page
		err    string // of the redirect
	}{
		"good":                         {},
		"no resource":                  {change: []string{"resource", "-"}},
		"unknown client":               {change: []string{"client_id", "nobody"}, page: true},
		"no client":                    {change: []string{"client_id", "-"}, page: true},
		"no redirect":                  {change: []string{"redirect_uri", "-"}, page: true},
		"other path":                   {change: []string{"redirect_uri", "http://127.0.0.1:1/other"}, page: true},
		"other host":                   {change: []string{"redirect_uri", "https://attacker.example/callback"}, page: true},
		"user info":                    {change: []string{"redirect_uri", "http://127.0.0.1:1@attacker.example/callback"}, page: true},
		"query added":                  {change: []string{"redirect_uri", "http://127.0.0.1:1/callback?x=1"}, page: true},
		"any port":                     {change: []string{"redirect_uri", "http://127.0.0.1:54321/callback"}},
		"IPv6":                         {change: []string{"redirect_uri", "http://[::1]:54321/callback"}},
		"no response type":             {change: []string{"response_type", "-"}, err: "invalid_request"},
		"implicit":                     {change: []string{"response_type", "token"}, err: "unsupported_response_type"},
		"no PKCE":                      {change: []string{"code_challenge", "-", "code_challenge_method", "-"}, err: "invalid_request"},
		"plain PKCE":                   {change: []string{"code_challenge_method", "plain"}, err: "invalid_request"},
		"no challenge":                 {change: []string{"code_challenge", "-"}, err: "invalid_request"},
		"challenge is no SHA-256":      {change: []string{"code_challenge", "abc"}, err: "invalid_request"},
		"unknown scope":                {change: []string{"scope", "openid everything"}, err: "invalid_scope"},
		"unknown resource":             {change: []string{"resource", "https://other.example/mcp"}, err: "invalid_target"},
		"resource with another ending": {change: []string{"resource", s.URL() + "/"}, err: "invalid_target"},
		"fragment mode":                {change: []string{"response_mode", "fragment"}, err: "invalid_request"},
		"prompt none and login":        {change: []string{"prompt", "none login"}, err: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newPerson(t).open(authorizeURL(s, c.change...))
			if c.page {
				if v.status != 400 || v.callback != nil || !strings.HasPrefix(v.header.Get("Content-Type"), "text/html") {
					t.Errorf("want an error page: %d %v", v.status, v.callback)
				}
				return
			}
			if v.callback.Get("error") != c.err || (c.err == "") != v.callback.Has("code") || v.callback.Get("state") != "st&te=1" || v.callback.Get("iss") != s.Issuer() {
				t.Errorf("callback %v, want error %q", v.callback, c.err)
			}
		})
	}
	if v := newPerson(t).open(authorizeURL(s) + "&state=2"); v.callback.Get("error") != "invalid_request" {
		t.Errorf("doubled parameter: %v", v.callback)
	}
}

func TestOtherResources(t *testing.T) {
	const other = "https://mcp.example/mcp"
	s := start(t, sandbox.Options{AutoApprove: true, Resources: []string{other}})
	v := newPerson(t).open(authorizeURL(s, "resource", other))
	a := exchange(t, s, v.callback.Get("code"), "resource", other)
	if a.status != 200 {
		t.Fatalf("exchange: %d %v", a.status, a.m)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(a.str("access_token"), &claims); err != nil || !slices.Equal(claims.Audience, []string{other}) {
		t.Errorf("audience %q, %v", claims.Audience, err)
	}
	if got := use(t, s, a.str("access_token")); got != 401 {
		t.Errorf("mcp: %d", got)
	}
}

func TestExchange(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	for name, c := range map[string]struct {
		change []string
		age    time.Duration
		status int
		err    string
	}{
		"good":               {status: 200},
		"no verifier":        {change: []string{"code_verifier", "-"}, status: 400, err: "invalid_grant"},
		"wrong verifier":     {change: []string{"code_verifier", strings.Repeat("a", 43)}, status: 400, err: "invalid_grant"},
		"short verifier":     {change: []string{"code_verifier", "a"}, status: 400, err: "invalid_grant"},
		"other redirect":     {change: []string{"redirect_uri", "http://127.0.0.1:9/callback"}, status: 400, err: "invalid_grant"},
		"no redirect":        {change: []string{"redirect_uri", "-"}, status: 400, err: "invalid_grant"},
		"no resource":        {change: []string{"resource", "-"}, status: 400, err: "invalid_target"},
		"other resource":     {change: []string{"resource", s.APIURL()}, status: 400, err: "invalid_target"},
		"no code":            {change: []string{"code", "-"}, status: 400, err: "invalid_request"},
		"invented code":      {change: []string{"code", "x"}, status: 400, err: "invalid_grant"},
		"old code":           {age: time.Minute, status: 400, err: "invalid_grant"},
		"unknown client":     {change: []string{"client_id", "nobody"}, status: 401, err: "invalid_client"},
		"no client":          {change: []string{"client_id", "-"}, status: 401, err: "invalid_client"},
		"secret of a public": {change: []string{"client_secret", "x"}, status: 401, err: "unauthorized_client"},
		"no grant type":      {change: []string{"grant_type", "-"}, status: 400, err: "invalid_request"},
		"password grant":     {change: []string{"grant_type", "password"}, status: 400, err: "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) {
			cb := newPerson(t).open(authorizeURL(s)).callback
			s.Advance(c.age)
			a := exchange(t, s, cb.Get("code"), c.change...)
			if a.status != c.status || a.str("error") != c.err {
				t.Errorf("%d %v, want %d %q", a.status, a.m, c.status, c.err)
			}
			if c.status != 200 && a.header.Get("Cache-Control") != "no-store" {
				t.Error("answer may be kept")
			}
		})
	}
}

func TestCodeTwiceTakesBackWhatItGave(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	cb := newPerson(t).open(authorizeURL(s)).callback
	a := exchange(t, s, cb.Get("code"))
	if b := exchange(t, s, cb.Get("code")); b.str("error") != "invalid_grant" {
		t.Fatalf("code is good twice: %v", b.m)
	}
	if got := use(t, s, a.str("access_token")); got != 401 {
		t.Errorf("its access token: %d", got)
	}
	if b := refresh(t, s, a.str("refresh_token")); b.str("error") != "invalid_grant" {
		t.Errorf("its refresh token: %v", b.m)
	}
}

func TestRotation(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	a := signedIn(t, s)
	b := refresh(t, s, a.str("refresh_token"))
	if b.status != 200 || b.str("refresh_token") == a.str("refresh_token") || b.str("access_token") == a.str("access_token") {
		t.Fatalf("refresh: %d %v", b.status, b.m)
	}
	if c := refresh(t, s, a.str("refresh_token")); c.str("error_description") != "Maximum allowed refresh token reuse exceeded" {
		t.Errorf("spent token: %v", c.m)
	}
	if c := refresh(t, s, b.str("refresh_token")); c.str("error") != "invalid_grant" || c.str("error_description") != "Session doesn't have required client" {
		t.Errorf("the good token after a reuse: %v", c.m)
	}
	if got := use(t, s, b.str("access_token")); got != 200 {
		t.Errorf("access tokens live on, this one: %d", got)
	}
	if n := s.Counts().Grants; n != 0 {
		t.Errorf("%d grants left", n)
	}
}

func TestRefreshRules(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	fresh := func() string { return signedIn(t, s).str("refresh_token") }
	for name, c := range map[string]struct {
		token  string
		change []string
		err    string
	}{
		"same resource":  {fresh(), []string{"resource", s.Resource()}, ""},
		"other resource": {fresh(), []string{"resource", s.APIURL()}, "invalid_target"},
		"narrower scope": {fresh(), []string{"scope", "openid"}, ""},
		"wider scope":    {fresh(), []string{"scope", "openid offline_access"}, "invalid_scope"},
		"garbage":        {"garbage", nil, "invalid_grant"},
		"access token":   {signedIn(t, s).str("access_token"), nil, "invalid_grant"},
		"no token":       {"", nil, "invalid_request"},
	} {
		if a := refresh(t, s, c.token, c.change...); a.str("error") != c.err {
			t.Errorf("%s: %v, want %q", name, a.m, c.err)
		}
	}
	id, secret := s.App()
	if a := refresh(t, s, fresh(), "client_id", id, "client_secret", secret); a.str("error") != "invalid_grant" {
		t.Errorf("another client's token: %v", a.m)
	}
	old := fresh()
	s.Advance(24 * time.Hour)
	if a := refresh(t, s, old); a.str("error_description") != "Token is not active" {
		t.Errorf("old token: %v", a.m)
	}

	offline, err := s.Issue("mia", sandbox.IssueOptions{Scopes: []string{"openid", "offline_access"}})
	if err != nil || offline.RefreshExpiresIn != 0 {
		t.Fatalf("offline: %v %v", offline.RefreshExpiresIn, err)
	}
	s.EndSession("mia")
	s.Advance(400 * 24 * time.Hour)
	if a := refresh(t, s, offline.RefreshToken); a.status != 200 || a.m["refresh_expires_in"] != 0.0 {
		t.Errorf("offline token after a year: %v", a.m)
	}
}

func TestNoRotation(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true, NoRotation: true})
	a := signedIn(t, s)
	for range 2 {
		b := refresh(t, s, a.str("refresh_token"))
		if _, ok := b.m["refresh_token"]; b.status != 200 || ok {
			t.Errorf("refresh: %d %v", b.status, b.m)
		}
	}
}

func TestAccessTokens(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true, TokenSize: 6000})
	a := signedIn(t, s)
	token := a.str("access_token")
	if len(token) < 6000 || len(token) > 6100 {
		t.Errorf("token has %d bytes", len(token))
	}
	noResource, _ := s.Issue("mia", sandbox.IssueOptions{NoResource: true})
	if got := use(t, s, noResource.AccessToken); got != 401 {
		t.Errorf("a token for the Public API at the MCP endpoint: %d", got)
	}
	for name, bad := range map[string]string{"garbage": "x", "refresh token": a.str("refresh_token"), "ID token": a.str("id_token"), "cut": token[:len(token)-4]} {
		if got := use(t, s, bad); got != 401 {
			t.Errorf("%s: %d", name, got)
		}
	}
	s.Advance(30*time.Minute - 5*time.Second)
	if got := use(t, s, token); got != 200 {
		t.Errorf("before it expires: %d", got)
	}
	s.Advance(5 * time.Second)
	got := rpc(t, s, token, "{}")
	if got.status != 401 || !strings.Contains(got.header.Get("WWW-Authenticate"), `error="invalid_token"`) {
		t.Errorf("expired: %d %v", got.status, got.header)
	}
}

func TestTokensCheckByKeySet(t *testing.T) {
	s := start(t, sandbox.Options{})
	tok, err := s.Issue("adam", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keys := call(t, "GET", s.AuthURL()+"/realms/astravue/protocol/openid-connect/certs", "", "", "")
	key := keys.m["keys"].([]any)[0].(map[string]any)
	claims := jwt.MapClaims{}
	parsed, _, err := jwt.NewParser().ParseUnverified(tok.AccessToken, claims)
	if err != nil || parsed.Header["kid"] != key["kid"] || key["alg"] != "ES256" || parsed.Method.Alg() != "ES256" {
		t.Errorf("token: %v %v, key: %v", parsed.Header, err, key)
	}
	if claims["iss"] != s.Issuer() || claims["aud"] != s.Resource() || claims["preferred_username"] != "adam" || claims["azp"] != tok.ClientID {
		t.Errorf("claims: %v", claims)
	}
	if got := fmt.Sprintf("%+v %#v %s %v", tok, tok, tok, &tok); strings.Contains(got, tok.AccessToken) || strings.Contains(got, tok.RefreshToken) {
		t.Errorf("printing shows a token: %s", got)
	}
}

func TestDocuments(t *testing.T) {
	const prm, asm = "/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server"
	for name, c := range map[string]struct {
		o        sandbox.Options
		announce func(*sandbox.Server) string
		issuer   func(*sandbox.Server) string
		resource func(*sandbox.Server) string
		prm      []string
	}{
		"default": {sandbox.Options{}, realm, realm, (*sandbox.Server).URL, []string{prm}},
		"api":     {sandbox.Options{IssuerHost: "api", ResourceMetadata: "both"}, (*sandbox.Server).APIURL, (*sandbox.Server).APIURL, (*sandbox.Server).URL, []string{prm, prm + "/mcp"}},
		"split":   {sandbox.Options{IssuerHost: "split", ResourceMetadata: "path"}, (*sandbox.Server).APIURL, realm, (*sandbox.Server).URL, []string{prm + "/mcp"}},
		"origin":  {sandbox.Options{Resource: "origin"}, realm, realm, (*sandbox.Server).APIURL, []string{prm}},
		"none":    {sandbox.Options{ResourceMetadata: "none"}, realm, realm, (*sandbox.Server).URL, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, c.o)
			for _, path := range []string{prm, prm + "/mcp"} {
				a := call(t, "GET", s.APIURL()+path, "", "", "")
				if !slices.Contains(c.prm, path) {
					if a.status != 404 {
						t.Errorf("%s: %d", path, a.status)
					}
					continue
				}
				if a.str("resource") != c.resource(s) || a.m["authorization_servers"].([]any)[0] != c.announce(s) {
					t.Errorf("%s: %v", path, a.m)
				}
			}
			for _, address := range []string{s.APIURL() + asm, s.AuthURL() + asm + "/realms/astravue", realm(s) + "/.well-known/openid-configuration"} {
				if a := call(t, "GET", address, "", "", ""); a.str("issuer") != c.issuer(s) || a.str("token_endpoint") != tokenURL(s) || s.Issuer() != c.issuer(s) {
					t.Errorf("%s: %v", address, a.m)
				}
			}
			if a := call(t, "GET", s.AuthURL()+"/.well-known/openid-configuration/realms/astravue", "", "", ""); a.status != 404 {
				t.Errorf("Keycloak has no OpenID path insertion: %d", a.status)
			}
			for _, path := range []string{"/mcp", "/api/v1/projects"} {
				a := call(t, "GET", s.APIURL()+path, "", "", "")
				want := c.prm != nil && strings.Contains(a.header.Get("WWW-Authenticate"), `resource_metadata="`+s.APIURL()+c.prm[0]+`"`) ||
					c.prm == nil && a.header.Get("WWW-Authenticate") == `Bearer realm="astravue"`
				if a.status != 401 || !want {
					t.Errorf("%s: %d %q", path, a.status, a.header.Get("WWW-Authenticate"))
				}
			}
			tok, err := s.Issue("mia", sandbox.IssueOptions{})
			if err != nil || tok.Resource != c.resource(s) || use(t, s, tok.AccessToken) != 200 {
				t.Errorf("use: %v %v", tok, err)
			}
		})
	}
}

func realm(s *sandbox.Server) string { return s.AuthURL() + "/realms/astravue" }

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []sandbox.Options{{IssuerHost: "x"}, {Protocol: "x"}, {Registration: "x"}, {Listen: "0.0.0.0:0"}, {Listen: "nonsense"}, {AccessTTL: -1}} {
		if s, err := sandbox.Start(o); err == nil {
			s.Close()
			t.Errorf("%+v is taken", o)
		}
	}
	start(t, sandbox.Options{Listen: "localhost:0"})
}

func TestConfidentialApp(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	id, secret := s.App()
	code := func() string {
		return newPerson(t).open(authorizeURL(s, "client_id", id, "scope", "openid", "resource", "-")).callback.Get("code")
	}
	if a := exchange(t, s, code(), "client_id", id, "resource", "-"); a.status != 401 {
		t.Errorf("without secret: %d", a.status)
	}
	if a := exchange(t, s, code(), "client_id", id, "client_secret", "wrong", "resource", "-"); a.status != 401 {
		t.Errorf("wrong secret: %d", a.status)
	}
	a := exchange(t, s, code(), "client_id", id, "client_secret", secret, "resource", "-")
	if a.status != 200 {
		t.Fatalf("exchange: %d %v", a.status, a.m)
	}
	if b := call(t, "GET", s.APIURL()+"/api/v1/projects", a.str("access_token"), "", ""); b.status != 200 {
		t.Errorf("Public API: %d", b.status)
	}

	f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.str("refresh_token")}}
	req, _ := http.NewRequest("POST", tokenURL(s), strings.NewReader(f.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("refresh by basic: %v %v", resp, err)
	}
	resp.Body.Close()
}

func register(t testing.TB, s *sandbox.Server, body string) answer {
	t.Helper()
	return call(t, "POST", realm(s)+"/clients-registrations/openid-connect", "", "application/json", body)
}

func TestRegistration(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	documented := register(t, s, `{"client_name":"Notes","redirect_uris":["http://127.0.0.1/callback"]}`)
	if documented.status != 201 || documented.str("client_secret") == "" || documented.str("token_endpoint_auth_method") != "client_secret_basic" {
		t.Fatalf("documented body: %d %v", documented.status, documented.m)
	}
	a := register(t, s, `{"client_name":"<i>Notes</i>","redirect_uris":["http://127.0.0.1:3142/callback"],"token_endpoint_auth_method":"none","application_type":"native","grant_types":["authorization_code","refresh_token"]}`)
	if _, secret := a.m["client_secret"]; a.status != 201 || secret || a.m["client_id_issued_at"] == nil {
		t.Fatalf("register: %d %v", a.status, a.m)
	}
	id := a.str("client_id")
	cb := newPerson(t).open(authorizeURL(s, "client_id", id)).callback
	if b := exchange(t, s, cb.Get("code"), "client_id", id); b.status != 200 {
		t.Errorf("exchange: %v", b.m)
	}
	if v := newPerson(t).open(authorizeURL(s, "client_id", id, "redirect_uri", "http://127.0.0.1:3143/callback")); v.status != 400 {
		t.Errorf("a registered port matches another one: %d", v.status)
	}

	for body, want := range map[string]string{
		`{`: "invalid_request",
		`{"redirect_uris":["http://127.0.0.1/x"],"token_endpoint_auth_method":"tls"}`: "invalid_client_metadata",
		`{"redirect_uris":["http://127.0.0.1/x"],"grant_types":["password"]}`:         "invalid_client_metadata",
		`{"redirect_uris":["http://127.0.0.1/x"],"client_id":"mine"}`:                 "invalid_client_metadata",
		`{"client_name":"x"}`:                             "invalid_redirect_uri",
		`{"redirect_uris":["http://attacker.example/x"]}`: "invalid_redirect_uri",
		`{"redirect_uris":["javascript:alert(1)"]}`:       "invalid_redirect_uri",
		`{"redirect_uris":["https://a.example/#f"]}`:      "invalid_redirect_uri",
		`{"redirect_uris":["https://*.example/"]}`:        "invalid_redirect_uri",
	} {
		if a := register(t, s, body); a.status != 400 || a.str("error") != want {
			t.Errorf("%s: %d %v", body, a.status, a.m)
		}
	}

	// RFC 7592: a registration access token serves once.
	uri, token := a.str("registration_client_uri"), a.str("registration_access_token")
	b := call(t, "GET", uri, token, "", "")
	if b.status != 200 || b.str("registration_access_token") == token {
		t.Errorf("read: %d", b.status)
	}
	if c := call(t, "DELETE", uri, token, "", ""); c.status != 401 {
		t.Errorf("delete with a spent token: %d", c.status)
	}
	if c := call(t, "DELETE", uri, b.str("registration_access_token"), "", ""); c.status != 204 {
		t.Errorf("delete: %d", c.status)
	}
	if v := newPerson(t).open(authorizeURL(s, "client_id", id)); v.status != 400 || !strings.Contains(v.body, "Client not found") {
		t.Errorf("deleted client: %d", v.status)
	}
}

func TestRegistrationRefused(t *testing.T) {
	const good = `{"redirect_uris":["http://127.0.0.1/callback"]}`
	s := start(t, sandbox.Options{Registration: "refused"})
	if a := register(t, s, good); a.status != 403 || a.str("error") != "insufficient_scope" || !strings.Contains(a.str("error_description"), "Trusted Hosts") {
		t.Errorf("refused: %d %v", a.status, a.m)
	}
	s = start(t, sandbox.Options{Registration: "none"})
	if a := call(t, "GET", s.APIURL()+"/.well-known/oauth-authorization-server", "", "", ""); a.m["registration_endpoint"] != nil {
		t.Error("metadata names an endpoint that is not there")
	}
	s = start(t, sandbox.Options{MaxClients: 1})
	if a := register(t, s, good); a.status != 201 {
		t.Errorf("first: %d", a.status)
	}
	if a := register(t, s, good); a.status != 403 {
		t.Errorf("second of one: %d", a.status)
	}
}

func TestClientMetadataDocument(t *testing.T) {
	var doc string
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, doc) }))
	defer host.Close()
	s := start(t, sandbox.Options{AutoApprove: true})
	id := host.URL + "/client.json"
	good := fmt.Sprintf(`{"client_id":%q,"client_name":"Doc","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`, id)

	doc = good
	cb := newPerson(t).open(authorizeURL(s, "client_id", id)).callback
	if a := exchange(t, s, cb.Get("code"), "client_id", id); a.status != 200 {
		t.Errorf("exchange: %v", a.m)
	}
	for name, bad := range map[string]string{
		"other ID": strings.Replace(good, "client.json", "other.json", 1), "no JSON": "<html>", "large": good + strings.Repeat(" ", 5000),
		"secret": strings.Replace(good, `"none"`, `"client_secret_post"`, 1), "no redirects": fmt.Sprintf(`{"client_id":%q,"client_name":"Doc"}`, id),
	} {
		doc = bad
		if v := newPerson(t).open(authorizeURL(s, "client_id", id)); v.status != 400 {
			t.Errorf("%s: %d", name, v.status)
		}
	}
	if v := newPerson(t).open(authorizeURL(s, "client_id", "https://example.com/client.json")); v.status != 400 {
		t.Errorf("a document that is not on loopback: %d", v.status)
	}
}

func TestRevocation(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	revoke := func(token string) answer {
		return post(t, realm(s)+"/protocol/openid-connect/revoke", url.Values{"token": {token}, "client_id": {s.PublicClient()}})
	}
	a := signedIn(t, s)
	if b := revoke(a.str("refresh_token")); b.status != 200 {
		t.Fatalf("revoke: %d %v", b.status, b.m)
	}
	if b := refresh(t, s, a.str("refresh_token")); b.str("error") != "invalid_grant" {
		t.Errorf("refresh: %v", b.m)
	}
	if got := use(t, s, a.str("access_token")); got != 200 {
		t.Errorf("the access token lives on: %d", got)
	}
	revoke(a.str("access_token"))
	if got := use(t, s, a.str("access_token")); got != 401 {
		t.Errorf("the access token was revoked itself: %d", got)
	}
	if b := revoke("unknown"); b.status != 200 {
		t.Errorf("unknown token: %d", b.status)
	}
	id, secret := s.App()
	other, _ := s.Issue("mia", sandbox.IssueOptions{ClientID: id})
	if b := revoke(other.RefreshToken); b.status != 400 {
		t.Errorf("another client's token: %d", b.status)
	}
	if b := refresh(t, s, other.RefreshToken, "client_id", id, "client_secret", secret); b.status != 200 {
		t.Errorf("it is untouched: %v", b.m)
	}
}

func TestAdministrator(t *testing.T) {
	s := start(t, sandbox.Options{})
	issue := func() sandbox.Tokens {
		tok, err := s.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for name, c := range map[string]struct {
		do   func(string) error
		use  int
		want string // of the refresh
	}{
		"ExpireAccess": {s.ExpireAccess, 401, ""},
		"EndSession":   {s.EndSession, 200, "Session not active"},
		"RevokeUser":   {s.RevokeUser, 401, "Stale token"},
	} {
		tok := issue()
		if err := c.do("mia"); err != nil {
			t.Fatal(err)
		}
		if got := use(t, s, tok.AccessToken); got != c.use {
			t.Errorf("%s: use %d", name, got)
		}
		if a := refresh(t, s, tok.RefreshToken); a.str("error_description") != c.want {
			t.Errorf("%s: refresh %v", name, a.m)
		}
		if got := use(t, s, issue().AccessToken); got != 200 {
			t.Errorf("%s: a new token: %d", name, got)
		}
	}
	tok := issue()
	s.DisableUser("mia")
	if a := refresh(t, s, tok.RefreshToken); a.str("error_description") != "User disabled" || use(t, s, tok.AccessToken) != 401 {
		t.Errorf("DisableUser: %v", a.m)
	}
	tok, _ = s.Issue("noah", sandbox.IssueOptions{})
	if err := s.DeleteClient(s.PublicClient()); err != nil {
		t.Fatal(err)
	}
	if a := refresh(t, s, tok.RefreshToken); a.status != 401 || a.str("error") != "invalid_client" {
		t.Errorf("DeleteClient: %v", a.m)
	}
	if !errors.Is(s.EndSession("nobody"), sandbox.ErrUnknown) || !errors.Is(s.DeleteClient("x"), sandbox.ErrUnknown) {
		t.Error("unknown names are taken")
	}
	s = start(t, sandbox.Options{CheckSession: true})
	tok, _ = s.Issue("mia", sandbox.IssueOptions{})
	s.EndSession("mia")
	if got := use(t, s, tok.AccessToken); got != 401 {
		t.Errorf("CheckSession: %d", got)
	}
}

func TestStepUp(t *testing.T) {
	s := start(t, sandbox.Options{ToolScopes: map[string]string{"delete_project": "projects:delete"}, ChallengeScopes: []string{"openid"}})
	const del = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_project","arguments":{}}}`
	tok, _ := s.Issue("olivia", sandbox.IssueOptions{})
	a := rpc(t, s, tok.AccessToken, del)
	if h := a.header.Get("WWW-Authenticate"); a.status != 403 || !strings.Contains(h, `error="insufficient_scope"`) || !strings.Contains(h, `scope="projects:delete"`) {
		t.Errorf("%d %q", a.status, h)
	}
	tok, err := s.Issue("olivia", sandbox.IssueOptions{Scopes: []string{"openid", "projects:delete"}})
	if a := rpc(t, s, tok.AccessToken, del); err != nil || a.status == 403 {
		t.Errorf("with the scope: %d %v", a.status, err)
	}
	if a := rpc(t, s, "", del); !strings.Contains(a.header.Get("WWW-Authenticate"), `scope="openid"`) {
		t.Errorf("challenge: %q", a.header.Get("WWW-Authenticate"))
	}
}

func TestFaults(t *testing.T) {
	s := start(t, sandbox.Options{AutoApprove: true})
	const asm = "/.well-known/oauth-authorization-server"

	t.Run("an answer is lost", func(t *testing.T) {
		a := signedIn(t, s)
		defer s.Fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true, Times: 1})()
		f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.str("refresh_token")}, "client_id": {s.PublicClient()}}
		if _, err := http.PostForm(tokenURL(s), f); err == nil {
			t.Fatal("an answer came")
		}
		if b := refresh(t, s, a.str("refresh_token")); b.str("error_description") != "Maximum allowed refresh token reuse exceeded" {
			t.Errorf("it was carried out: %v", b.m)
		}
	})
	t.Run("a request is lost", func(t *testing.T) {
		a := signedIn(t, s)
		defer s.Fail(sandbox.StepRefresh, sandbox.Fault{Drop: true, Times: 1})()
		f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.str("refresh_token")}, "client_id": {s.PublicClient()}}
		if _, err := http.PostForm(tokenURL(s), f); err == nil {
			t.Fatal("an answer came")
		}
		if b := refresh(t, s, a.str("refresh_token")); b.status != 200 {
			t.Errorf("it was not carried out: %v", b.m)
		}
	})
	t.Run("an answer is cut", func(t *testing.T) {
		defer s.Fail(sandbox.StepServerMetadata, sandbox.Fault{Drop: true, Cut: 20})()
		resp, err := http.Get(s.APIURL() + asm)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err == nil || len(b) != 20 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
	t.Run("members", func(t *testing.T) {
		undo := s.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"issuer": "https://attacker.example", "code_challenge_methods_supported": []string{"plain"}, "token_endpoint": nil}})
		a := call(t, "GET", s.APIURL()+asm, "", "", "")
		if a.str("issuer") != "https://attacker.example" || a.m["token_endpoint"] != nil || a.m["code_challenge_methods_supported"].([]any)[0] != "plain" {
			t.Errorf("%v", a.m)
		}
		undo()
		if a := call(t, "GET", s.APIURL()+asm, "", "", ""); a.str("issuer") != s.Issuer() {
			t.Error("undo does not undo")
		}
	})
	t.Run("redirect", func(t *testing.T) {
		defer s.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"iss": "https://attacker.example", "state": nil}})()
		if v := newPerson(t).open(authorizeURL(s)); v.callback.Get("iss") != "https://attacker.example" || v.callback.Has("state") || !v.callback.Has("code") {
			t.Errorf("%v", v.callback)
		}
	})
	t.Run("answers", func(t *testing.T) {
		defer s.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}, Times: 1, Skip: 1})()
		defer s.Fail(sandbox.StepChallenge, sandbox.Fault{Header: http.Header{"WWW-Authenticate": nil}})()
		for i, want := range []string{"application/json", "text/html", "application/json"} {
			if a := call(t, "GET", s.APIURL()+"/.well-known/oauth-protected-resource", "", "", ""); a.header.Get("Content-Type") != want || a.status != 200 {
				t.Errorf("%d: %v", i, a.header)
			}
		}
		if a := rpc(t, s, "", "{}"); a.status != 401 || a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%d %v", a.status, a.header)
		}
		defer s.Fail(sandbox.StepRegister, sandbox.Fault{Status: 503, Header: http.Header{"Retry-After": {"2"}}})()
		if a := register(t, s, "{}"); a.status != 503 || a.header.Get("Retry-After") != "2" {
			t.Errorf("%d %v", a.status, a.header)
		}
	})
	t.Run("delay", func(t *testing.T) {
		defer s.Fail(sandbox.StepAPI, sandbox.Fault{Delay: time.Hour})()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.APIURL()+"/api/v1/projects", nil)
		req.Header.Set("Authorization", "Bearer x")
		if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
	t.Run("chosen", func(t *testing.T) {
		defer s.Fail(sandbox.StepMCP, sandbox.Fault{Status: 500, Match: func(r *http.Request) bool { return r.Method == http.MethodGet }})()
		tok, _ := s.Issue("mia", sandbox.IssueOptions{})
		if a := call(t, "GET", s.URL(), tok.AccessToken, "", ""); a.status != 500 || use(t, s, tok.AccessToken) != 200 {
			t.Errorf("%d", a.status)
		}
	})
}

func TestRequestLog(t *testing.T) {
	var logged testenv.Buffer
	s := start(t, sandbox.Options{Logger: slog.New(slog.NewJSONHandler(&logged, nil))})
	rpc(t, s, "", "{}")
	call(t, "GET", s.APIURL()+"/.well-known/oauth-protected-resource", "", "", "")
	call(t, "GET", s.APIURL()+"/.well-known/oauth-authorization-server", "", "", "")
	reg := register(t, s, `{"client_name":"x","redirect_uris":["http://127.0.0.1:3142/callback"],"token_endpoint_auth_method":"client_secret_post"}`)
	id, secret := reg.str("client_id"), reg.str("client_secret")
	cb := newPerson(t).open(authorizeURL(s, "client_id", id)).signIn("mia").approve()
	a := exchange(t, s, cb.Get("code"), "client_id", id, "client_secret", secret)
	use(t, s, a.str("access_token"))
	b := refresh(t, s, a.str("refresh_token"), "client_id", id, "client_secret", secret)
	refresh(t, s, a.str("refresh_token"), "client_id", id, "client_secret", secret)
	call(t, "GET", s.APIURL()+"/api/v1/projects", b.str("access_token"), "", "")
	post(t, realm(s)+"/protocol/openid-connect/revoke", url.Values{"token": {b.str("refresh_token")}, "client_id": {id}, "client_secret": {secret}})

	var steps []sandbox.Step
	for _, r := range s.Requests() {
		steps = append(steps, r.Step)
	}
	want := []sandbox.Step{"challenge", "resource-metadata", "server-metadata", "register", "authorize", "authorize", "authorize", "authorize", "exchange", "mcp", "refresh", "refresh", "api", "revoke"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	log := s.Requests()
	if r := log[9]; r.RPC != "initialize" || r.User != "mia" || r.ClientID != id || r.Status != 200 || r.Host != "api" || r.Path != "/mcp" {
		t.Errorf("mcp entry: %+v", r)
	}
	if r := log[11]; r.Error != "invalid_grant" || r.Status != 400 {
		t.Errorf("refused refresh: %+v", r)
	}
	if r := log[4]; r.Params.Get("resource") != s.Resource() || r.Params.Get("scope") != "openid profile email" {
		t.Errorf("authorize entry: %+v", r)
	}
	if s.Counts().Requests[sandbox.StepRefresh] != 2 {
		t.Errorf("counts: %+v", s.Counts())
	}
	text, _ := json.Marshal(log)
	s.Close()
	for _, hidden := range []string{cb.Get("code"), verifier, secret, a.str("access_token"), a.str("refresh_token"), a.str("id_token"), b.str("refresh_token"),
		"st&te=1", "mia-sandbox", reg.str("registration_access_token"), challenge()} {
		escaped, _ := json.Marshal(hidden)
		if bytes.Contains(text, bytes.Trim(escaped, `"`)) || strings.Contains(logged.String(), strings.Trim(string(escaped), `"`)) {
			t.Errorf("the log holds %q", hidden)
		}
	}
	s.ClearRequests()
	if len(s.Requests()) != 0 || len(s.Counts().Requests) != 0 {
		t.Error("log is not empty")
	}
}

// bearer is an http.RoundTripper of an MCP client that is signed in.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func TestBothEras(t *testing.T) {
	for protocol, version := range map[string]string{"both": "2026-07-28", "modern": "2026-07-28", "legacy": "2025-11-25"} {
		t.Run(protocol, func(t *testing.T) {
			s := start(t, sandbox.Options{Protocol: protocol})
			tok, _ := s.Issue("mia", sandbox.IssueOptions{})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := mcp.NewClient(&mcp.Implementation{Name: "t", Version: "1"}, nil)
			session, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.URL(), HTTPClient: &http.Client{Transport: bearer(tok.AccessToken)}, MaxRetries: -1, DisableStandaloneSSE: true}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			if got := session.InitializeResult().ProtocolVersion; got != version {
				t.Errorf("protocol %s, want %s", got, version)
			}
			tools, err := session.ListTools(ctx, nil)
			if err != nil || len(tools.Tools) == 0 {
				t.Fatalf("tools: %v", err)
			}
			if protocol == "legacy" {
				s.EndMCPSessions()
				if _, err := session.ListTools(ctx, nil); !errors.Is(err, mcp.ErrSessionMissing) {
					t.Errorf("after the sessions ended: %v", err)
				}
			}
		})
	}
}

func TestForeignHostHeaderIsRefused(t *testing.T) {
	s := start(t, sandbox.Options{})
	for _, origin := range []string{s.APIURL(), s.AuthURL()} {
		req, _ := http.NewRequest("GET", origin+"/", nil)
		req.Host = "rebound.example"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%d", resp.StatusCode)
		}
	}
}

func TestManyUsers(t *testing.T) {
	s := start(t, sandbox.Options{})
	const n = 10_000
	began := time.Now()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < n; i += 4 {
				if _, err := s.Issue(fmt.Sprint("user", i), sandbox.IssueOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if c := s.Counts(); c.Grants != n || c.Users != n+len(s.Accounts()) {
		t.Errorf("%+v", c)
	}
	t.Logf("%d users in %v", n, time.Since(began))
}

func TestCloseEndsStreams(t *testing.T) {
	s := start(t, sandbox.Options{Protocol: "legacy"})
	tok, _ := s.Issue("mia", sandbox.IssueOptions{})
	c := mcp.NewClient(&mcp.Implementation{Name: "t", Version: "1"}, nil)
	session, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: s.URL(), HTTPClient: &http.Client{Transport: bearer(tok.AccessToken)}, MaxRetries: -1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.Close()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("Close took %v", d)
	}
	session.Close()
}

// A page of another site can have a browser send forms, text, and what has no type.
func TestPagesOfOtherSites(t *testing.T) {
	s := start(t, sandbox.Options{})
	const metadata = `{"redirect_uris":["http://127.0.0.1/callback"]}`
	register := s.AuthURL() + "/realms/astravue/clients-registrations/openid-connect"
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense"} {
		if a := call(t, "POST", register, "", contentType, metadata); a.status != http.StatusUnsupportedMediaType {
			t.Errorf("a registration of type %q: status %d", contentType, a.status)
		}
	}
	if a := call(t, "POST", register, "", "application/json; charset=utf-8", metadata); a.status != 201 {
		t.Errorf("a registration: status %d", a.status)
	}

	before := len(s.Requests())
	for _, from := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}},
		{"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:1"}}, // cookies come along
		{"Origin": {"null"}},
	} {
		for _, address := range []string{register, s.Issuer() + "/protocol/openid-connect/token", s.Issuer() + "/protocol/openid-connect/logout",
			s.Issuer() + "/login-actions/authenticate", s.Issuer() + "/login-actions/consent", s.URL(), s.APIURL() + "/api/v1/projects"} {
			req, _ := http.NewRequest("POST", address, strings.NewReader(metadata))
			req.Header = from.Clone()
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("POST %s of %v: status %d", req.URL.Path, from, resp.StatusCode)
			}
		}
	}
	if n := s.Counts().Clients; n != 1 || len(s.Requests()) != before {
		t.Errorf("%d clients, %d requests in the log, which had %d", n, len(s.Requests()), before)
	}

	// An application may have the browser post the authorization request.
	u, err := url.Parse(authorizeURL(s))
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("POST", s.Issuer()+"/protocol/openid-connect/auth", strings.NewReader(u.RawQuery))
	req.Header = http.Header{"Sec-Fetch-Site": {"cross-site"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("an authorization request by POST: status %d", resp.StatusCode)
	}
}
