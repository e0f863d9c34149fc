package gosdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/sandbox"
)

const (
	// redirectURL is that of every client.
	redirectURL = "http://127.0.0.1/callback"
	// patience bounds every wait for something that must come.
	patience = 20 * time.Second
	// impatience is how long is waited for what is known not to come.
	impatience = 2 * time.Second
)

// errDenied is what the SDK's callback, which is not part of it, returns.
var errDenied = errors.New("the user has denied it")

// An env is what one client under test meets in one case.
type env struct {
	t        *testing.T
	kind     kind
	srv      *sandbox.Server
	server   string // what programs connect to
	wire     *wire
	browser  *browser
	disk     string        // what programs keep is in this folder
	passed   time.Duration // how far the clocks have been moved
	programs []program
	ends     []func()

	clientID, document string // of a client made by hand, of a client metadata document
	acceptIss          bool   // the SDK's AcceptUnadvertisedIss
}

// through plays the case of a row with a client of that kind.
func through(t *testing.T, r row, k kind) (happened string, right bool) {
	dir := t.TempDir()
	e := &env{t: t, kind: k, wire: &wire{}, browser: &browser{}, disk: filepath.Join(dir, "disk")}
	if err := os.Mkdir(e.disk, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() {
		e.wire.release()
		for _, p := range e.programs {
			p.stop()
		}
		for _, end := range e.ends {
			end()
		}
	}()
	return r.play(e)
}

// serve starts a sandbox whose sign-in pages answer by themselves.
func (e *env) serve(o sandbox.Options) {
	o.AutoApprove = true
	srv, err := sandbox.Start(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.ends = append(e.ends, func() { _ = srv.Close() })
	e.srv, e.server = srv, srv.URL()
}

// listen starts another server.
func (e *env) listen(h http.HandlerFunc) (origin string) {
	srv := httptest.NewServer(h)
	e.ends = append(e.ends, srv.Close)
	return srv.URL
}

// run starts a program.
func (e *env) run() program {
	p := e.kind.run(e)
	e.programs = append(e.programs, p)
	return p
}

// connects starts a program and signs it in.
func (e *env) connects() (program, *mcp.ClientSession) {
	p := e.run()
	return p, e.connect(p)
}

func (e *env) connect(p program) *mcp.ClientSession {
	session, err := e.try(p)
	if err != nil {
		e.t.Fatalf("Connect: %v", err)
	}
	return session
}

func (e *env) try(p program) (*mcp.ClientSession, error) {
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	return p.connect(ctx)
}

// pass moves all clocks.
func (e *env) pass(d time.Duration) {
	e.srv.Advance(d)
	e.ends = append(e.ends, clock.Advance(d))
	e.passed += d
	for _, p := range e.programs {
		p.age(d)
	}
}

// await waits for something that must come.
func (e *env) await(it <-chan struct{}) {
	select {
	case <-it:
	case <-time.After(patience):
		e.t.Fatal("it does not come")
	}
}

func (e *env) call(session *mcp.ClientSession) error {
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	return call(ctx, session)
}

func call(ctx context.Context, session *mcp.ClientSession) error {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err == nil && res.IsError {
		err = fmt.Errorf("tool error: %v", res.Content[0])
	}
	return err
}

// goesOn tells whether a session is of use, now that nothing is in its way.
func (e *env) goesOn(session *mcp.ClientSession) (string, bool) {
	for range 2 {
		if e.call(session) == nil {
			return "the session goes on", true
		}
	}
	return "the session is closed for good", false
}

// steps counts the requests of a step, those that failed with code if it is not "".
func (e *env) steps(step sandbox.Step, code string) int {
	count := 0
	for _, r := range e.srv.Requests() {
		if r.Step == step && (code == "" || r.Error == code) {
			count++
		}
	}
	return count
}

// registered tells what it took to get in.
func (e *env) registered() string {
	return n(e.browser.count(), "browser") + ", " + n(e.steps(sandbox.StepRegister, ""), "client") + " registered"
}

// fate tells what became of an attempt.
func fate(p program, err error) string {
	if err == nil {
		return "succeeds"
	}
	if name := p.names(err); name != "" {
		return "fails with " + name
	}
	return "fails with an error that has no type"
}

// n counts things.
func n(count int, thing string) string {
	if count == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", count, thing)
}

// A browser is one whose user has a session at the authorization server.
type browser struct {
	mu     sync.Mutex
	urls   []string
	before func() // if not nil, it is called before each visit
}

// visit goes to address and returns the callback address that it leads to,
// without going there.
func (b *browser) visit(ctx context.Context, address string) (*url.URL, error) {
	b.mu.Lock()
	b.urls = append(b.urls, address)
	before := b.before
	b.mu.Unlock()
	if before != nil {
		before()
	}
	var back *url.URL
	resp, err := get(ctx, &http.Client{CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if q := req.URL.Query(); q.Has("state") && (q.Has("code") || q.Has("error")) {
			back = req.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}, address)
	if err != nil {
		return nil, err
	}
	if back == nil {
		return nil, fmt.Errorf("the pages lead nowhere: %s", resp.Status)
	}
	return back, nil
}

func (b *browser) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.urls)
}

// asked returns a parameter of the latest authorization request.
func (b *browser) asked(t *testing.T, name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.urls) == 0 {
		t.Fatal("no browser was opened")
	}
	u, err := url.Parse(b.urls[len(b.urls)-1])
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get(name)
}

func get(ctx context.Context, client *http.Client, address string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp, resp.Body.Close()
}

// A wire is the transport under each client. It sees the forms that are posted,
// can hold refreshes back, and has hosts of its own.
type wire struct {
	mu      sync.Mutex
	forms   []url.Values
	hosts   map[string]http.HandlerFunc
	gate    chan struct{} // if not nil, refreshes wait until it is closed
	waiting chan struct{} // gets one for each that waits
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	host := w.hosts[req.URL.Host]
	w.mu.Unlock()
	if host != nil {
		rec := httptest.NewRecorder()
		host(rec, req)
		if req.Body != nil {
			_ = req.Body.Close()
		}
		resp := rec.Result()
		resp.Request = req
		return resp, nil
	}
	if req.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, err
		}
		if err := w.form(req, form); err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	return http.DefaultTransport.RoundTrip(req)
}

func (w *wire) form(req *http.Request, form url.Values) error {
	w.mu.Lock()
	w.forms = append(w.forms, form)
	gate, waiting := w.gate, w.waiting
	w.mu.Unlock()
	if gate == nil || form.Get("grant_type") != "refresh_token" {
		return nil
	}
	select {
	case waiting <- struct{}{}:
	default:
	}
	select {
	case <-gate:
		return nil
	case <-req.Context().Done():
		return req.Context().Err()
	}
}

// hold holds refreshes back until release. What it returns gets one for each
// that is held.
func (w *wire) hold() (held <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate, w.waiting = make(chan struct{}), make(chan struct{}, 1)
	return w.waiting
}

func (w *wire) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gate != nil {
		close(w.gate)
		w.gate = nil
	}
}

// sent counts how often a parameter was posted, and how many different ones.
func (w *wire) sent(name string) (times, different int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	for _, f := range w.forms {
		if f.Has(name) {
			times++
			seen[f.Get(name)] = true
		}
	}
	return times, len(seen)
}
