package main

import (
	"bufio"
	"context"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// startSandbox starts a sandbox whose pages are to be filled in.
func startSandbox(t *testing.T) *sandbox.Server {
	t.Helper()
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// startApp starts the application on a port of its own, as run does.
func startApp(t *testing.T, srv *sandbox.Server, change func(*config)) *app {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := config{Server: srv.URL(), URL: "http://" + l.Addr().String(), Store: &tokenstore.Memory{},
		Key: []byte(strings.Repeat("k", 32)), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&c)
	}
	a, err := newApp(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, a, c.Log) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return a
}

// A browser has cookies, follows redirects and fills in forms.
type browser struct {
	t    *testing.T
	http http.Client
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

// A view is the page at which the browser ended up.
type view struct {
	t      *testing.T
	url    *url.URL
	status int
	text   string
}

func (b *browser) do(method, address string, form url.Values) view {
	b.t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return view{b.t, resp.Request.URL, resp.StatusCode, html.UnescapeString(string(text))}
}

// login presses the button, and goes where the page after it leads.
func (b *browser) login(a *app) view {
	b.t.Helper()
	v := b.do("POST", a.URL+"/login", url.Values{})
	onward := refreshTag.FindStringSubmatch(v.text)
	if onward == nil {
		b.t.Fatalf("the page at %s leads nowhere: %d", v.url.Path, v.status)
	}
	return b.get(onward[1])
}

func (b *browser) get(address string) view { b.t.Helper(); return b.do("GET", address, nil) }

var (
	formTag    = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">.*?</form>`)
	refreshTag = regexp.MustCompile(`<meta http-equiv="refresh" content="0; url=([^"]*)">`)
	inputTag   = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// submit sends the first form of a page, with the hidden fields that are not
// given.
func (b *browser) submit(v view, fields url.Values) view {
	b.t.Helper()
	form := formTag.FindStringSubmatch(v.text)
	if form == nil {
		b.t.Fatalf("no form on the page at %s", v.url.Path)
	}
	for _, m := range inputTag.FindAllStringSubmatch(form[0], -1) {
		if !fields.Has(m[1]) {
			fields.Set(m[1], m[2])
		}
	}
	action, err := v.url.Parse(form[1])
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do("POST", action.String(), fields)
}

// approve begins a sign-in and goes as far as the callback, which it returns
// and does not visit.
func (b *browser) approve(a *app, user string) (callback string) {
	b.t.Helper()
	b.http.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if req.URL.Path == "/callback" {
			callback = req.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	defer func() { b.http.CheckRedirect = nil }()
	v := b.login(a)
	v = b.submit(v, url.Values{"username": {user}, "password": {user + "-sandbox"}})
	if !strings.Contains(v.text, appName) {
		b.t.Errorf("the consent page does not name the application")
	}
	b.submit(v, url.Values{"decision": {"approve"}})
	if callback == "" {
		b.t.Fatal("the browser was not sent back")
	}
	return callback
}

func (b *browser) signIn(a *app, user string) view {
	b.t.Helper()
	return b.get(b.approve(a, user))
}

func (v view) has(status int, texts ...string) {
	v.t.Helper()
	if v.status != status {
		v.t.Errorf("%s: status %d, want %d", v.url.Path, v.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(v.text, text) {
			v.t.Errorf("%s: no %q in\n%s", v.url.Path, text, v.text[max(0, strings.Index(v.text, "<body")):])
		}
	}
}

func (v view) hasNot(texts ...string) {
	v.t.Helper()
	for _, text := range texts {
		if strings.Contains(v.text, text) {
			v.t.Errorf("%s shows %q", v.url.Path, text)
		}
	}
}

// Strings that one user sees and the other does not.
const (
	welcome  = "Sign in with Astravue"
	onlyMia  = "Book the typography workshop"
	onlyAdam = "Read the security report"
	ofAdam   = "Office move to Dock Street" // mia is no member
)

func TestSandbox(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-sandbox", "-listen", "127.0.0.1:0"}, write, io.Discard)
		_ = write.Close()
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "Open ")
	if !ok {
		t.Fatalf("said %q", line)
	}
	b := newBrowser(t)
	b.get(address).has(200, welcome)
	b.signIn(&app{config: config{URL: address}}, "mia").has(200, onlyMia)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTwoUsersAtOnce(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	mia, adam := newBrowser(t), newBrowser(t)
	miasCallback, adamsCallback := mia.approve(a, "mia"), adam.approve(a, "adam") // both are under way
	v := mia.get(miasCallback)
	v.has(200, onlyMia, "Mia Lindqvist", "Design the exhibition pages", "Harbor Museum website")
	if v.url.Path != "/" || v.url.RawQuery != "" {
		t.Errorf("the code is still in the address bar: %s", v.url.Path)
	}
	adam.get(adamsCallback).has(200, onlyAdam, "Adam Okafor", ofAdam)

	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			v := mia.get(a.URL)
			v.has(200, onlyMia)
			v.hasNot(onlyAdam, ofAdam, "Adam Okafor")
		})
		wg.Go(func() {
			v := adam.get(a.URL)
			v.has(200, onlyAdam)
			v.hasNot(onlyMia, "Mia Lindqvist")
		})
	}
	wg.Wait()

	got := srv.Counts()
	if got.Clients != 1 || got.Grants != 2 || got.Requests[sandbox.StepExchange] != 2 {
		t.Errorf("%d clients, %d grants, %d exchanges", got.Clients, got.Grants, got.Requests[sandbox.StepExchange])
	}
}

func TestBrowserHoldsNoToken(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	b := newBrowser(t)
	v := b.signIn(a, "mia")
	here, _ := url.Parse(a.URL)
	cookies := b.http.Jar.Cookies(here)
	if len(cookies) != 1 {
		t.Errorf("%d cookies, want the session's alone", len(cookies))
	}
	user := strings.Split(cookies[0].Value, ".")[0]
	r, err := a.Store.Get(t.Context(), tokenstore.GrantKey(srv.URL(), user))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []tokenstore.Secret{r.Grant.AccessToken, r.Grant.RefreshToken} {
		if secret.IsZero() || strings.Contains(v.text, secret.Reveal()) || strings.Contains(cookies[0].Value, secret.Reveal()) {
			t.Error("a token is missing in the store, or has left it")
		}
	}
}

func TestCookies(t *testing.T) {
	srv := startSandbox(t)
	for _, public := range []string{"", "https://board.example.com"} {
		a := startApp(t, srv, func(c *config) {
			if public != "" {
				c.URL = public
			}
		})
		rec := httptest.NewRecorder()
		a.ServeHTTP(rec, httptest.NewRequest("POST", "/login", nil))
		set := rec.Header().Get("Set-Cookie")
		for _, want := range []string{"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"} {
			if !strings.Contains(set, want) {
				t.Errorf("no %s in %s", want, set)
			}
		}
		secure := strings.HasPrefix(set, "__Host-") && strings.Contains(set, "; Secure")
		if secure != (public != "") {
			t.Errorf("at %q: %s", public, set)
		}
		onward := refreshTag.FindStringSubmatch(html.UnescapeString(rec.Body.String()))
		if onward == nil {
			t.Fatalf("status %d, and no way on", rec.Code)
		}
		to, err := url.Parse(onward[1])
		if err != nil || to.Query().Get("redirect_uri") != a.URL+"/callback" {
			t.Errorf("sent to %v, %v", to, err)
		}
	}
}

func TestForgedSession(t *testing.T) {
	a := startApp(t, startSandbox(t), nil)
	victim := newBrowser(t)
	victim.signIn(a, "mia").has(200, onlyMia)
	here, _ := url.Parse(a.URL)
	good := victim.http.Jar.Cookies(here)[0].Value
	user, rest, _ := strings.Cut(good, ".")
	_, mac, _ := strings.Cut(rest, ".")
	other, err := newCookies([]byte(strings.Repeat("x", 32)), false)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"user alone":   user,
		"no signature": user + "." + strings.Split(rest, ".")[0] + ".",
		"longer life":  user + ".99999999999." + mac,
		"other user":   "OTHER." + rest,
		"other key":    other.signed(user, time.Now().Add(time.Hour)),
		"expired":      a.cookies.signed(user, time.Now().Add(-time.Second)),
		"empty":        "",
	} {
		b := newBrowser(t)
		b.http.Jar.SetCookies(here, []*http.Cookie{{Name: sessionCookie, Value: value, Path: "/"}})
		v := b.get(a.URL)
		v.has(200, welcome)
		v.hasNot(onlyMia)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	b := newBrowser(t)
	b.http.Jar.SetCookies(here, []*http.Cookie{{Name: sessionCookie, Value: good, Path: "/"}})
	b.get(a.URL).has(200, onlyMia) // the checks below fail for another reason
}

func TestCallbackOfAnotherBrowser(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	mia, adam := newBrowser(t), newBrowser(t)
	ofMia, ofAdam := mia.approve(a, "mia"), adam.approve(a, "adam")
	here, _ := url.Parse(a.URL)
	pendingOf := func(b *browser) (id, sealed string) {
		for _, c := range b.http.Jar.Cookies(here) {
			if c.Name == pendingCookie {
				id, sealed, _ = strings.Cut(c.Value, ".")
			}
		}
		return id, sealed
	}

	newBrowser(t).get(ofMia).has(400, "No sign-in is under way")
	adam.get(ofMia).has(400, "This is another sign-in")

	// Mia's pending sign-in under Adam's ID.
	id, _ := pendingOf(adam)
	_, sealed := pendingOf(mia)
	thief := newBrowser(t)
	thief.http.Jar.SetCookies(here, []*http.Cookie{{Name: pendingCookie, Value: id + "." + sealed, Path: "/"}})
	thief.get(ofMia).has(400, "This sign-in is over")
	if n := srv.Counts().Requests[sandbox.StepExchange]; n != 0 {
		t.Errorf("%d codes were sent", n)
	}

	// The right callbacks still work after both attempts.
	mia.get(ofMia).has(200, onlyMia)
	adam.get(ofAdam).has(200, onlyAdam)
}

func TestSecondUseOfACallback(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	mia := newBrowser(t)
	callback := mia.approve(a, "mia")
	here, _ := url.Parse(a.URL)
	kept := mia.http.Jar.Cookies(here)
	mia.get(callback).has(200, onlyMia)
	mia.get(callback).has(400, "No sign-in is under way")
	// Also with a copy of the cookie.
	again := newBrowser(t)
	again.http.Jar.SetCookies(here, kept)
	again.get(callback).has(400, "This sign-in is over")
	if n := srv.Counts().Requests[sandbox.StepExchange]; n != 1 {
		t.Errorf("%d codes were sent", n)
	}
	mia.get(a.URL).has(200, onlyMia)
}

func TestDenied(t *testing.T) {
	a := startApp(t, startSandbox(t), nil)
	b := newBrowser(t)
	v := b.submit(b.login(a), url.Values{"username": {"mia"}, "password": {"mia-sandbox"}})
	b.submit(v, url.Values{"decision": {"deny"}}).has(403, "You said no")
	b.get(a.URL).has(200, welcome)
}

func TestLogout(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	mia, adam := newBrowser(t), newBrowser(t)
	mia.signIn(a, "mia").has(200, onlyMia)
	adam.signIn(a, "adam").has(200, onlyAdam)
	here, _ := url.Parse(a.URL)
	kept := mia.http.Jar.Cookies(here)

	if v := mia.get(a.URL + "/logout"); v.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", v.status)
	}
	req, _ := http.NewRequest("POST", a.URL+"/logout", nil)
	req.Header.Set("Origin", "https://evil.example")
	resp, err := mia.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("POST of another site: status %d", resp.StatusCode)
	}
	mia.get(a.URL).has(200, onlyMia)

	mia.submit(mia.get(a.URL), url.Values{}).has(200, "You are signed out", "here and at Astravue")
	mia.get(a.URL).has(200, welcome)
	mia.http.Jar.SetCookies(here, kept)
	mia.get(a.URL).has(200, welcome) // the cookie alone is worth nothing
	adam.get(a.URL).has(200, onlyAdam)
	if got := srv.Counts(); got.Grants != 1 || got.Requests[sandbox.StepRevoke] == 0 {
		t.Errorf("%d grants, %d revocations", got.Grants, got.Requests[sandbox.StepRevoke])
	}
}

