package mcpclient_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// What the MCP project's conformance suite found out, without the suite.

// rawServer is an MCP server that answers each method by hand, and a client of it.
func rawServer(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, method string, id json.RawMessage)) *mcpclient.Client {
	t.Helper()
	url := listen(t, func(w http.ResponseWriter, r *http.Request) {
		var msg struct {
			ID     json.RawMessage
			Method string
		}
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(r.Body).Decode(&msg); err != nil {
				t.Error(err)
			}
			if len(msg.ID) == 0 {
				w.WriteHeader(http.StatusAccepted)
				return
			}
		}
		answer(w, r, msg.Method, msg.ID)
	})
	c := &mcpclient.Client{Server: url, Store: new(tokenstore.Memory), NonInteractive: true}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func reply(w http.ResponseWriter, status int, id json.RawMessage, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, id, body)
}

const (
	initialized = `"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"raw","version":"1"}}`
	discovered  = `"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"raw","version":"1"}}`
	unknown     = `"error":{"code":-32601,"message":"Method not found"}`
)

// MCP 2025-11-25, "Sending Messages to the Server": an event with an ID and
// empty data, after which the server ends the stream, to be asked again.
func TestAnEventWithoutDataSaysWhereToResume(t *testing.T) {
	var call json.RawMessage
	c := rawServer(t, func(w http.ResponseWriter, r *http.Request, method string, id json.RawMessage) {
		switch {
		case r.Method == http.MethodGet && r.Header.Get("Last-Event-Id") == "first":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "id: second\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[]}}\n\n", call)
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case method == "initialize":
			reply(w, 200, id, initialized)
		case method == "tools/call":
			call = id
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: first\nretry: 1\ndata: \n\n")
		default:
			reply(w, 404, id, unknown)
		}
	})
	if _, err := connect(t, c).CallTool(t.Context(), &mcp.CallToolParams{Name: "any"}); err != nil {
		t.Error(err)
	}
}

func TestTheSDKLearnsTheCodeOfAnHTTPError(t *testing.T) {
	var asked atomic.Int32
	c := rawServer(t, func(w http.ResponseWriter, r *http.Request, method string, id json.RawMessage) {
		switch {
		case method == "server/discover" && asked.Add(1) == 1:
			reply(w, 400, id, `"error":{"code":-32022,"message":"no such version","data":{"supported":["2026-07-28"],"requested":"2026-07-28"}}`)
		case method == "server/discover":
			reply(w, 200, id, discovered)
		default:
			reply(w, 400, id, unknown)
		}
	})
	session := connect(t, c)
	if n := asked.Load(); n != 2 {
		t.Errorf("the version was negotiated with %d requests", n)
	}
	for range 2 { // the session goes on
		_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "any"})
		if rpc := new(jsonrpc.Error); !errors.As(err, &rpc) || rpc.Code != -32601 {
			t.Errorf("call: %v", err)
		}
	}
}

// The SDK takes a lost answer to server/discover for an older server.
func TestALostAnswerDoesNotMakeAServerOlder(t *testing.T) {
	t.Parallel() // a client waits before it asks again
	for name, fault := range map[string]sandbox.Fault{
		"lost":            {CarryOut: true, Drop: true},
		"cut off":         {CarryOut: true, Drop: true, Cut: 40},
		"an empty stream": {Status: 200, Body: "\n", Header: http.Header{"Content-Type": {"text/event-stream"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := start(t, sandbox.Options{Protocol: "modern"})
			c, b := newClient(t, srv, nil)
			fault.Times = 1
			srv.Fail(sandbox.StepMCP, fault)
			session := connect(t, c)
			if got := session.InitializeResult().ProtocolVersion; got != "2026-07-28" {
				t.Errorf("the session has protocol version %s", got)
			}
			mustCall(t, session)
			wantOpened(t, b, 1)
		})
	}
}

// insufficient has each request that is about match answered as if more
// scopes were needed.
func insufficient(match, scopes string) http.RoundTripper {
	return testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") != "" && req.Body != nil && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			data, _ := io.ReadAll(body)
			if strings.Contains(string(data), match) {
				_ = req.Body.Close()
				w := httptest.NewRecorder()
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=%q, scope=%q", "insufficient_scope", scopes))
				w.WriteHeader(http.StatusForbidden)
				return w.Result(), nil
			}
		}
		return http.DefaultTransport.RoundTrip(req)
	})
}

