// Package interop runs this module against other people's programs: the library
// against the MCP project's own servers, with the sandbox as their authorization
// server; and the sandbox against other people's clients, which bring OAuth of
// their own. It does not judge what they do with MCP beyond that.
package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// browserEnv, set to 1, makes the test program a browser. The browser is no child of testenv:
// mcp-remote starts it, with the page as its argument.
const browserEnv = "ASTRAVUE_MCP_TEST_BROWSER"

func TestMain(m *testing.M) {
	if os.Getenv(browserEnv) == "1" {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := testenv.Visit(ctx, os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestServers uses all that a session is for: tools, resources and prompts, listed and used, in
// each era that the server speaks, and goes on when the access token has expired.
func TestServers(t *testing.T) {
	everything := use{
		tool: "get-sum", arguments: map[string]any{"a": 2, "b": 3}, says: "5",
		prompt: "args-prompt", with: map[string]string{"city": "Ghent"}, asks: "Ghent",
	}
	sdk := use{
		tool: "add", arguments: map[string]any{"a": 2, "b": 3}, says: "5",
		resource: "memo://one", holds: "the first memo",
		prompt: "greet", with: map[string]string{"name": "Olivia"}, asks: "Olivia",
	}
	for name, c := range map[string]struct {
		start   func(testing.TB) string
		version string
		use     use
	}{
		"server-everything":     {testenv.Everything, "2025-11-25", everything},
		"TypeScript SDK 1":      {sdkServer(testenv.SDK1), "2025-11-25", sdk},
		"TypeScript SDK 2":      {sdkServer(testenv.SDK2Legacy), "2025-11-25", sdk},
		"TypeScript SDK 2, new": {sdkServer(testenv.SDK2Modern), "2026-07-28", sdk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, c.start(t))
			client := &mcpclient.Client{Name: "Interop", Server: g.url, Store: new(tokenstore.Memory), OpenBrowser: testenv.Visit}
			t.Cleanup(func() {
				if err := client.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			session, err := client.Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			if got := session.InitializeResult().ProtocolVersion; got != c.version {
				t.Errorf("protocol version %s, want %s", got, c.version)
			}
			c.use.all(ctx, t, session)

			time.Sleep(life) // the gate's clock cannot be moved
			c.use.call(ctx, t, session)
			if tokens := g.tokens(); tokens < 2 {
				t.Error("the access token was not refreshed")
			}
			if n := g.sandbox.Counts().Requests[sandbox.StepAuthorize]; n != 1 {
				t.Errorf("%d sign-ins, want 1", n)
			}
		})
	}
}

// TestServerWithoutSignIn lists and calls tools of a server that asks for no sign-in, with a stream
// of its own and without one.
func TestServerWithoutSignIn(t *testing.T) {
	url := testenv.Everything(t)
	for name, options := range map[string]*mcp.ClientOptions{"quiet": nil, "with a stream": {}} {
		t.Run(name, func(t *testing.T) {
			client := &mcpclient.Client{
				Name: "Interop", Server: url, Store: new(tokenstore.Memory), MCP: options,
				OpenBrowser: func(context.Context, string) error {
					t.Error("a browser was opened")
					return nil
				},
			}
			defer client.Close()
			session, err := client.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("protocol version %s", session.InitializeResult().ProtocolVersion)
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(tools.Tools, func(tool *mcp.Tool) bool { return tool.Name == "echo" }) {
				t.Errorf("no tool echo among %d", len(tools.Tools))
			}
			use{tool: "echo", arguments: map[string]any{"message": "hello"}, says: "hello"}.call(t.Context(), t, session)
			if st, err := client.Status(t.Context()); err != nil || st.SignedIn {
				t.Errorf("Status: %+v, %v", st, err)
			}
			if err := session.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// TestForeignToken gives the gate tokens that are the sandbox's and not for it, and the sandbox
// one that is for the gate.
func TestForeignToken(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(behind.Close)
	g := newGate(t, behind.URL)
	for name, c := range map[string]struct {
		resource, at string
		status       int
	}{
		"the gate's at the gate":        {g.url, g.url, http.StatusOK},
		"the sandbox's at the gate":     {g.sandbox.Resource(), g.url, http.StatusUnauthorized},
		"the gate's at the sandbox":     {g.url, g.sandbox.URL(), http.StatusUnauthorized},
		"the Public API's, at the gate": {"", g.url, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			tokens, err := g.sandbox.Issue("mia", sandbox.IssueOptions{Resource: c.resource, NoResource: c.resource == ""})
			if err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, c.at, nil)
			req.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
		})
	}
}

// TestSDKClients has the TypeScript SDK sign in to the sandbox, each major version in its own era.
func TestSDKClients(t *testing.T) {
	for major, first := range map[string]string{"1": "initialize", "2": "server/discover"} {
		for _, issuer := range []string{sandbox.IssuerAuth, sandbox.IssuerAPI} {
			t.Run(major+"/"+issuer, func(t *testing.T) {
				s := testenv.Sandbox(t, sandbox.Options{AutoApprove: true, IssuerHost: issuer})
				cmd := testenv.SDKClient(t, major, s.URL())
				var log strings.Builder
				cmd.Stderr = &log
				done := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
				defer done.Stop()
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v\n%s%s", err, log.String(), story(s))
				}
				calls := s.Requests()
				calls = slices.DeleteFunc(calls, func(r sandbox.Request) bool { return r.Step != sandbox.StepMCP })
				if len(calls) == 0 || calls[0].RPC != first || calls[0].Status != http.StatusOK ||
					slices.ContainsFunc(calls[1:], func(r sandbox.Request) bool { return r.RPC == "initialize" }) {
					t.Errorf("the session does not begin with %s alone:\n%s", first, story(s))
				}
				var got struct {
					Tools       []string
					Refreshable bool
				}
				if err := json.Unmarshal(out, &got); err != nil {
					t.Fatal(err)
				}
				if want := tools(t, s); !slices.Equal(got.Tools, want) || !got.Refreshable {
					t.Errorf("it found %+v, want the tools %q", got, want)
				}
				signedInOnce(t, s)
			})
		}
	}
}

// TestMCPRemote has mcp-remote sign in to the sandbox, which finds its browser by BROWSER, and
// talks to it through its standard input.
func TestMCPRemote(t *testing.T) {
	s := testenv.Sandbox(t, sandbox.Options{AutoApprove: true})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.MCPRemote(t, s.URL())
	// Without a desktop, xdg-open asks no other programs.
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "DISPLAY", "WAYLAND_DISPLAY", "XDG_CURRENT_DESKTOP", "DESKTOP_SESSION":
		default:
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "BROWSER="+self, browserEnv+"=1", "MCP_REMOTE_CONFIG_DIR="+t.TempDir())
	var log strings.Builder
	cmd.Stderr = &log
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()

	client := mcp.NewClient(&mcp.Implementation{Name: "interop", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		cancel()
		if cmd.Process != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		t.Fatalf("%v\n%s%s", err, log.String(), story(s))
	}
	defer session.Close()
	got, err := session.ListTools(ctx, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, story(s))
	}
	var names []string
	for _, tool := range got.Tools {
		names = append(names, tool.Name)
	}
	if want := tools(t, s); !slices.Equal(names, want) {
		t.Errorf("it found the tools %q, want %q", names, want)
	}
	signedInOnce(t, s)
}

// tools are those of the sandbox.
func tools(t *testing.T, s *sandbox.Server) (names []string) {
	t.Helper()
	tokens, err := s.Issue("olivia", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	transport := &mcp.StreamableClientTransport{Endpoint: s.URL(), HTTPClient: &http.Client{Transport: bearer(tokens.AccessToken)}, DisableStandaloneSSE: true}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "interop", Version: "1"}, nil).Connect(t.Context(), transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	return names
}

type bearer string

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(req)
}

// signedInOnce holds what the sandbox saw to one registration, one sign-in, one exchange.
func signedInOnce(t *testing.T, s *sandbox.Server) {
	t.Helper()
	n := s.Counts().Requests
	if n[sandbox.StepRegister] != 1 || n[sandbox.StepAuthorize] != 1 || n[sandbox.StepExchange] != 1 {
		t.Errorf("not one sign-in:\n%s", story(s))
	}
}

// story is what the sandbox was asked.
func story(s *sandbox.Server) string {
	var b strings.Builder
	for _, r := range s.Requests() {
		fmt.Fprintf(&b, "%s %s %s%s %s: %d %s\n", r.Step, r.Method, r.Host, r.Path, r.RPC, r.Status, r.Error)
	}
	return b.String()
}

// use is what to do with a session, and what must come of it.
type use struct {
	tool      string
	arguments map[string]any
	says      string

	resource string // "": the first of the list, whatever it holds
	holds    string

	prompt string
	with   map[string]string
	asks   string
}

func (u use) all(ctx context.Context, t *testing.T, session *mcp.ClientSession) {
	t.Helper()
	listed := false
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		listed = listed || tool.Name == u.tool
	}
	if !listed {
		t.Errorf("no tool %s", u.tool)
	}
	u.call(ctx, t, session)

	uri := ""
	for resource, err := range session.Resources(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if uri == "" || resource.URI == u.resource {
			uri = resource.URI
		}
	}
	if u.resource != "" && uri != u.resource {
		t.Errorf("no resource %s", u.resource)
	}
	read, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
	if err != nil {
		t.Fatalf("read %q: %v", uri, err)
	}
	if len(read.Contents) != 1 || read.Contents[0].Text == "" || !strings.Contains(read.Contents[0].Text, u.holds) {
		t.Errorf("%s holds %+v", uri, read.Contents)
	}

	listed = false
	for prompt, err := range session.Prompts(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		listed = listed || prompt.Name == u.prompt
	}
	if !listed {
		t.Errorf("no prompt %s", u.prompt)
	}
	got, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: u.prompt, Arguments: u.with})
	if err != nil {
		t.Fatalf("prompt: %v", err)
	}
	if len(got.Messages) == 0 || !strings.Contains(text(got.Messages[0].Content), u.asks) {
		t.Errorf("prompt: %+v", got.Messages)
	}
}

