package mcpclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func queryOf(t *testing.T, raw string) url.Values {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func listen(t *testing.T, h http.HandlerFunc) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// seed stores a grant, as an earlier sign-in has left it.
func seed(t *testing.T, store tokenstore.Store, key tokenstore.Key, g *tokenstore.Grant) {
	t.Helper()
	err := store.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// eras runs a test against a server of each era of the protocol.
func eras(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range []string{"modern", "legacy"} {
		t.Run(protocol, func(t *testing.T) { test(t, protocol) })
	}
}

// wantOpened checks how often a browser was opened.
func wantOpened(t *testing.T, b *fakeBrowser, want int32) {
	t.Helper()
	if n := b.opened.Load(); n != want {
		t.Errorf("browser opened %d times, want %d", n, want)
	}
}

func wantSteps(t *testing.T, srv *sandbox.Server, step sandbox.Step, want int) {
	t.Helper()
	if n := steps(srv)[step]; n != want {
		t.Errorf("%d requests of the step %s, want %d", n, step, want)
	}
}

// A line is what lies between a client and its servers. The zero value is up.
type line struct {
	dialer func(ctx context.Context, network, address string) (net.Conn, error) // nil: that of package net

	mu    sync.Mutex
	down  bool
	dials int // also in vain
	conns []net.Conn
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dials++
	if l.down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	dial := l.dialer
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, network, address)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

// set cuts all connections, and has new ones refused if it is down.
func (l *line) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func (l *line) tries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials
}

func (l *line) transport() *http.Transport { return &http.Transport{DialContext: l.dial} }

// A toolbox is an MCP server whose tools differ in what they say of themselves.
// It counts what it carries out, and can spoil the answers to calls of tools.
type toolbox struct {
	server *mcp.Server
	serve  http.Handler

	mu    sync.Mutex
	done  map[string]int
	ids   []string                                                       // of calls of tools
	spoil func(w http.ResponseWriter, answer *httptest.ResponseRecorder) // nil: answers are good
}

func newToolbox(protocol string, json bool) *toolbox {
	b := &toolbox{done: make(map[string]int)}
	b.server = mcp.NewServer(&mcp.Implementation{Name: "toolbox", Version: "1"}, nil)
	for name, says := range map[string]*mcp.ToolAnnotations{
		"read": {ReadOnlyHint: true}, "set": {IdempotentHint: true}, "add": {}, "silent": nil,
	} {
		mcp.AddTool(b.server, &mcp.Tool{Name: name, Annotations: says}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.done[name]++
			return &mcp.CallToolResult{Content: []mcp.Content{}}, nil, nil
		})
	}
	b.serve = mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return b.server },
		&mcp.StreamableHTTPOptions{Stateless: protocol == "modern", JSONResponse: json, PropagateRequestCancellation: protocol == "modern"})
	return b
}

func (b *toolbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	b.mu.Lock()
	spoil := b.spoil
	var msg struct {
		ID     json.RawMessage
		Method string
	}
	if _ = json.Unmarshal(body, &msg); msg.Method == "tools/call" {
		b.ids = append(b.ids, string(msg.ID))
	}
	b.mu.Unlock()
	if spoil == nil || msg.Method != "tools/call" {
		b.serve.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	b.serve.ServeHTTP(answer, r)
	spoil(w, answer)
}

// spoilNext spoils so many answers.
func (b *toolbox) spoilNext(times int, spoil func(http.ResponseWriter, *httptest.ResponseRecorder)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spoil = func(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
		b.mu.Lock()
		if times--; times <= 0 {
			b.spoil = nil
		}
		b.mu.Unlock()
		spoil(w, answer)
	}
}

func (b *toolbox) count(tool string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[tool]
}

// connect returns a session with the toolbox at url.
func (b *toolbox) connect(t *testing.T, url string, change func(*mcpclient.Client)) *mcp.ClientSession {
	t.Helper()
	c := &mcpclient.Client{Server: url, Store: &tokenstore.Memory{}}
	if change != nil {
		change(c)
	}
	t.Cleanup(func() { _ = c.Close() })
	return connect(t, c)
}

// connect returns a session with what serves in memory, for a bubble.
func (l *line) connect(t *testing.T, serve http.HandlerFunc, opts *mcp.ClientOptions) *mcp.ClientSession {
	accepted := make(testenv.Pipes)
	l.dialer = accepted.Dial
	hs := &http.Server{Handler: serve}
	go func() { _ = hs.Serve(accepted) }()
	t.Cleanup(func() { _ = hs.Close() })
	transport := l.transport()
	t.Cleanup(transport.CloseIdleConnections)
	c := &mcpclient.Client{Server: "http://127.0.0.1/mcp", Store: &tokenstore.Memory{}, Transport: transport, MCP: opts}
	t.Cleanup(func() { _ = c.Close() })
	return connect(t, c)
}

// jump moves this computer's clock alone.
func jump(t *testing.T, d time.Duration) { t.Cleanup(clock.Advance(d)) }

func record(t *testing.T, srv *sandbox.Server, store tokenstore.Store) tokenstore.Record {
	t.Helper()
	r, err := store.Get(t.Context(), tokenstore.GrantKey(srv.URL(), ""))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// noBrowser has a client use store and fail where only a sign-in helps.
func noBrowser(store tokenstore.Store) func(*mcpclient.Client) {
	return func(c *mcpclient.Client) { c.Store, c.NonInteractive = store, true }
}
