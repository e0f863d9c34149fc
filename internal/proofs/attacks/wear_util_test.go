package attacks

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	mib = 1 << 20

	// The most that one answer may cost: a few times its real cost, and a fraction of its cost
	// before answers were bounded.
	mostSpent  = 4 * time.Second * slower
	mostMemory = 450 * mib
)

// part says how much less the answers that take longest send on a machine with Go alone, where the
// client is told to take that much less, too: its other bounds are in proportion to that one. With
// every part the answers are as long as they say, and the client has its own bound. Documents of a
// sign-in are shorter by this, too, under a bound that stays.
var part = func() int {
	if os.Getenv(testenv.CI) == "1" {
		return 1
	}
	return 8
}()

// wearAnswers is the most that an answer may be, in bytes.
var wearAnswers = 8 * mib / part

// A wearServer is a hostile MCP server that asks for no sign-in. It speaks MCP 2025-11-25, and
// is honest where a test lets it be.
type wearServer struct {
	url string

	mu      sync.Mutex
	hostile map[string]wearAnswer // by method
	asked   map[string]int
	get     http.HandlerFunc
	replies int // to requests of the server's that are being posted
	most    int // of them at a time
	held    chan struct{}
}

type wearAnswer func(w http.ResponseWriter, r *http.Request, id string, params map[string]any)

func newWearServer(t *testing.T) *wearServer {
	s := &wearServer{hostile: map[string]wearAnswer{}, asked: map[string]int{}, held: make(chan struct{})}
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.held)
		srv.CloseClientConnections()
		srv.Close()
	})
	s.url = srv.URL + "/mcp"
	return s
}

func (s *wearServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var msg struct {
		ID     json.RawMessage
		Method string
		Params map[string]any
	}
	_ = json.Unmarshal(body, &msg)
	s.mu.Lock()
	if msg.Method != "" {
		s.asked[msg.Method]++
	}
	answer, get := s.hostile[msg.Method], s.get
	if r.Method == http.MethodPost && msg.Method == "" {
		s.replies++
		s.most = max(s.most, s.replies)
		answer = nil
	}
	s.mu.Unlock()
	id := string(msg.ID)
	switch {
	case r.Method == http.MethodGet && get != nil:
		get(w, r)
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case msg.Method == "": // the answer to a request of ours: it is kept waiting
		select {
		case <-s.held:
		case <-r.Context().Done():
		}
	case answer != nil:
		answer(w, r, id, msg.Params)
	case msg.Method == "initialize":
		w.Header().Set("Mcp-Session-Id", "s")
		wearJSON(w, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{},"resources":{}},"serverInfo":{"name":"x","version":"1"}}}`, id))
	case msg.Method == "server/discover":
		w.WriteHeader(http.StatusBadRequest)
	case len(msg.ID) == 0:
		w.WriteHeader(http.StatusAccepted)
	default:
		wearJSON(w, wearResult(id, `{"content":[],"tools":[],"prompts":[],"messages":[],"resources":[],"resourceTemplates":[],"contents":[]}`))
	}
}

func (s *wearServer) set(method string, a wearAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hostile[method] = a; a == nil {
		delete(s.hostile, method)
	}
}

func (s *wearServer) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[method]
}

func wearResult(id, result string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"result":` + result + `}`
}

func wearJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, body)
}

func wearEvents(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	_ = http.NewResponseController(w).Flush()
}

// wearSession connects an embedder's client, which opens no browser.
func wearSession(t *testing.T, url string, options *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	return wearConnect(t, url, &mcpclient.Client{MCP: options})
}

func wearConnect(t *testing.T, url string, c *mcpclient.Client) *mcp.ClientSession {
	t.Helper()
	c.Server, c.Store, c.NonInteractive = url, &tokenstore.Memory{}, true
	session, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		go session.Close() // which tells the server, and may wait for it
		_ = c.Close()
	})
	return session
}

// cost returns the processor time of f and the most memory that it held at a time.
func cost(f func()) (time.Duration, uint64) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 { metrics.Read(heap); return heap[0].Value.Uint64() }
	before, most := read(), uint64(0)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				most = max(most, read())
			}
		}
	}()
	start := spent()
	f()
	used := spent() - start
	close(done)
	<-stopped
	if most < before {
		return used, 0
	}
	return used, most - before
}

// A question is a request of the embedder's to the hostile server.
type question func(context.Context, *mcp.ClientSession) error