func TestSignInThatEndedElsewhere(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	mia, adam := newBrowser(t), newBrowser(t)
	mia.signIn(a, "mia").has(200, onlyMia)
	adam.signIn(a, "adam").has(200, onlyAdam)
	if err := srv.RevokeUser("mia"); err != nil {
		t.Fatal(err)
	}
	mia.get(a.URL).has(200, welcome, "Your sign-in has ended")
	adam.get(a.URL).has(200, onlyAdam)
	mia.signIn(a, "mia").has(200, onlyMia)
}

func TestServerOutOfReach(t *testing.T) {
	t.Parallel() // it waits for further tries
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	b := newBrowser(t)
	b.signIn(a, "mia").has(200, onlyMia)
	undo := srv.Fail(sandbox.StepMCP, sandbox.Fault{Drop: true})
	b.get(a.URL).has(502, "Astravue cannot be reached")
	undo()
	b.get(a.URL).has(200, onlyMia) // still signed in
}

func TestIdleClientsAreDropped(t *testing.T) {
	a := startApp(t, startSandbox(t), nil)
	b := newBrowser(t)
	b.signIn(a, "mia")
	clients := func() int {
		a.users.mu.Lock()
		defer a.users.mu.Unlock()
		return len(a.users.m)
	}
	a.users.sweep()
	if n := clients(); n != 1 {
		t.Fatalf("%d clients, of a user who was here just now", n)
	}
	a.users.idle = 0
	a.users.sweep()
	if n := clients(); n != 0 {
		t.Fatalf("%d clients, all idle", n)
	}
	b.get(a.URL).has(200, onlyMia) // and still signed in
}

