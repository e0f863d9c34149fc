package attacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

var redirectsAttacks = redirectRows()

func redirectRows() (rows []attack) {
	// Each exchange of a whole session, redirected to another origin.
	for _, r := range []struct {
		step  sandbox.Step
		what  string
		gains string
	}{
		{sandbox.StepChallenge, "the first request, which has no token,", "what the request holds"},
		{sandbox.StepResourceMetadata, "the request for the resource's metadata", "a secret on it"},
		{sandbox.StepServerMetadata, "the request for the authorization server's metadata", "a secret on it"},
		{sandbox.StepRegister, "the registration", "what it registers, and to choose the answer"},
		{sandbox.StepExchange, "the exchange of the code", "code, code verifier and client secret"},
		{sandbox.StepMCP, "a call with a token", "the access token"},
		{sandbox.StepAPI, "a request of a program to the Public API", "the access token"},
		{sandbox.StepRefresh, "the refresh", "refresh token and client secret"},
		{sandbox.StepRevoke, "the revocation", "refresh token and client secret"},
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			rows = append(rows, attack{
				id: fmt.Sprintf("redirect-%s-%d", r.step, status), who: "anybody who can make a server redirect", gains: r.gains,
				does: fmt.Sprintf("answers %s with %d to a host of its own", r.what, status),
				play: func(t *testing.T) (bool, string) { return redirectedAway(t, r.step, status) },
			})
		}
	}

	// Within the origin: to another tenant of the host.
	for _, r := range []struct{ id, target string }{
		{"sibling", "/tenant/b"},
		{"prefix", "/tenant/ab"},
		{"suffix", "/tenant/a.evil/x"},
		{"parent", "/tenant"},
		{"root", "/"},
		{"upper-case", "/TENANT/A/"},
		{"dots", "/tenant/a/../b"},
		{"relative", "b"},
		{"relative-dots", "../tenant/b"},
		{"encoded-dots", "/tenant/a/%2e%2e/b"},
		{"half-encoded-dots", "/tenant/a/.%2E/b"},
		{"encoded-slash", "/tenant/a/..%2fb"},
		{"all-encoded", "/tenant/a%2f%2e%2e%2fb"},
		{"twice-encoded", "/tenant/a/%252e%252e%252fb"},
		{"thrice-encoded", "/tenant/a/%25252e%25252e/b"},
		{"backslash", `/tenant/a/..\b`},
		{"encoded-backslash", "/tenant/a/..%5cb"},
		{"parameter", "/tenant/a/..;/b"},
		{"encoded-parameter", "/tenant/a/..%3bx/b"},
		{"parameter-on-the-path", "/tenant/a;/../b"},
		{"nul", "/tenant/a/..%00/b"},
		{"space", "/tenant/a/..%20/b"},
		{"overlong", "/tenant/a/%c0%ae%c0%ae/b"},
		{"double-slash", "/tenant//b"},
		{"double-slash-host", "//127.0.0.1/tenant/a"},
		{"slash-in-front", "/%2ftenant/a"},
		{"encoded-name", "/tenant%2fb"},
		{"port", "http://127.0.0.1:1/tenant/a"},
		{"userinfo", "http://x@127.0.0.1:1/tenant/a"},
		{"https", "https://127.0.0.1:1/tenant/a"},
	} {
		rows = append(rows, attack{
			id: "redirect-tenant-" + r.id, who: "another tenant of the server's host", gains: "the access token of this one",
			does: "has the server redirect requests of MCP and of the program's HTTP clients to `" + r.target + "`, with each status",
			play: func(t *testing.T) (bool, string) { return redirectedWithin(t, "/tenant/a", r.target) },
		})
	}
	for _, r := range []struct{ id, server, target string }{
		{"query-other", "/mcp?tenant=a", "?tenant=b"},
		{"query-gone", "/mcp?tenant=a", "/mcp"},
		{"query-twice", "/mcp?tenant=a", "?tenant=a&tenant=b"},
		{"query-below", "/mcp?tenant=a", "/mcp/x?tenant=b"},
	} {
		rows = append(rows, attack{
			id: "redirect-tenant-" + r.id, who: "another tenant of the server's host", gains: "the access token of this one",
			does: "has the server at `" + r.server + "` redirect to `" + r.target + "`",
			play: func(t *testing.T) (bool, string) { return redirectedWithin(t, r.server, r.target) },
		})
	}

	// Documents, which may come from elsewhere, but not from everywhere.
	for _, r := range []struct{ id, target string }{
		{"file", "file:///etc/passwd"},
		{"link-local", "http://169.254.169.254/latest/meta-data/"},
		{"http", "http://other.example/"},
		{"userinfo", "https://x:y@other.example/"},
		{"fragment", "https://other.example/#x"},
		{"private", "https://10.0.0.5/"},
		{"localhost", "https://localhost/"},
		{"loopback-http", "http://127.0.0.1:8080/"},
		{"number", "https://2130706433/"},
		{"gopher", "gopher://127.0.0.1:6379/_FLUSHALL"},
		{"circle", "https://server.example/from"},
	} {
		rows = append(rows, attack{
			id: "redirect-document-" + r.id, who: "a hostile public MCP server", gains: "a request to where it could not go itself",
			does: "redirects the request for a document to `" + r.target + "`",
			play: func(t *testing.T) (bool, string) {
				g := newGuardNet(t, "10.0.0.5", "169.254.169.254")
				g.serve("server.example", map[string]any{"/from": "redirect " + r.target})
				err := oauthhttp.GetJSON(t.Context(), g.client("https://server.example/mcp"), "https://server.example/from", &struct{}{})
				return err == nil || g.dialled("private") > 0 || !errors.Is(err, oauthhttp.ErrRedirect), "the redirect was not followed"
			},
		})
	}
	return rows
}

