package mcpclient_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Long sessions: what happens to the servers and the account while one
// *mcp.ClientSession is in use. Each test ends with calls on that session.

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

func TestTheServerIsRestarted(t *testing.T) {
	eras(t, func(t *testing.T, protocol string) {
		t.Parallel()
		srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: true})
		wire := new(line)
		c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Transport, c.MCP = wire.transport(), &mcp.ClientOptions{} })
		session := connect(t, c)
		mustCall(t, session)
		streams := func() (open int) {
			for _, r := range srv.Requests() {
				if r.Method == http.MethodGet && r.Path == "/mcp" && r.Status == http.StatusOK {
					open++
				}
			}
			return open
		}
		for n := range 2 {
			if protocol == "legacy" {
				eventually(t, "the standalone stream is open", func() bool { return streams() > n })
			}
			wire.set(true)
			srv.EndMCPSessions()
			err := callTool(t.Context(), session)
			if !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, mcpclient.ErrNoAnswer) {
				t.Errorf("a call while nobody listens: %v", err)
			}
			wire.set(false)
			mustCall(t, session)
		}
		if protocol == "legacy" {
			eventually(t, "the standalone stream is open once more", func() bool { return streams() > 2 })
		}
		wantOpened(t, b, 1)
		wantSteps(t, srv, sandbox.StepRefresh, 0)
	})
}

// With a sandbox, the authorization server goes too, and another one with
// another issuer takes its place: only a sign-in helps.
func TestTheServerIsRestartedWithoutItsGrants(t *testing.T) {
	for _, test := range []struct {
		name   string
		later  time.Duration
		signin bool // may be started by a call
	}{
		{"while the access token is new", time.Second, true},
		{"while the access token lives", 5 * time.Minute, true},
		{"after the access token has expired", 31 * time.Minute, true},
		{"with nobody to ask, while the access token lives", 5 * time.Minute, false},
		{"with nobody to ask, after the access token has expired", 31 * time.Minute, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				old := start(t, sandbox.Options{Protocol: protocol})
				c, b := newClient(t, old, func(c *mcpclient.Client) { c.NonInteractive = !test.signin })
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				session := connect(t, c)
				mustCall(t, session)

				if err := old.Close(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(clock.Advance(test.later))
				if err := callTool(t.Context(), session); err == nil || errors.Is(err, mcpclient.ErrLoginRequired) {
					t.Errorf("a call while nobody listens: %v", err)
				}
				srv := start(t, sandbox.Options{Protocol: protocol, Listen: strings.TrimPrefix(old.APIURL(), "http://")})
				srv.Advance(time.Until(clock.Now()))
				t.Cleanup(clock.Advance(2 * time.Minute)) // past the back-off, and the last look at the metadata

				if !test.signin {
					for range 2 {
						if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrLoginRequired) {
							t.Errorf("call: %v", err)
						}
					}
					wantOpened(t, b, 1)
					if err := c.Login(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				mustCall(t, session)
				mustCall(t, session)
				wantOpened(t, b, 2)
				wantSteps(t, srv, sandbox.StepRegister, 1)
				wantSteps(t, srv, sandbox.StepRefresh, 0)
			})
		})
	}
}

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

