package mcpclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A legacyServer speaks MCP 2025-11-25 with sessions, asks for no sign-in, and
// has the answers to tool calls and GETs written by the test.
type legacyServer struct {
	url  string
	call func(w http.ResponseWriter, r *http.Request, id json.RawMessage)
	get  http.HandlerFunc

	mu       sync.Mutex
	sessions int
	seen     []string // methods of HTTP and JSON-RPC
}

func newLegacyServer(t *testing.T) *legacyServer {
	s := &legacyServer{
		call: func(w http.ResponseWriter, r *http.Request, id json.RawMessage) { answerJSON(w, id) },
		get:  func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) },
	}
	s.url = listen(t, s.serve) + "/mcp"
	return s
}

func answerJSON(w http.ResponseWriter, id json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, toolResult(id))
}

func toolResult(id json.RawMessage) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}`, id)
}

func (s *legacyServer) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // all of it, so that the server notices when the client goes
	var msg struct {
		ID     json.RawMessage
		Method string
	}
	_ = json.Unmarshal(body, &msg)
	s.mu.Lock()
	s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+msg.Method))
	if msg.Method == "initialize" {
		s.sessions++
	}
	session := fmt.Sprint("session-", s.sessions)
	call, get := s.call, s.get
	s.mu.Unlock()
	if id := r.Header.Get("Mcp-Session-Id"); id != session && (id != "" || r.Method != http.MethodPost) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	switch {
	case r.Method == http.MethodGet:
		get(w, r)
	case msg.Method == "initialize":
		w.Header().Set("Mcp-Session-Id", session)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}}`, msg.ID)
	case msg.Method == "tools/call":
		call(w, r, msg.ID)
	case msg.Method == "server/discover":
		w.WriteHeader(http.StatusBadRequest)
	default:
		w.WriteHeader(http.StatusAccepted)
	}
}

// forget ends the session, as a restart does.
func (s *legacyServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions += 100
}

func (s *legacyServer) count(request string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		if seen == request {
			n++
		}
	}
	return n
}

// connect returns a session, with a standalone stream.
func (s *legacyServer) connect(t *testing.T) *mcp.ClientSession {
	t.Helper()
	c := &mcpclient.Client{Server: s.url, Store: &tokenstore.Memory{}, MCP: &mcp.ClientOptions{}}
	t.Cleanup(func() { _ = c.Close() })
	return connect(t, c)
}

func events(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, text)
	_ = http.NewResponseController(w).Flush()
}

func TestSpellingsOfAnAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"plain":               "data: %s\n\n",
		"named":               "event: message\ndata: %s\n\n",
		"CRLF":                "event: message\r\nid: 1\r\ndata: %s\r\n\r\n",
		"no space":            "data:%s\n\n",
		"no empty line":       "data: %s\n",
		"no end of line":      "data: %s",
		"comments":            ": hello\n\n:\ndata: %s\n\n",
		"unknown fields":      "color: red\nno field\ndata\ndata: %s\n\n",
		"other events first":  "event: ping\ndata: {}\n\ndata: nothing\n\nid: 3\n\ndata: %s\n\n",
		"a notice first":      `data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}` + "\n\ndata: %s\n\n",
		"more than a buffer":  ": " + strings.Repeat("x", 100<<10) + "\ndata: " + strings.Repeat(" ", 100<<10) + "%s\n\n",
		"in more than a line": "data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":[ID],\ndata: \"result\":{\"content\":[]}}\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newLegacyServer(t)
			s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
				if text, ok := strings.CutPrefix(answer, "data: {\"jsonrpc\":\"2.0\",\n"); ok {
					events(w, "data: {\"jsonrpc\":\"2.0\",\n"+strings.ReplaceAll(text, "[ID]", string(id)))
					return
				}
				events(w, strings.Replace(answer, "%s", toolResult(id), 1))
			}
			session := s.connect(t)
			for range 2 {
				mustCall(t, session)
			}
		})
	}
}

func TestAnEventThatIsTooLargeFailsItsCallOnly(t *testing.T) {
	s := newLegacyServer(t)
	var small atomic.Bool
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		pad := 9 << 20
		if small.Load() {
			pad = 7 << 20
		}
		events(w, "data: "+strings.Repeat(" ", pad)+toolResult(id)+"\n\n")
	}
	session := s.connect(t)
	if err := callTool(t.Context(), session); !errors.Is(err, mcpclient.ErrTooLarge) {
		t.Errorf("of 9 MiB: %v", err)
	}
	small.Store(true)
	mustCall(t, session)
}