func askTool(ctx context.Context, s *mcp.ClientSession) error {
	_, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "x"})
	return err
}

func askTools(ctx context.Context, s *mcp.ClientSession) error {
	for _, err := range s.Tools(ctx, nil) {
		if err != nil {
			return err
		}
	}
	return nil
}

func askPrompts(ctx context.Context, s *mcp.ClientSession) error {
	for _, err := range s.Prompts(ctx, nil) {
		if err != nil {
			return err
		}
	}
	return nil
}

func askResources(ctx context.Context, s *mcp.ClientSession) error {
	for _, err := range s.Resources(ctx, nil) {
		if err != nil {
			return err
		}
	}
	return nil
}

func askTemplates(ctx context.Context, s *mcp.ClientSession) error {
	for _, err := range s.ResourceTemplates(ctx, nil) {
		if err != nil {
			return err
		}
	}
	return nil
}

func askPrompt(ctx context.Context, s *mcp.ClientSession) error {
	_, err := s.GetPrompt(ctx, &mcp.GetPromptParams{Name: "x"})
	return err
}

// wears plays an answer to what is asked, then lets the server be honest.
func wears(t *testing.T, method string, ask question, options *mcp.ClientOptions, answer wearAnswer) (won bool, seen string) {
	t.Helper()
	c := &mcpclient.Client{MCP: options}
	if part > 1 {
		c.MaxAnswer = wearAnswers
	}
	return wearsAll(t, c, 1, method, ask, answer)
}

// wearsAll is wears with a client of its own. It allows the cost of so many answers.
func wearsAll(t *testing.T, c *mcpclient.Client, answers int, method string, ask question, answer wearAnswer) (won bool, seen string) {
	t.Helper()
	s := newWearServer(t)
	session := wearConnect(t, s.url, c)
	s.set(method, answer)
	ctx, cancel := context.WithTimeout(t.Context(), slower*time.Minute)
	defer cancel()
	var err error
	used, memory := cost(func() { err = ask(ctx, session) })
	asked := s.count(method)
	s.set(method, nil)
	t.Logf("%v of the processor, %d MiB, asked %d times: %.200v", used, memory/mib, asked, err)
	switch {
	case ctx.Err() != nil:
		return true, "the call does not end before its deadline of a minute"
	case used > time.Duration(answers)*mostSpent:
		return true, "it takes the processor for longer than any answer may"
	case memory > mostMemory:
		return true, "it takes more memory than any answer may"
	}
	if again := askTool(ctx, session); again != nil {
		return true, "the session is lost"
	}
	return false, wearEnded(err) + times(asked) + "; the session goes on"
}

func wearEnded(err error) string {
	switch {
	case err == nil:
		return "the call succeeds"
	case errors.Is(err, mcpclient.ErrTooLarge):
		return "the call fails with `mcpclient.ErrTooLarge`"
	case errors.As(err, new(*mcpclient.AnswerError)):
		return "the call fails with `*mcpclient.AnswerError`"
	case errors.Is(err, mcpclient.ErrNoAnswer):
		return "the call fails with `mcpclient.ErrNoAnswer`"
	case errors.Is(err, context.DeadlineExceeded):
		return "the call ends at its deadline"
	}
	return "the call fails"
}

func times(n int) string {
	if n == 1 {
		return ", after one request"
	}
	return fmt.Sprintf(", after %d requests", n)
}

// repeated returns s, with commas between, in about that many bytes.
func repeated(s string, size int) string {
	return strings.TrimSuffix(strings.Repeat(s+",", size/(len(s)+1)), ",")
}

// nested returns arrays or objects of a depth, one after another.
func nested(open, end string, depth, size int) string {
	return repeated(strings.Repeat(open, depth)+"1"+strings.Repeat(end, depth), size)
}

// zipped returns size bytes of one kind, compressed to a thousandth.
func zipped(head string, filling byte, size int) []byte {
	var b bytes.Buffer
	pack := func(data []byte) {
		z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		_, _ = z.Write(data)
		_ = z.Close()
	}
	pack([]byte(head))
	at := b.Len()
	pack(bytes.Repeat([]byte{filling}, mib))
	member := bytes.Clone(b.Bytes()[at:])
	for range size/mib - 1 {
		b.Write(member)
	}
	return b.Bytes()
}

func wearZipped(w http.ResponseWriter, mediaType string, status int, data []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