// The ways in which a connection ends before the answer has come.
var cuts = map[string]func(http.ResponseWriter, *httptest.ResponseRecorder){
	"before the headers": func(http.ResponseWriter, *httptest.ResponseRecorder) { panic(http.ErrAbortHandler) },
	"before the body": func(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"in the body": func(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
}

// quietEnd ends a stream of events in good order, but without the answer.
func quietEnd(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	events(w, ": nothing\n\n")
}

// What may have been carried out is carried out once more only if that is
// safe by what the tool said of itself, and if it was listed.
func TestTheConnectionIsCutInACall(t *testing.T) {
	type server struct {
		protocol string
		json     bool
		cut      string
		spoil    func(http.ResponseWriter, *httptest.ResponseRecorder)
	}
	var servers []server
	for _, protocol := range []string{"modern", "legacy"} {
		for _, json := range []bool{false, true} {
			for name, spoil := range cuts {
				servers = append(servers, server{protocol, json, name, spoil})
			}
		}
		servers = append(servers, server{protocol, false, "at the end of an event", quietEnd})
	}
	for _, test := range []struct {
		tool         string
		listed, safe bool
	}{
		{"read", true, true},
		{"set", true, true},
		{"add", true, false},
		{"silent", true, false},
		{"read", false, false},
		{"set", false, false},
	} {
		t.Run(fmt.Sprintf("%s, listed %v", test.tool, test.listed), func(t *testing.T) {
			t.Parallel()
			var wg sync.WaitGroup
			for _, s := range servers {
				b := newToolbox(s.protocol, s.json)
				session := b.connect(t, listen(t, b.ServeHTTP), nil)
				if test.listed {
					if _, err := session.ListTools(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				b.spoilNext(1, s.spoil)
				wg.Go(func() {
					name := fmt.Sprintf("%s, JSON %v, cut %s", s.protocol, s.json, s.cut)
					call := func() error {
						_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: test.tool})
						return err
					}
					want := 1
					if err := call(); test.safe {
						if want++; err != nil {
							t.Errorf("%s: %v", name, err)
						}
					} else if !errors.Is(err, mcpclient.ErrNoAnswer) {
						t.Errorf("%s: %v, want ErrNoAnswer", name, err)
					}
					if n := b.count(test.tool); n != want {
						t.Errorf("%s: carried out %d times, want %d", name, n, want)
					}
					// The server may still be at work on the first one.
					if want == 2 && b.ids[0] == b.ids[1] {
						t.Errorf("%s: both have the ID %s", name, b.ids[0])
					}
					if err := call(); err != nil {
						t.Errorf("%s: the session is of no use: %v", name, err)
					}
				})
			}
			wg.Wait()
		})
	}
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

// A server that is cut off again and again is asked three times, no more.
func TestTheConnectionIsCutInEachRepetition(t *testing.T) {
	t.Parallel()
	b := newToolbox("modern", false)
	session := b.connect(t, listen(t, b.ServeHTTP), nil)
	if _, err := session.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b.spoilNext(100, quietEnd)
	_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
	if !errors.Is(err, mcpclient.ErrNoAnswer) || b.count("read") != 3 {
		t.Errorf("%v after it was carried out %d times", err, b.count("read"))
	}
}

// A list of tools that has changed, or of another server, says nothing any more.
func TestAChangedListOfToolsMakesNoCallSafe(t *testing.T) {
	b := newToolbox("legacy", false)
	told := make(chan struct{}, 10)
	session := b.connect(t, listen(t, b.ServeHTTP), func(c *mcpclient.Client) {
		c.MCP = &mcp.ClientOptions{ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { told <- struct{}{} }}
	})
	if _, err := session.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mcp.AddTool(b.server, &mcp.Tool{Name: "read"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.done["read"]++ // it writes by now
		return &mcp.CallToolResult{Content: []mcp.Content{}}, nil, nil
	})
	<-told
	b.spoilNext(1, quietEnd)
	_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
	if !errors.Is(err, mcpclient.ErrNoAnswer) || b.count("read") != 1 {
		t.Errorf("%v after it was carried out %d times", err, b.count("read"))
	}
}

// serveTools is serve with a list of two tools.
func (s *legacyServer) serveTools(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var msg struct {
		ID     json.RawMessage
		Method string
	}
	if _ = json.Unmarshal(body, &msg); msg.Method != "tools/list" {
		s.serve(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[`+
		`{"name":"read","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},`+
		`{"name":"add","inputSchema":{"type":"object"}}]}}`, msg.ID)
}

// Of a stream that could be resumed, the answer is lost with the session, or
// with a server that keeps no events: see TestTheStreamOfACallIsResumed for
// one that does.
func TestTheStreamOfACallIsCutAndCannotBeResumed(t *testing.T) {
	for _, test := range []struct {
		tool   string
		status int // of the answer to who resumes; 0: the session is forgotten too
		safe   bool
	}{
		{"read", 0, true},
		{"add", 0, false},
		{"read", http.StatusMethodNotAllowed, true},
		{"add", http.StatusMethodNotAllowed, false},
	} {
		t.Run(fmt.Sprint(test.tool, test.status), func(t *testing.T) {
			t.Parallel()
			s := newLegacyServer(t)
			var calls atomic.Int32
			s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
				if calls.Add(1) > 1 {
					events(w, "id: e2\ndata: "+toolResult(id)+"\n\n")
					return
				}
				events(w, "id: e1\nretry: 10\ndata:\n\n")
				if test.status == 0 {
					s.forget()
				}
			}
			s.get = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(max(test.status, http.StatusMethodNotAllowed))
			}
			s.url = listen(t, s.serveTools)
			session := s.connect(t)
			if _, err := session.ListTools(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			want := int32(1)
			if _, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: test.tool}); test.safe {
				if want++; err != nil {
					t.Errorf("call: %v", err)
				}
			} else if !errors.Is(err, mcpclient.ErrNoAnswer) {
				t.Errorf("call: %v, want ErrNoAnswer", err)
			}
			if n := calls.Load(); n != want {
				t.Errorf("%d calls, want %d", n, want)
			}
			mustCall(t, session)
		})
	}
}

// A minute without the server, on the clock of a bubble: nothing is slept. The
// sockets are pipes for that, all above them is real.
func TestTheServerIsGoneForAMinuteWhileTheStreamIsOpen(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %v", restarted), func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				synctest.Test(t, func(t *testing.T) { goneForAMinute(t, protocol, restarted) })
			})
		})
	}
}