func TestRedirectsBelowTheServersAddressAreFollowed(t *testing.T) {
	s := newLegacyServer(t)
	url := listen(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/mcp" { // as some frameworks do with the slash
			http.Redirect(w, r, "/mcp/", http.StatusTemporaryRedirect)
			return
		}
		if r.URL.Path == "/round" {
			http.Redirect(w, r, "/round", http.StatusPermanentRedirect)
			return
		}
		s.serve(w, r)
	})
	s.get = func(w http.ResponseWriter, r *http.Request) { events(w, ""); <-r.Context().Done() }
	s.url = url + "/mcp"
	session := s.connect(t)
	mustCall(t, session)
	s.forget()
	mustCall(t, session)
	testenv.Eventually(t, "the stream is open", func() bool { return s.count("GET") > 0 })
	_ = session.Close()

	c := &mcpclient.Client{Server: url + "/round", Store: &tokenstore.Memory{}}
	defer c.Close()
	var answer *mcpclient.AnswerError
	if _, err := c.Connect(t.Context()); !errors.As(err, &answer) || answer.Status != http.StatusPermanentRedirect {
		t.Errorf("Connect in a circle: %v", err)
	}
}

func TestRedirectsOutOfTheServersPathAreAnswers(t *testing.T) {
	for _, target := range []string{"/tenant", "/mcp2", "/mcp/../tenant", "/mcp/..%2ftenant", "/mcp/%2e%2e/tenant", "/mcp;a/../tenant"} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			var reached atomic.Bool
			url := listen(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/mcp" {
					reached.Store(true)
					return
				}
				w.Header().Set("Location", target)
				w.WriteHeader(status)
			})
			c := &mcpclient.Client{Server: url + "/mcp", Store: &tokenstore.Memory{}, NonInteractive: true}
			var answer *mcpclient.AnswerError
			if _, err := c.Connect(t.Context()); !errors.As(err, &answer) || answer.Status != status || reached.Load() {
				t.Errorf("%d to %s: %v, reached %v", status, target, err, reached.Load())
			}
			_ = c.Close()
		}
	}
}

func TestAnOldSessionsAnswerDoesNotBringItBack(t *testing.T) {
	s := newLegacyServer(t)
	held, release := make(chan struct{}), make(chan struct{})
	first := true
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		w.Header().Set("Mcp-Session-Id", r.Header.Get("Mcp-Session-Id"))
		if first {
			first = false
			close(held)
			<-release
		}
		answerJSON(w, id)
	}
	session := s.connect(t)
	slow := make(chan error, 1)
	go func() { slow <- callTool(context.Background(), session) }()
	<-held
	s.forget()
	mustCall(t, session)
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("slow call: %v", err)
	}
	mustCall(t, session)
	if n := s.count("POST initialize"); n != 2 {
		t.Errorf("%d sessions were begun", n)
	}
}

func TestManyFindTheSessionForgottenAndOneBeginsAnother(t *testing.T) {
	s := newLegacyServer(t)
	session := s.connect(t)
	s.forget()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := callTool(t.Context(), session); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	}
	wg.Wait()
	if n := s.count("POST initialize"); n != 2 {
		t.Errorf("%d sessions were begun", n)
	}
}

func TestTheStreamOfACallIsResumed(t *testing.T) {
	t.Parallel() // it waits for a second try
	s := newLegacyServer(t)
	answers := make(chan json.RawMessage, 1)
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		answers <- id
		events(w, "id: e1\nretry: 10\ndata:\n\n")
	}
	var tries atomic.Int32
	s.get = func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Last-Event-Id") {
		case "": // the standalone stream
			w.WriteHeader(http.StatusMethodNotAllowed)
		case "e1":
			if tries.Add(1) == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			events(w, "id: e2\ndata:\n\n")
		case "e2":
			events(w, "data: "+toolResult(<-answers)+"\n\n")
			<-r.Context().Done() // it leaves the stream open
		}
	}
	session := s.connect(t)
	mustCall(t, session)
}

func TestTheStreamOfACallEndsWithItsSession(t *testing.T) {
	s := newLegacyServer(t)
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		events(w, "id: e1\nretry: 10\ndata:\n\n")
		s.forget()
	}
	session := s.connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := callTool(ctx, session); err == nil || ctx.Err() != nil {
		t.Errorf("the call whose answer is lost: %v", err)
	}
	s.mu.Lock()
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) { answerJSON(w, id) }
	s.mu.Unlock()
	mustCall(t, session)
}