// A redirectThief is a server of the attacker's. It remembers each request.
type redirectThief struct {
	*httptest.Server
	mu   sync.Mutex
	took []string // what is secret of each request, "" if nothing
}

func newRedirectThief(t *testing.T) *redirectThief {
	th := new(redirectThief)
	th.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		took := r.Header.Get("Authorization") + r.Header.Get("Mcp-Session-Id")
		for _, name := range []string{"code", "code_verifier", "client_secret", "refresh_token", "token", "access_token", "redirect_uris"} {
			if strings.Contains(string(body)+r.URL.RawQuery, name) {
				took += " " + name
			}
		}
		th.mu.Lock()
		th.took = append(th.took, took)
		th.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(th.Close)
	return th
}

// gained reports whether any request held a secret, and describes the requests.
func (th *redirectThief) gained() (bool, string) {
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, took := range th.took {
		if took != "" {
			return true, "it got" + took
		}
	}
	if len(th.took) > 0 {
		return false, "the redirect was followed, with nothing secret on it, and what came back was not taken"
	}
	return false, "the redirect was not followed"
}

func redirectedAway(t *testing.T, step sandbox.Step, status int) (bool, string) {
	srv := openedServer(t)
	thief := newRedirectThief(t)
	id, secret := srv.App()
	c := &mcpclient.Client{
		Name: "Acme Notes", Server: srv.URL(), Store: &tokenstore.Memory{}, OpenBrowser: openedBrowser(),
		Registration: mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret)},
	}
	if step == sandbox.StepRegister {
		c.Registration = mcpclient.Registration{}
	}
	defer c.Close()
	redirect := func() {
		srv.Fail(step, sandbox.Fault{Status: status, Body: "{}", Header: http.Header{"Location": {thief.URL + "/.well-known/x"}}})
	}
	early := step == sandbox.StepChallenge || step == sandbox.StepResourceMetadata || step == sandbox.StepServerMetadata || step == sandbox.StepRegister || step == sandbox.StepExchange
	if early {
		redirect()
	}
	err := c.Login(t.Context(), nil)
	if early {
		won, seen := thief.gained()
		return won || err == nil, seen
	}
	if err != nil {
		t.Fatal(err)
	}
	redirect()
	switch step {
	case sandbox.StepMCP:
		if session, err := c.Connect(t.Context()); err == nil {
			_ = session.Close()
		}
	case sandbox.StepRevoke:
		_, _ = c.Logout(t.Context())
	default:
		if step == sandbox.StepRefresh {
			if err := srv.ExpireAccess("olivia"); err != nil {
				t.Fatal(err)
			}
		}
		if resp, err := c.HTTPClient().Get(srv.APIURL() + "/api/v1/projects"); err == nil {
			_ = resp.Body.Close()
		}
	}
	return thief.gained()
}

// redirectedWithin has a grant for the server at that path, whose every answer is a redirect to
// the target. All other paths are the attacker's.
func redirectedWithin(t *testing.T, path, target string) (bool, string) {
	var mu sync.Mutex
	sent, got, status := false, false, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.RequestURI == path {
			sent = sent || r.Header.Get("Authorization") != ""
			w.Header().Set("Location", target)
			w.WriteHeader(status)
			return
		}
		got = got || r.Header.Get("Authorization") != ""
		fmt.Fprint(w, `{}`)
	}))
	defer srv.Close()
	server := srv.URL + path
	store := &tokenstore.Memory{}
	err := store.Update(t.Context(), tokenstore.GrantKey(server, ""), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: server, Issuer: srv.URL, TokenEndpoint: srv.URL + "/token", ClientID: "c", AuthMethod: "none",
			Resource: server, AccessToken: tokenstore.NewSecret("a-token-of-the-victims"),
		}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &mcpclient.Client{Server: server, Store: store, NonInteractive: true}
	defer c.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		mu.Lock()
		status = code
		mu.Unlock()
		if session, err := c.Connect(t.Context()); err == nil {
			_ = session.Close()
		}
		for _, hc := range []*http.Client{c.HTTPClient(), {Transport: c.HTTPClient().Transport}} {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				req, err := http.NewRequestWithContext(t.Context(), method, server, strings.NewReader(`{}`))
				if err != nil {
					t.Fatal(err)
				}
				if resp, err := hc.Do(req); err == nil {
					_ = resp.Body.Close()
				}
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !sent {
		t.Fatal("no token was sent at all")
	}
	return got, "the token stayed with the server"
}