func goneForAMinute(t *testing.T, protocol string, restarted bool) {
	now, wire := newToolbox(protocol, false), new(line)
	told := 0
	serve := func(w http.ResponseWriter, r *http.Request) { now.ServeHTTP(w, r) }
	session := wire.connect(t, serve, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { told++ },
	})
	call := func() error {
		_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
		return err
	}
	news := func() {
		t.Helper()
		told = 0
		mcp.AddTool(now.server, &mcp.Tool{Name: rand.Text()}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		})
		time.Sleep(time.Second)
		synctest.Wait()
		if told == 0 {
			t.Error("the server is not heard")
		}
	}
	time.Sleep(time.Second)
	news()

	wire.set(true)
	before, start := wire.tries(), time.Now()
	if restarted {
		for session := range now.server.Sessions() {
			_ = session.Close()
		}
		now = newToolbox(protocol, false)
	}
	for range 4 {
		asked := time.Now()
		if err := call(); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(asked) != 0 {
			t.Errorf("a call while the server is gone fails after %v: %v", time.Since(asked), err)
		}
		time.Sleep(15 * time.Second)
	}
	if d := time.Since(start); d < time.Minute {
		t.Errorf("it was gone for %v", d)
	}
	if n := wire.tries() - before - 4; n < 2 || n > 10 {
		t.Errorf("the stream was asked for %d times in a minute", n)
	}
	wire.set(false)
	if err := call(); err != nil {
		t.Errorf("a call when the server is back: %v", err)
	}
	time.Sleep(30 * time.Second) // the longest back-off
	news()
	if err := call(); err != nil {
		t.Errorf("call: %v", err)
	}
}

// connect returns a session with what serves in memory, for a bubble.
func (l *line) connect(t *testing.T, serve http.HandlerFunc, opts *mcp.ClientOptions) *mcp.ClientSession {
	accepted := make(pipes)
	l.dialer = accepted.dial
	hs := &http.Server{Handler: serve}
	go func() { _ = hs.Serve(accepted) }()
	t.Cleanup(func() { _ = hs.Close() })
	transport := l.transport()
	t.Cleanup(transport.CloseIdleConnections)
	c := &mcpclient.Client{Server: "http://127.0.0.1/mcp", Store: &tokenstore.Memory{}, Transport: transport, MCP: opts}
	t.Cleanup(func() { _ = c.Close() })
	return connect(t, c)
}

// pipes is a listener in memory.
type pipes chan net.Conn

func (p pipes) dial(ctx context.Context, network, address string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestTheSessionIDIsKnownNoMore(t *testing.T) {
	srv := start(t, sandbox.Options{Protocol: "legacy"})
	c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.MCP = &mcp.ClientOptions{} }) // with a standalone stream
	session := connect(t, c)
	for range 2 {
		srv.EndMCPSessions()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := callTool(t.Context(), session); err != nil {
					t.Errorf("call: %v", err)
				}
			})
		}
		wg.Wait()
	}
}

// It is renewed before anybody is asked.
func TestTheAccessTokenIsRevokedInMidSession(t *testing.T) {
	eras(t, func(t *testing.T, protocol string) {
		srv := start(t, sandbox.Options{Protocol: protocol})
		c, b := newClient(t, srv, nil)
		session := connect(t, c)
		for n := range 3 {
			advance(t, srv, 2*time.Minute) // a new token that is refused would not be renewed at once
			if err := srv.ExpireAccess("olivia"); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if err := callTool(t.Context(), session); err != nil {
						t.Errorf("call: %v", err)
					}
				})
			}
			wg.Wait()
			wantSteps(t, srv, sandbox.StepRefresh, n+1)
		}
		wantOpened(t, b, 1)
	})
}