func TestTheStandaloneStream(t *testing.T) {
	t.Parallel() // it waits for second tries
	t.Run("asks again when the server says, once", func(t *testing.T) {
		t.Parallel()
		s := newLegacyServer(t)
		times := make(chan time.Time, 10)
		n := 0
		s.get = func(w http.ResponseWriter, r *http.Request) {
			times <- time.Now()
			switch n++; n {
			case 1:
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				events(w, "id: e1\ndata:\n\n")
			case 3:
				events(w, "")
				<-r.Context().Done()
			}
		}
		s.connect(t)
		first, second, third := <-times, <-times, <-times
		if d := second.Sub(first); d < 2900*time.Millisecond {
			t.Errorf("asked again after %v", d)
		}
		if d := third.Sub(second); d > 2800*time.Millisecond {
			t.Errorf("an old Retry-After is kept: %v", d)
		}
	})
	t.Run("begins anew in another session", func(t *testing.T) {
		t.Parallel()
		s := newLegacyServer(t)
		opened := make(chan string, 10)
		cut := make(chan struct{}, 1)
		s.get = func(w http.ResponseWriter, r *http.Request) {
			opened <- r.Header.Get("Mcp-Session-Id") + " " + r.Header.Get("Last-Event-Id")
			events(w, "id: "+r.Header.Get("Mcp-Session-Id")+"-e1\ndata:\n\n")
			select {
			case <-cut:
			case <-r.Context().Done():
			}
		}
		session := s.connect(t)
		got := []string{<-opened}
		cut <- struct{}{}
		got = append(got, <-opened)
		s.forget()
		mustCall(t, session)
		cut <- struct{}{}
		got = append(got, <-opened)
		want := []string{"session-1 ", "session-1 session-1-e1", "session-102 "}
		if !slices.Equal(got, want) {
			t.Errorf("opened %q, want %q", got, want)
		}
	})
	t.Run("is not asked for again where it is forbidden", func(t *testing.T) {
		t.Parallel()
		s := newLegacyServer(t)
		s.get = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }
		session := s.connect(t)
		testenv.Eventually(t, "GET", func() bool { return s.count("GET") > 0 })
		time.Sleep(2500 * time.Millisecond) // a second try comes after 1 to 2 s
		mustCall(t, session)
		if n := s.count("GET"); n != 1 {
			t.Errorf("asked for %d times", n)
		}
	})
}

func TestRetryAfterIsHandedOn(t *testing.T) {
	s := newLegacyServer(t)
	var header atomic.Value
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		w.Header().Set("Retry-After", header.Load().(string))
		w.WriteHeader(http.StatusTooManyRequests)
	}
	session := s.connect(t)
	for value, want := range map[string]time.Duration{
		"":        0,
		"7":       7 * time.Second,
		"-7":      0,
		"soon":    0,
		"9999999": time.Hour,
		time.Now().Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute,
	} {
		header.Store(value)
		var answer *mcpclient.AnswerError
		if err := callTool(t.Context(), session); !errors.As(err, &answer) || answer.Status != 429 {
			t.Fatalf("call: %v", err)
		}
		if d := want - answer.RetryAfter; d < 0 || d > 5*time.Second {
			t.Errorf("Retry-After %q: %v, want %v", value, answer.RetryAfter, want)
		}
	}
}

func TestASessionEndsAlsoWhereTheServerRefuses(t *testing.T) {
	srv := start(t, sandbox.Options{Protocol: "legacy"})
	c, b := newClient(t, srv, nil)
	session := connect(t, c)
	if _, err := c.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := b.opened.Load(); n != 1 {
		t.Errorf("browser opened %d times", n)
	}
}

func TestAConnectThatIsGivenUpDoesNotWaitForAServerThatIsSilent(t *testing.T) {
	asked, quiet := make(chan struct{}, 100), make(chan struct{})
	c := &mcpclient.Client{Store: &tokenstore.Memory{}, Server: listen(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-quiet:
		}
	})}
	t.Cleanup(func() { close(quiet); _ = c.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 16)
	for range cap(done) {
		go func() {
			_, err := c.Connect(ctx)
			done <- err
		}()
	}
	for range cap(done) {
		<-asked
	}
	cancel()
	late := time.After(3 * time.Second) // the SDK gives its notices five
	for range cap(done) {
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Connect: %v", err)
			}
		case <-late:
			t.Fatal("Connect waits for the server")
		}
	}
}

func TestTheServerHearsOfACallThatIsGivenUp(t *testing.T) {
	s := newLegacyServer(t)
	asked := make(chan struct{})
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		close(asked)
		<-r.Context().Done()
	}
	session := s.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	if err := callTool(ctx, session); !errors.Is(err, context.Canceled) {
		t.Fatalf("a call: %v", err)
	}
	testenv.Eventually(t, "the server hears of it", func() bool { return s.count("POST notifications/cancelled") == 1 })
}

func TestNothingIsLeftRunning(t *testing.T) {
	srv := start(t, sandbox.Options{Protocol: "legacy"})
	for range 3 {
		c, _ := newClient(t, srv, func(c *mcpclient.Client) { c.MCP = &mcp.ClientOptions{} })
		session, err := c.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mustCall(t, session)
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	var stacks string
	testenv.Eventually(t, "all goroutines end", func() bool {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		return !slices.ContainsFunc(strings.Split(stacks, "\n\n"), func(g string) bool {
			return strings.Contains(g, "/mcpclient.(") || strings.Contains(g, "/refresh.(") || strings.Contains(g, "/callback.(")
		})
	})
}
