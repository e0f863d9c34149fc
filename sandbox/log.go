package sandbox

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// A Request is an entry of the request log. It holds no token, code, verifier,
// password, secret or state.
type Request struct {
	Time      time.Time  // by the sandbox's clock, when it arrived
	Host      string     // "api" or "auth"
	Step      Step       // "" for a request that belongs to no step, such as favicon.ico
	Method    string     // of HTTP
	Path      string     // without query
	Params    url.Values // the harmless ones of query and form: client_id, scope, resource, prompt, …
	RPC       string     // JSON-RPC method of a POST to the MCP endpoint
	UserAgent string
	ClientID  string // where it is known
	User      string // where it is known
	Status    int    // 0: without an answer so far
	Error     string // OAuth error code of the answer
	Fault     bool   // a fault struck it
}

// harmless are the parameters that the log keeps. All others are dropped, so that
// no parameter of a later standard can leak.
var harmless = []string{"response_type", "client_id", "redirect_uri", "scope", "resource", "code_challenge_method",
	"prompt", "login_hint", "grant_type", "token_type_hint"}

// maxLog is how many requests are kept.
const maxLog = 10_000

type requestLog struct {
	mu      sync.Mutex
	entries []*Request // the oldest half goes when it is full
	counts  map[Step]int
}

func (l *requestLog) add(e *Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) >= maxLog {
		l.entries = append([]*Request(nil), l.entries[maxLog/2:]...)
	}
	l.entries = append(l.entries, e)
	l.counts[e.Step]++
}

// Requests returns the request log in the order of arrival. It keeps the latest
// five to ten thousand requests.
func (s *Server) Requests() []Request {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	out := make([]Request, len(s.log.entries))
	for i, e := range s.log.entries {
		out[i] = *e
	}
	return out
}

// ClearRequests empties the request log and its counts.
func (s *Server) ClearRequests() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.entries, s.log.counts = nil, make(map[Step]int)
}

type entryKey struct{}

// note changes the log entry of r.
func (s *Server) note(r *http.Request, change func(*Request)) {
	if e, ok := r.Context().Value(entryKey{}).(*Request); ok {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		change(e)
	}
}

// print hands an entry of the log to the Logger.
func (s *Server) print(e *Request, took time.Duration) {
	s.log.mu.Lock()
	c := *e
	s.log.mu.Unlock()
	s.opts.Logger.LogAttrs(context.Background(), slog.LevelInfo, "sandbox request",
		slog.String("step", string(c.Step)), slog.String("host", c.Host), slog.String("method", c.Method),
		slog.String("path", c.Path), slog.String("rpc", c.RPC), slog.Int("status", c.Status), slog.String("error", c.Error),
		slog.String("client", c.ClientID), slog.String("user", c.User), slog.Bool("fault", c.Fault),
		slog.Duration("duration", took))
}

// clip cuts a text from outside to the length that the log keeps.
func clip(s string) string { return s[:min(len(s), 512)] }

// A logWriter writes the status of an answer into the log.
type logWriter struct {
	http.ResponseWriter
	s *Server
	r *http.Request
}

func (w *logWriter) WriteHeader(status int) {
	w.s.note(w.r, func(e *Request) {
		if e.Status == 0 {
			e.Status = status
		}
	})
	w.ResponseWriter.WriteHeader(status)
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.s.note(w.r, func(e *Request) {
		if e.Status == 0 {
			e.Status = http.StatusOK
		}
	})
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController. Flush serves callers that look for an http.Flusher.
func (w *logWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *logWriter) Flush()                      { http.NewResponseController(w.ResponseWriter).Flush() }