func TestTheRefreshTokenIsRevokedInMidSession(t *testing.T) {
	for _, test := range []struct {
		name   string
		access bool // the access token too
	}{{"alone", false}, {"with the access token", true}} {
		t.Run(test.name, func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				revoke := func(srv *sandbox.Server) {
					t.Helper()
					advance(t, srv, 2*time.Minute)
					if err := srv.EndSession("olivia"); err != nil {
						t.Fatal(err)
					}
				}
				t.Run("a call signs in again", func(t *testing.T) {
					srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: test.access})
					c, b := newClient(t, srv, nil)
					session := connect(t, c)
					revoke(srv)
					if !test.access {
						mustCall(t, session) // the access token lives on
						wantOpened(t, b, 1)
						advance(t, srv, 31*time.Minute)
					}
					mustCall(t, session)
					mustCall(t, session)
					wantOpened(t, b, 2)
					wantSteps(t, srv, sandbox.StepRefresh, 1)
				})
				t.Run("nobody to ask", func(t *testing.T) {
					srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: test.access})
					c, b := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
					if err := c.Login(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					session := connect(t, c)
					revoke(srv)
					if !test.access {
						mustCall(t, session)
						advance(t, srv, 31*time.Minute)
					}
					for range 3 {
						if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrLoginRequired) {
							t.Fatalf("call: %v", err)
						}
					}
					wantSteps(t, srv, sandbox.StepRefresh, 1)
					wantOpened(t, b, 1)
					if err := c.Login(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					mustCall(t, session)
				})
			})
		})
	}
}

// Its user registers anew at the next sign-in, which is one: no page that leads
// nowhere is shown before it.
func TestTheClientIsDeletedAtTheServer(t *testing.T) {
	delete := func(t *testing.T, srv *sandbox.Server, c *mcpclient.Client) (id string) {
		t.Helper()
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.DeleteClient(st.ClientID); err != nil {
			t.Fatal(err)
		}
		return st.ClientID
	}
	check := func(t *testing.T, srv *sandbox.Server, c *mcpclient.Client, b *fakeBrowser, old string) {
		t.Helper()
		wantOpened(t, b, 2)
		wantSteps(t, srv, sandbox.StepRegister, 2)
		if st, err := c.Status(t.Context()); err != nil || st.ClientID == old {
			t.Errorf("the deleted client is still in use: %v", err)
		}
	}
	eras(t, func(t *testing.T, protocol string) {
		for _, later := range []time.Duration{2 * time.Minute, 31 * time.Minute} {
			t.Run(fmt.Sprintf("a call after %v signs in again", later), func(t *testing.T) {
				srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: true})
				c, b := newClient(t, srv, nil)
				session := connect(t, c)
				old := delete(t, srv, c)
				advance(t, srv, later)
				mustCall(t, session)
				check(t, srv, c, b, old)
			})
			t.Run(fmt.Sprintf("a call after %v with nobody to ask", later), func(t *testing.T) {
				srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: true})
				c, b := newClient(t, srv, func(c *mcpclient.Client) { c.NonInteractive = true })
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				session := connect(t, c)
				old := delete(t, srv, c)
				advance(t, srv, later)
				for range 3 {
					if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrLoginRequired) {
						t.Fatalf("call: %v", err)
					}
				}
				wantSteps(t, srv, sandbox.StepRefresh, 1)
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				mustCall(t, session)
				check(t, srv, c, b, old)
			})
		}
		t.Run("a sign-in before any call", func(t *testing.T) {
			srv := start(t, sandbox.Options{Protocol: protocol, CheckSession: true})
			c, b := newClient(t, srv, nil)
			session := connect(t, c)
			old := delete(t, srv, c)
			if err := c.Login(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			mustCall(t, session)
			check(t, srv, c, b, old)
		})
	})
}

// A movingServer is protected by one authorization server, and then by another.
type movingServer struct {
	url string

	mu     sync.Mutex
	issuer string
}