// TestReplicas runs two applications that share the store and the key.
func TestReplicas(t *testing.T) {
	srv := startSandbox(t)
	one := startApp(t, srv, nil)
	two := startApp(t, srv, func(c *config) { c.Store = one.Store; c.URL = one.URL }) // behind one address
	b := newBrowser(t)
	callback, _ := url.Parse(b.approve(one, "mia"))

	// The balancer sends the callback to the other one.
	here, _ := url.Parse(one.URL)
	visit := func(path string) *http.Response {
		req := httptest.NewRequest("GET", path, nil)
		for _, c := range b.http.Jar.Cookies(here) {
			req.AddCookie(c)
		}
		rec := httptest.NewRecorder()
		two.ServeHTTP(rec, req)
		b.http.Jar.SetCookies(here, rec.Result().Cookies())
		return rec.Result()
	}
	if got := visit(callback.RequestURI()); got.StatusCode != 303 || got.Header.Get("Location") != "/" {
		t.Errorf("callback at the other replica: %s, to %q", got.Status, got.Header.Get("Location"))
	}
	if got := visit("/"); got.StatusCode != 200 {
		t.Errorf("board at the other replica: %s", got.Status)
	}
	b.get(one.URL).has(200, onlyMia)
	if n := srv.Counts().Clients; n != 1 {
		t.Errorf("%d clients registered", n)
	}
}

