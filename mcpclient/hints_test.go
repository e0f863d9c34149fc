package mcpclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
)

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
	t.Parallel() // it waits for repetitions
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

// A server that has forgotten the session may be another version, in which the
// tool writes.
func TestTheListOfAForgottenSessionMakesNoCallSafe(t *testing.T) {
	s := newLegacyServer(t)
	var calls atomic.Int32
	s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
		calls.Add(1)
		quietEnd(w, nil)
	}
	s.url = listen(t, s.serveTools)
	session := s.connect(t)
	if _, err := session.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.forget()
	_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
	if n := calls.Load(); !errors.Is(err, mcpclient.ErrNoAnswer) || n != 1 {
		t.Errorf("%v after it was carried out %d times", err, n)
	}
}

// Of a stream that could be resumed, the answer is lost with the session, or
// with a server that keeps no events: see TestTheStreamOfACallIsResumed for
// one that does.
func TestTheStreamOfACallIsCutAndCannotBeResumed(t *testing.T) {
	t.Parallel() // it waits for repetitions
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