func newMovingServer(t *testing.T, protocol string) *movingServer {
	s := new(movingServer)
	box := newToolbox(protocol, false)
	origin := ""
	origin = listen(t, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		const metadata = "/.well-known/oauth-protected-resource/mcp"
		if r.URL.Path == metadata {
			_ = json.NewEncoder(w).Encode(map[string]any{"resource": s.url, "authorization_servers": []string{s.issuer}})
			return
		}
		if issuerOf(r.Header.Get("Authorization")) != s.issuer {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer resource_metadata=%q", origin+metadata))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		box.ServeHTTP(w, r)
	})
	s.url = origin + "/mcp"
	return s
}

// issuerOf returns the issuer that a token names. Nobody forges one here.
func issuerOf(authorization string) string {
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	if len(parts) != 3 {
		return ""
	}
	var claims struct{ Iss string }
	data, _ := base64.RawURLEncoding.DecodeString(parts[1])
	_ = json.Unmarshal(data, &claims)
	return claims.Iss
}

func (s *movingServer) moveTo(issuer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issuer = issuer
}

// The credentials of the old one are not used at the new one.
func TestTheIssuerIsChanged(t *testing.T) {
	for _, test := range []struct {
		name  string
		later time.Duration
		gone  bool // the old authorization server
	}{
		{"the access token is new", time.Second, false},
		{"the access token lives", 5 * time.Minute, false},
		{"the access token lives, the old one is gone", 5 * time.Minute, true},
		{"the access token has expired", 31 * time.Minute, false},
		{"the access token has expired, the old one is gone", 31 * time.Minute, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				s := newMovingServer(t, protocol)
				old := start(t, sandbox.Options{Resources: []string{s.url}})
				next := start(t, sandbox.Options{Resources: []string{s.url}})
				s.moveTo(old.Issuer())
				store := &tokenstore.Memory{}
				interactive, b := newClient(t, old, func(c *mcpclient.Client) { c.Server, c.Store = s.url, store })
				waiting, none := newClient(t, old, func(c *mcpclient.Client) { c.Server, c.Store, c.NonInteractive = s.url, store, true })
				session := connect(t, interactive)
				quiet := connect(t, waiting)
				call := func(session *mcp.ClientSession) error {
					_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
					return err
				}
				if err := errors.Join(call(session), call(quiet)); err != nil {
					t.Fatal(err)
				}

				s.moveTo(next.Issuer())
				if test.gone {
					if err := old.Close(); err != nil {
						t.Fatal(err)
					}
				}
				t.Cleanup(clock.Advance(test.later))
				old.Advance(test.later)
				next.Advance(test.later)
				for range 2 {
					if err := call(quiet); !errors.Is(err, mcpclient.ErrLoginRequired) {
						t.Errorf("a call with nobody to ask: %v", err)
					}
				}
				wantOpened(t, b, 1)
				if err := errors.Join(call(session), call(quiet), call(session)); err != nil {
					t.Errorf("calls after the move: %v", err)
				}
				wantOpened(t, b, 2)
				wantOpened(t, none, 0)
				got := steps(next)
				if got[sandbox.StepRegister] != 1 || got[sandbox.StepExchange] != 1 || got[sandbox.StepRefresh] != 0 {
					t.Errorf("requests at the new authorization server: %v", got)
				}
			})
		})
	}
}

// Another process goes on with the access token for a minute at most, unless
// the server has taken it back; and a sign-in there or here goes on with the session.
func TestALogoutInAnotherProcessEndsThisSessionWithinItsMinute(t *testing.T) {
	eras(t, func(t *testing.T, protocol string) {
		srv := start(t, sandbox.Options{Protocol: protocol})
		// So that the access token lives on, and only we can end the session.
		srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"revocation_endpoint": nil}})
		j := newJob(t, srv)
		c, _ := j.client()
		c.NonInteractive = true
		defer c.Close()
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		session := connect(t, c)
		mustCall(t, session)
		for _, again := range []func(){
			func() {
				if n := runAll(t, j); n != 1 { // which signs in
					t.Errorf("%d browsers were opened", n)
				}
			},
			func() {
				if err := c.Login(t.Context(), nil); err != nil {
					t.Error(err)
				}
			},
		} {
			out := j
			out.Logout = true
			runAll(t, out)
			mustCall(t, session) // it has not looked yet
			t.Cleanup(clock.Advance(time.Minute + time.Second))
			// The call that notices may get through: it looks off the path.
			eventually(t, "calls end", func() bool {
				err := callTool(t.Context(), session)
				if err != nil && !errors.Is(err, mcpclient.ErrLoginRequired) {
					t.Fatal(err)
				}
				return err != nil
			})
			again()
			mustCall(t, session)
		}
	})
}