// TestWhoMayBeginASignIn links and posts to the sign-in from other sites' pages, in the browser of a
// user who is signed in.
func TestWhoMayBeginASignIn(t *testing.T) {
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	b := newBrowser(t)
	b.signIn(a, "mia").has(200, onlyMia)
	srv.ClearRequests()
	if v := b.get(a.URL + "/login"); v.url.Path != "/" {
		t.Errorf("GET ends at %s", v.url.Path)
	} else {
		v.has(200, onlyMia)
	}
	for _, from := range []http.Header{
		{"Origin": {"https://evil.example"}},
		{"Origin": {"null"}},
		{"Sec-Fetch-Site": {"cross-site"}},
		{"Sec-Fetch-Site": {"same-site"}},
	} {
		req, _ := http.NewRequest("POST", a.URL+"/login", nil)
		req.Header = from
		resp, err := b.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) != 0 {
			t.Errorf("POST of %v: status %d, %d cookies", from, resp.StatusCode, len(resp.Cookies()))
		}
	}
	if n := srv.Counts().Requests[sandbox.StepResourceMetadata]; n != 0 {
		t.Errorf("%d sign-ins were begun", n)
	}
	newBrowser(t).get(a.URL+"/login").has(200, welcome)
}

// TestManySignIns begins sign-ins without end from one browser, while Astravue is slow.
func TestManySignIns(t *testing.T) {
	t.Parallel() // it waits for turns
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	undo := srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Delay: time.Minute})
	ctx, stop := context.WithCancel(t.Context()) // requests with a turn wait until the others are refused
	defer stop()
	var refused atomic.Int32
	var wg sync.WaitGroup
	for range 5 * mostTurns {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", a.URL+"/login", nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("status %d, to try again after %q s", resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			if refused.Add(1) == 4*mostTurns {
				stop()
			}
		})
	}
	wg.Wait()
	if n := srv.Counts().Requests[sandbox.StepResourceMetadata]; n != mostTurns || refused.Load() != 4*mostTurns {
		t.Errorf("%d sign-ins were begun, %d refused", n, refused.Load())
	}

	// A request after that is served.
	undo()
	newBrowser(t).signIn(a, "adam").has(200, onlyAdam)
}

// TestSlowBody sends a request that never ends.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l := &pipeListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		served := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") })
		go func() { served <- serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
		client, server := net.Pipe()
		l.conns <- server
		start := time.Now()
		go func() {
			_, _ = io.WriteString(client, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
		}()
		_, err := io.Copy(io.Discard, client)
		if took := time.Since(start); err != nil || took > time.Minute {
			t.Errorf("the connection is there for %s, %v", took, err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// A pipeListener accepts connections in memory, so that synctest controls their time.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// TestEndlessList lists from a server that always names a next page.
func TestEndlessList(t *testing.T) {
	pages := 0
	server := mcp.NewServer(&mcp.Implementation{Name: "endless"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "list_projects"}, func(context.Context, *mcp.CallToolRequest, map[string]any) (*mcp.CallToolResult, map[string]any, error) {
		pages++
		return nil, map[string]any{"items": []any{map[string]any{"name": "x"}}, "next_cursor": "more"}, nil
	})
	here, there := mcp.NewInMemoryTransports()
	go func() { _ = server.Run(t.Context(), there) }()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(), here, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if all, err := list[project](t.Context(), session, "list_projects", nil); err == nil || pages != mostPages {
		t.Errorf("%d pages, %d rows, %v", pages, len(all), err)
	}
}