func (u use) call(ctx context.Context, t *testing.T, session *mcp.ClientSession) {
	t.Helper()
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: u.tool, Arguments: u.arguments})
	if err != nil {
		t.Fatalf("call: %v", err)
	}
	if result.IsError || len(result.Content) == 0 || !strings.Contains(text(result.Content[0]), u.says) {
		t.Errorf("call: %+v", result)
	}
}

func text(c mcp.Content) string {
	if text, ok := c.(*mcp.TextContent); ok {
		return text.Text
	}
	return ""
}

func sdkServer(which string) func(testing.TB) string {
	return func(t testing.TB) string { return testenv.SDKServer(t, which) }
}

// life is that of an access token for a gate.
const life = 3 * time.Second

// A gate stands in front of a server that asks for no sign-in, and is its resource server: it
// lets pass who has a token of its sandbox's, for its own URL.
type gate struct {
	url     string
	sandbox *sandbox.Server
	key     *ecdsa.PublicKey

	mu   sync.Mutex
	good map[string]bool // tokens that passed
}

func newGate(t *testing.T, server string) *gate {
	t.Helper()
	mux := http.NewServeMux()
	front := httptest.NewServer(mux)
	t.Cleanup(front.Close)
	t.Cleanup(front.CloseClientConnections) // a standing event stream would hold Close up
	g := &gate{url: front.URL + "/mcp", good: make(map[string]bool)}
	g.sandbox = testenv.Sandbox(t, sandbox.Options{AutoApprove: true, Resources: []string{g.url}, AccessTTL: life})
	g.key = key(t, g.sandbox.Issuer())

	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.Proxy(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			path := *target
			r.Out.URL, r.Out.Host = &path, target.Host
			r.Out.Header.Del("Authorization")
		},
	})
	const wellKnown = "/.well-known/oauth-protected-resource/mcp"
	mux.Handle(wellKnown, auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource:             g.url,
		AuthorizationServers: []string{g.sandbox.Issuer()},
		ScopesSupported:      []string{"openid", "profile"},
	}))
	mux.Handle("/mcp", auth.RequireBearerToken(g.verify, &auth.RequireBearerTokenOptions{
		ResourceMetadataURL: front.URL + wellKnown,
		Scopes:              []string{"profile"},
	})(proxy))
	return g
}

