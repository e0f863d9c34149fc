package mcpclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// start starts a sandbox whose sign-in pages answer by themselves.
func start(t *testing.T, o sandbox.Options) *sandbox.Server {
	t.Helper()
	o.AutoApprove = true
	return testenv.Sandbox(t, o)
}

// A fakeBrowser follows redirects, as a browser does whose user has a session.
type fakeBrowser struct {
	opened atomic.Int32
	mu     sync.Mutex
	urls   []string
	status int // of the last page
	client http.Client
}

func newBrowser() *fakeBrowser { return &fakeBrowser{client: *testenv.NewBrowser()} }

func (b *fakeBrowser) open(ctx context.Context, page string) error {
	b.opened.Add(1)
	url, err := testenv.Begin(ctx, &b.client, page)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.urls = append(b.urls, url)
	b.mu.Unlock()
	resp, err := b.client.Get(url)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	b.mu.Lock()
	b.status = resp.StatusCode
	b.mu.Unlock()
	return resp.Body.Close()
}

// lastStatus waits for the last page, which the client may be ahead of.
func (b *fakeBrowser) lastStatus() int {
	for range 1000 {
		b.mu.Lock()
		status := b.status
		b.mu.Unlock()
		if status != 0 {
			return status
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// visit returns the callback address that the pages at address lead to,
// without going there.
func (b *fakeBrowser) visit(t *testing.T, address string) string {
	t.Helper()
	client := b.client
	back := ""
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if req.URL.Query().Has("state") && (req.URL.Query().Has("code") || req.URL.Query().Has("error")) {
			back = req.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if back == "" {
		t.Fatalf("the pages lead nowhere: %d", resp.StatusCode)
	}
	return back
}

func newClient(t *testing.T, srv *sandbox.Server, change func(*mcpclient.Client)) (*mcpclient.Client, *fakeBrowser) {
	t.Helper()
	b := newBrowser()
	c := &mcpclient.Client{
		Name: "Acme Notes", Version: "1.2", Server: srv.URL(), Store: &tokenstore.Memory{},
		OpenBrowser: b.open, SignInTimeout: 20 * time.Second,
	}
	if change != nil {
		change(c)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c, b
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

func callTool(ctx context.Context, session *mcp.ClientSession) error {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err != nil {
		return err
	}
	if res.IsError {
		return fmt.Errorf("tool error: %v", res.Content[0])
	}
	return nil
}

func mustCall(t *testing.T, session *mcp.ClientSession) {
	t.Helper()
	if err := callTool(t.Context(), session); err != nil {
		t.Fatalf("call: %v", err)
	}
}

// steps counts the requests of each step that the sandbox has seen.
func steps(srv *sandbox.Server) map[sandbox.Step]int {
	n := make(map[sandbox.Step]int)
	for _, r := range srv.Requests() {
		if r.Step != "" {
			n[r.Step]++
		}
	}
	return n
}

// advance moves the clocks of both sides.
func advance(t *testing.T, srv *sandbox.Server, d time.Duration) {
	srv.Advance(d)
	t.Cleanup(clock.Advance(d))
}

func TestColdStartTakesEachStepOnceAndWarmStartNone(t *testing.T) {
	for _, protocol := range []string{"modern", "legacy"} {
		t.Run(protocol, func(t *testing.T) {
			srv := start(t, sandbox.Options{Protocol: protocol})
			store := &tokenstore.Memory{}
			c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			mustCall(t, connect(t, c))

			got := steps(srv)
			handshake := got[sandbox.StepMCP]
			delete(got, sandbox.StepMCP)
			want := map[sandbox.Step]int{
				sandbox.StepChallenge: 1, sandbox.StepResourceMetadata: 1, sandbox.StepServerMetadata: 1,
				sandbox.StepRegister: 1, sandbox.StepAuthorize: 1, sandbox.StepExchange: 1,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("cold start (-want +got):\n%s", diff)
			}
			if n := b.opened.Load(); n != 1 {
				t.Errorf("browser opened %d times", n)
			}

			srv.ClearRequests()
			warm, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			mustCall(t, connect(t, warm))
			if diff := cmp.Diff(map[sandbox.Step]int{sandbox.StepMCP: handshake}, steps(srv)); diff != "" {
				t.Errorf("warm start (-want +got):\n%s", diff)
			}
			if n := b.opened.Load(); n != 0 {
				t.Errorf("browser opened %d times", n)
			}
			for _, r := range srv.Requests() {
				if r.UserAgent != "Acme-Notes/1.2" {
					t.Errorf("%s %s has User-Agent %q", r.Method, r.Path, r.UserAgent)
				}
			}
		})
	}
}

func TestManyAtOnceOpenOneBrowser(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	b := newBrowser()
	var wg sync.WaitGroup
	for range 3 {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.OpenBrowser = store, b.open })
		for range 4 {
			wg.Go(func() {
				session, err := c.Connect(t.Context())
				if err != nil {
					t.Errorf("Connect: %v", err)
					return
				}
				defer session.Close()
				if err := callTool(t.Context(), session); err != nil {
					t.Errorf("call: %v", err)
				}
			})
		}
	}
	wg.Wait()
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func TestNonInteractiveNeedsALogin(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
	if _, err := c.Connect(t.Context()); !errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Errorf("Connect: %v", err)
	}
	if n := b.opened.Load(); n != 0 {
		t.Errorf("browser opened %d times", n)
	}
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatalf("Login: %v", err)
	}
	mustCall(t, connect(t, c))
}

func TestDeniedSignInAsksOnce(t *testing.T) {
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied", "error_description": "not today"}})
	c, b := newClient(t, srv, nil)
	_, err := c.Connect(t.Context())
	var denied *authcode.AuthorizationError
	if !errors.As(err, &denied) || !denied.Denied() {
		t.Fatalf("Connect: %v", err)
	}
	if se := new(mcpclient.StepError); !errors.As(err, &se) || se.Step != mcpclient.StepCallback {
		t.Errorf("Connect: %v, want it to name the step callback", err)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestExpiredTokenIsRotatedSilently(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, nil)
	session := connect(t, c)
	for range 3 {
		advance(t, srv, 31*time.Minute)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := callTool(t.Context(), session); err != nil {
					t.Errorf("call: %v", err)
				}
			})
		}
		wg.Wait()
	}
	if n := steps(srv)[sandbox.StepRefresh]; n != 3 {
		t.Errorf("%d refreshes in 3 lives", n)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestStepUpAsksForTheUnion(t *testing.T) {
	srv := start(t, sandbox.Options{ToolScopes: map[string]string{"list_spaces": "spaces:read"}, ChallengeScopes: []string{"openid", "email"}})
	c, b := newClient(t, srv, nil)
	session := connect(t, c)
	mustCall(t, session)
	if n := b.opened.Load(); n != 2 {
		t.Fatalf("browser opened %d times", n)
	}
	scopes := strings.Fields(queryOf(t, b.urls[1]).Get("scope"))
	slices.Sort(scopes)
	if diff := cmp.Diff([]string{"email", "openid", "spaces:read"}, scopes); diff != "" {
		t.Errorf("scopes of the step-up (-want +got):\n%s", diff)
	}
	mustCall(t, session)
	if n := b.opened.Load(); n != 2 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestStepUpThatDoesNotHelpIsBounded(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, b := newClient(t, srv, nil)
	session := connect(t, c)
	srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: 403, Body: "{}", Header: http.Header{
		"Www-Authenticate": {`Bearer error="insufficient_scope", scope="profile"`},
	}})
	var forbidden *mcpclient.ForbiddenError
	for range 3 {
		if err := callTool(t.Context(), session); !errors.As(err, &forbidden) {
			t.Fatalf("call: %v", err)
		}
	}
	if n := b.opened.Load(); n > 3 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestUselessAnswersLeaveTheSessionUsable(t *testing.T) {
	t.Parallel() // clients wait before they try again
	html := http.Header{"Content-Type": {"text/html"}}
	for _, test := range []struct {
		name  string
		fault sandbox.Fault
	}{
		{"plain 403", sandbox.Fault{Status: 403, Body: "no"}},
		{"400", sandbox.Fault{Status: 400, Body: "bad"}},
		{"404 for a stateless server", sandbox.Fault{Status: 404, Body: "gone"}},
		{"410", sandbox.Fault{Status: 410, Body: "gone"}},
		{"429", sandbox.Fault{Status: 429, Body: "slow"}},
		{"500", sandbox.Fault{Status: 500, Body: "oops"}},
		{"503", sandbox.Fault{Status: 503, Body: "later"}},
		{"HTML", sandbox.Fault{Status: 200, Body: "<html>", Header: html}},
		{"no JSON", sandbox.Fault{Status: 200, Body: "hello"}},
		{"JSON that is no message", sandbox.Fault{Status: 200, Body: `{"a":1}`}},
		{"empty", sandbox.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}}},
		{"event that is no message", sandbox.Fault{Status: 200, Body: "data: hello\n\n", Header: http.Header{"Content-Type": {"text/event-stream"}}}},
		{"202", sandbox.Fault{Status: 202}},
		{"204", sandbox.Fault{Status: 204}},
		{"the response to another request", sandbox.Fault{Status: 200, Body: `{"jsonrpc":"2.0","id":7777,"result":{}}`}},
		{"a request in place of a response", sandbox.Fault{Status: 200, Body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`}},
		{"an error without an ID", sandbox.Fault{Status: 200, Body: `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}`}},
		{"a line that is no field", sandbox.Fault{Status: 200, Body: "hello\n\n", Header: http.Header{"Content-Type": {"text/event-stream"}}}},
		{"an empty stream", sandbox.Fault{Status: 200, Body: "\n", Header: http.Header{"Content-Type": {"text/event-stream"}}}},
		{"event cut off", sandbox.Fault{Status: 200, Body: `data: {"jsonrpc":"2.0","id":`, Header: http.Header{"Content-Type": {"text/event-stream"}}}},
		{"dropped", sandbox.Fault{Drop: true}},
		{"redirect elsewhere", sandbox.Fault{Status: 307, Body: "x", Header: http.Header{"Location": {"https://elsewhere.example/"}}}},
	} {
		for _, protocol := range []string{"modern", "legacy"} {
			t.Run(test.name+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				srv := start(t, sandbox.Options{Protocol: protocol})
				c, b := newClient(t, srv, nil)
				session := connect(t, c)
				mustCall(t, session)
				fault := test.fault
				if protocol == "legacy" && fault.Status == 404 {
					fault.Times = 1
				}
				undo := srv.Fail(sandbox.StepMCP, fault)
				err := callTool(t.Context(), session)
				if err == nil && fault.Times == 0 {
					t.Error("the faulty call succeeded")
				}
				undo()
				mustCall(t, session)
				if n := b.opened.Load(); n != 1 {
					t.Errorf("browser opened %d times", n)
				}
			})
		}
	}
}

func TestConnectIsNotHeldUpByTheStream(t *testing.T) {
	for _, status := range []int{401, 403, 404, 405, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			srv := start(t, sandbox.Options{Protocol: "legacy"})
			srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: status, Body: "no", Match: func(r *http.Request) bool { return r.Method == "GET" }})
			c, b := newClient(t, srv, func(c *mcpclient.Client) { c.MCP = &mcp.ClientOptions{} })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			session, err := c.Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			mustCall(t, session)
			if n := b.opened.Load(); n != 1 {
				t.Errorf("browser opened %d times", n)
			}
		})
	}
}

func TestAccountsShareARegistrationAndNothingElse(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	first, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
	second, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.Account = store, "work" })
	if err := first.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := second.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if n := steps(srv)[sandbox.StepRegister]; n != 1 {
		t.Errorf("%d registrations", n)
	}
	if got := queryOf(t, b.urls[0]).Get("prompt"); got != "select_account" {
		t.Errorf("prompt of a second account is %q", got)
	}
	if _, err := first.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, err := second.Status(t.Context()); err != nil || !st.SignedIn {
		t.Errorf("second account after the first has signed out: %+v, %v", st, err)
	}
}

func TestOfflineAccessIsAskedForOnRequestOnly(t *testing.T) {
	srv := start(t, sandbox.Options{ChallengeScopes: []string{"openid"}})
	c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Scopes = []string{"offline_access"} })
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	q := queryOf(t, b.urls[0])
	if q.Get("scope") != "openid offline_access" || q.Get("prompt") != "consent" {
		t.Errorf("scope %q, prompt %q", q.Get("scope"), q.Get("prompt"))
	}
	st, err := c.Status(t.Context())
	if err != nil || !st.RefreshForever {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestLogout(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault sandbox.Fault
		step  sandbox.Step
		want  mcpclient.Revocation
	}{
		{"revoked", sandbox.Fault{}, "", mcpclient.Revoked},
		{"failed", sandbox.Fault{Status: 503, Body: "x"}, sandbox.StepRevoke, mcpclient.RevocationFailed},
		{"not offered", sandbox.Fault{Set: map[string]any{"revocation_endpoint": nil}}, sandbox.StepServerMetadata, mcpclient.RevocationMissing},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := start(t, sandbox.Options{CheckSession: true})
			if test.step != "" {
				srv.Fail(test.step, test.fault)
			}
			c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
			if err := c.Login(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			session := connect(t, c)
			res, err := c.Logout(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if res.Revocation != test.want || (res.Err != nil) != (test.want == mcpclient.RevocationFailed) {
				t.Errorf("Logout: %+v", res)
			}
			if left := res.AccessUntil.Sub(clock.Now()); left <= 29*time.Minute || left > 30*time.Minute {
				t.Errorf("access token may live on for %v", left)
			}
			if st, err := c.Status(t.Context()); err != nil || st.SignedIn {
				t.Errorf("Status: %+v, %v", st, err)
			}
			if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrLoginRequired) {
				t.Errorf("call after logout: %v", err)
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) {
		c, _ := newClient(t, start(t, sandbox.Options{}), nil)
		if res, err := c.Logout(t.Context()); err != nil || res.Revocation != mcpclient.RevocationNotNeeded {
			t.Errorf("Logout: %+v, %v", res, err)
		}
	})
}

func TestRefusedNewTokenIsExplainedAndNotAskedForAgain(t *testing.T) {
	srv := start(t, sandbox.Options{})
	srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: 401, Body: "no", Header: http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}})
	c, b := newClient(t, srv, nil)
	_, err := c.Connect(t.Context())
	var refused *mcpclient.TokenRefusedError
	if !errors.As(err, &refused) || refused.Resource != srv.Resource() {
		t.Errorf("Connect: %v", err)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
	if n := steps(srv)[sandbox.StepRefresh]; n > 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestCancelledCallerLeavesTheSignInToOthers(t *testing.T) {
	srv := start(t, sandbox.Options{})
	gate := make(chan struct{})
	b := newBrowser()
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		c.OpenBrowser = func(ctx context.Context, url string) error {
			select {
			case <-gate:
				return b.open(ctx, url)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := c.Connect(ctx); first <- err }()
	go func() {
		session, err := c.Connect(t.Context())
		if err == nil {
			_ = session.Close()
		}
		second <- err
	}()
	for steps(srv)[sandbox.StepRegister] == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first Connect: %v", err)
	}
	close(gate)
	if err := <-second; err != nil {
		t.Errorf("second Connect: %v", err)
	}
}

func TestTokensGoToTheServersOriginOnly(t *testing.T) {
	srv := start(t, sandbox.Options{})
	c, _ := newClient(t, srv, nil)
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var leaked atomic.Bool
	l := listen(t, func(w http.ResponseWriter, r *http.Request) { leaked.Store(r.Header.Get("Authorization") != "") })
	hc := c.HTTPClient()
	resp, err := hc.Get(l)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	srv.Fail(sandbox.StepAPI, sandbox.Fault{Status: 307, Body: "x", Header: http.Header{"Location": {l}}})
	resp, err = hc.Get(srv.APIURL() + "/api/v1/projects")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 307 {
		t.Errorf("redirect to another origin was followed: %d", resp.StatusCode)
	}
	if leaked.Load() {
		t.Error("the token went to another origin")
	}
}

func TestLogHasEachOperation(t *testing.T) {
	srv := start(t, sandbox.Options{})
	var log testenv.Buffer
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	session := connect(t, c)
	advance(t, srv, 31*time.Minute)
	mustCall(t, session)
	if _, err := c.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"discovery", "dcr", "callback", "tokenstore", "refresh", "mcpclient"} {
		if !strings.Contains(log.String(), fmt.Sprintf("%q:%q", "step", step)) {
			t.Errorf("the log has no step %s", step)
		}
	}
}

func TestGrantOfAnotherResourceOrClientIsNotUsed(t *testing.T) {
	srv := start(t, sandbox.Options{})
	store := &tokenstore.Memory{}
	id, secret := srv.App()
	plain := func(c *mcpclient.Client) { c.Store = store }
	app := func(c *mcpclient.Client) {
		c.Store, c.Resource = store, mcpclient.NoResource
		c.Registration = mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret)}
	}
	for _, test := range []struct {
		name        string
		holds, uses func(*mcpclient.Client)
	}{{"MCP grant, confidential app", plain, app}, {"confidential app's grant, MCP", app, plain}} {
		t.Run(test.name, func(t *testing.T) {
			holder, _ := newClient(t, srv, test.holds)
			if err := holder.Login(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			user, b := newClient(t, srv, func(c *mcpclient.Client) { test.uses(c); c.NonInteractive = true })
			if st, err := user.Status(t.Context()); err != nil || st.SignedIn {
				t.Errorf("Status: %+v, %v", st, err)
			}
			if _, err := user.Connect(t.Context()); !errors.Is(err, mcpclient.ErrLoginRequired) {
				t.Errorf("Connect: %v", err)
			}
			if n := b.opened.Load(); n != 0 {
				t.Errorf("browser opened %d times", n)
			}
			if st, err := holder.Status(t.Context()); err != nil || !st.SignedIn {
				t.Errorf("the holder's own status: %+v, %v", st, err)
			}
		})
	}
}