func TestScopesThatAreGrantedAreNotSignedInForAgain(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Transport = insufficient(`"tools/call"`, "openid profile") })
	session := connect(t, c)
	for range 2 {
		forbidden := new(mcpclient.ForbiddenError)
		if err := callTool(t.Context(), session); !errors.As(err, &forbidden) || errors.Is(err, mcpclient.ErrLoginRequired) {
			t.Fatalf("call: %v", err)
		}
		if diff := cmp.Diff([]string{"openid", "profile"}, forbidden.Scopes); diff != "" {
			t.Errorf("scopes (-want +got):\n%s", diff)
		}
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
}

// A server of the newest protocol alone refuses initialize, which the SDK
// sends after it was forbidden to ask for more.
func TestAForbiddenConnectSaysSo(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, func(c *mcpclient.Client) {
		forbidding := insufficient(`"server/discover"`, "openid")
		c.Transport = testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") != "" && req.Header.Get("Mcp-Method") != "server/discover" {
				_ = req.Body.Close()
				w := httptest.NewRecorder()
				reply(w, 400, json.RawMessage("null"), unknown)
				return w.Result(), nil
			}
			return forbidding.RoundTrip(req)
		})
	})
	_, err := c.Connect(t.Context())
	if !errors.As(err, new(*mcpclient.ForbiddenError)) {
		t.Errorf("Connect: %v", err)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestScopesToSignInForAreNamed(t *testing.T) {
	srv := start(t, sandbox.Options{ToolScopes: map[string]string{"list_spaces": "spaces:read"}, ChallengeScopes: []string{"openid"}})
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	forbidden := new(mcpclient.ForbiddenError)
	if err := callTool(t.Context(), connect(t, c)); !errors.As(err, &forbidden) || !errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Fatalf("call: %v", err)
	}
	if diff := cmp.Diff([]string{"openid", "spaces:read"}, forbidden.SignInFor); diff != "" {
		t.Errorf("scopes to sign in for (-want +got):\n%s", diff)
	}
	again, _ := newClient(t, srv, func(again *mcpclient.Client) {
		again.Store, again.OpenBrowser, again.Scopes = c.Store, b.open, forbidden.SignInFor
	})
	if err := again.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustCall(t, connect(t, again))
	if n := b.opened.Load(); n != 2 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestAstravuesResourceIsTheDocumentedOne(t *testing.T) {
	documents := map[string]string{
		"/.well-known/oauth-protected-resource":   `{"resource":"https://api.astravue.com","authorization_servers":["https://api.astravue.com"]}`,
		"/.well-known/oauth-authorization-server": `{"issuer":"https://api.astravue.com","authorization_endpoint":"https://auth.astravue.com/a","token_endpoint":"https://auth.astravue.com/t","code_challenge_methods_supported":["S256"]}`,
	}
	for _, test := range []struct{ resource, want string }{
		{"", mcpclient.DefaultServer},
		{"https://example.com/other", "https://example.com/other"},
	} {
		c := &mcpclient.Client{
			Store: new(tokenstore.Memory), Resource: test.resource,
			Registration: mcpclient.Registration{ClientID: "app", RedirectURL: "https://app.example.com/callback"},
			Transport: testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				w.Header().Set("Content-Type", "application/json")
				if doc := documents[req.URL.Path]; doc != "" {
					_, _ = w.WriteString(doc)
				} else if req.URL.Path == "/mcp" {
					w.WriteHeader(http.StatusUnauthorized)
				} else {
					w.WriteHeader(http.StatusNotFound)
				}
				return w.Result(), nil
			}),
		}
		url, _, err := c.BeginLogin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := queryOf(t, url).Get("resource"); got != test.want {
			t.Errorf("Resource %q: resource = %q, want %q", test.resource, got, test.want)
		}
		_ = c.Close()
	}
}