// verify is an [auth.TokenVerifier].
func (g *gate) verify(_ context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}
	_, err := jwt.ParseWithClaims(token, &claims,
		func(*jwt.Token) (any, error) { return g.key, nil },
		jwt.WithValidMethods([]string{"ES256"}),
		jwt.WithIssuer(g.sandbox.Issuer()),
		jwt.WithAudience(g.url),
		jwt.WithExpirationRequired(),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", auth.ErrInvalidToken, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.good[token] = true
	return &auth.TokenInfo{Scopes: strings.Fields(claims.Scope), Expiration: claims.ExpiresAt.Time, UserID: claims.Subject}, nil
}

// tokens is how many different tokens were good.
func (g *gate) tokens() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.good)
}

// key is the issuer's, by the documents that lead there.
func key(t *testing.T, issuer string) *ecdsa.PublicKey {
	t.Helper()
	var metadata struct {
		JWKSURI string `json:"jwks_uri"`
	}
	get(t, issuer+"/.well-known/openid-configuration", &metadata)
	var set struct{ Keys []struct{ X, Y string } }
	get(t, metadata.JWKSURI, &set)
	if len(set.Keys) != 1 {
		t.Fatalf("%d keys", len(set.Keys))
	}
	return publicKey(t, set.Keys[0].X, set.Keys[0].Y)
}

func publicKey(t *testing.T, x, y string) *ecdsa.PublicKey {
	t.Helper()
	point := []byte{4} // not compressed
	for _, coordinate := range []string{x, y} {
		b, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil {
			t.Fatal(err)
		}
		point = append(point, b...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func get(t *testing.T, url string, v any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s, %v", url, resp.Status, err)
	}
}
