package mcpclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// What takes minutes or hours passes in a bubble here, over no socket.

// scripted returns a conn above an upstream.
func scripted(t *testing.T, u testenv.RoundTripper) *conn {
	t.Helper()
	s, err := (&Client{Server: "http://127.0.0.1:1/mcp", Store: &tokenstore.Memory{}, Transport: u, NonInteractive: true}).init()
	if err != nil {
		t.Fatal(err)
	}
	return newConn(s)
}

func answered(status int, mediaType, body string, header ...string) (*http.Response, error) {
	h := http.Header{"Content-Type": {mediaType}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// say posts a message in a session and returns the whole answer.
func (c *conn) say(ctx context.Context, session, body string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.serverURL, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set(versionHeader, "2025-11-25")
	if session != "" {
		req.Header.Set(sessionHeader, session)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

const (
	aListen = `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}`
	aList   = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`
)

// A server that acknowledges and ends is asked ever less often, and what stands
// between the SDK and it does not grow.
func TestAListenStreamThatEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := scripted(t, func(*http.Request) (*http.Response, error) {
			asked++
			return answered(200, "text/event-stream", `data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}`+"\n\n")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		resp, text, err := c.say(ctx, "", aListen)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(text, "acknowledged"); n != asked || asked < 100 || asked > 300 {
			t.Errorf("asked %d times in an hour, of which the SDK has heard %d", asked, n)
		}
		if b := resp.Body.(*eventBody); b.more != nil {
			if _, deeper := b.more.(*eventBody); deeper {
				t.Error("each stream is read through the one before it")
			}
		}
	})
}

func TestAListenStreamThatDoesNotBeginIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := scripted(t, func(*http.Request) (*http.Response, error) {
			if asked++; asked < 4 {
				return nil, io.ErrUnexpectedEOF
			}
			return answered(200, "text/event-stream", `data: {"jsonrpc":"2.0","id":1,"method":"notifications/tools/list_changed"}`+"\n\n")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, text, err := c.say(ctx, "", aListen); err != nil || !strings.Contains(text, "list_changed") {
			t.Errorf("the SDK hears %q, %v", text, err)
		}
	})
}

// Somebody may sign in elsewhere. The subscription then goes on.
func TestAListenStreamOutlivesASessionThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := scripted(t, func(*http.Request) (*http.Response, error) {
			switch asked++; asked {
			case 1:
				return answered(200, "text/event-stream", ": \n\n")
			case 2, 3:
				return answered(401, "text/plain", "", "WWW-Authenticate", "Bearer")
			}
			return answered(200, "text/event-stream", `data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`+"\n\n")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, text, err := c.say(ctx, "", aListen); err != nil || !strings.Contains(text, "list_changed") {
			t.Errorf("the SDK hears %q, %v", text, err)
		}
	})
}

func TestARepetitionHonoursRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		message string
		after   string
		asked   int
	}{
		"a stream":                {aListen, "600", 4},
		"a call that can wait":    {aList, "20", 3},
		"a call that cannot wait": {aList, "600", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Time
				c := scripted(t, func(*http.Request) (*http.Response, error) {
					if at = append(at, time.Now()); len(at) == 1 {
						return answered(200, "text/event-stream", ": \n\n")
					}
					return answered(429, "text/plain", "", "Retry-After", test.after)
				})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
				defer cancel()
				if _, _, err := c.say(ctx, "", test.message); err != nil {
					t.Fatal(err)
				}
				least, _ := time.ParseDuration(test.after + "s")
				if len(at) != test.asked {
					t.Errorf("asked %d times, want %d", len(at), test.asked)
				}
				for i := 2; i < len(at); i++ {
					if at[i].Sub(at[i-1]) < least {
						t.Errorf("asked again after %v", at[i].Sub(at[i-1]))
					}
				}
			})
		})
	}
}

// A server loses its session while a call is repeated, which was safe by what
// that session said of its tool, or while a call waits for a new one: what was
// not carried out is not said to have been.
func TestASessionIsForgottenAmidACall(t *testing.T) {
	for _, test := range []struct {
		tool              string
		cutCall, cutBegin bool
		calls             int
	}{
		{"read", true, false, 3},
		{"read", false, false, 2},
		{"write", false, true, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls, begun := 0, 0
			c := scripted(t, func(req *http.Request) (*http.Response, error) {
				var msg struct {
					ID     json.RawMessage
					Method string
				}
				if err := json.NewDecoder(req.Body).Decode(&msg); err != nil {
					return nil, err
				}
				result := func(text string, header ...string) (*http.Response, error) {
					return answered(200, "application/json", `{"jsonrpc":"2.0","id":`+string(msg.ID)+`,"result":`+text+`}`, header...)
				}
				switch msg.Method {
				case "initialize":
					if begun++; begun == 2 && test.cutBegin {
						return nil, io.ErrUnexpectedEOF
					}
					return result(`{"protocolVersion":"2025-11-25"}`, sessionHeader, string(rune('A'+begun-1)))
				case "notifications/initialized":
					return answered(202, "", "")
				case methodListTools:
					return result(`{"tools":[{"name":"read","annotations":{"readOnlyHint":true}}]}`)
				}
				if calls++; calls == 1 && test.cutCall {
					return nil, io.ErrUnexpectedEOF
				}
				if req.Header.Get(sessionHeader) == "A" {
					return answered(404, "text/plain", "")
				}
				return result(`{}`)
			})
			for _, m := range []struct{ session, text string }{
				{"", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`},
				{"A", `{"jsonrpc":"2.0","method":"notifications/initialized"}`},
				{"A", aList},
			} {
				if _, _, err := c.say(t.Context(), m.session, m.text); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := c.say(t.Context(), "A", `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"`+test.tool+`"}}`)
			if calls != test.calls || (err == nil) == test.cutBegin || errors.Is(err, ErrNoAnswer) {
				t.Errorf("%+v: %d calls, %v", test, calls, err)
			}
		})
	}
}

type tooLate struct{}

func (tooLate) Error() string { return "too late" }
func (tooLate) Timeout() bool { return true }

func TestATimeoutStaysOne(t *testing.T) {
	c := &Client{Server: "http://127.0.0.1:1/mcp", Store: &tokenstore.Memory{}, NonInteractive: true,
		Transport: testenv.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, tooLate{} })}
	defer c.Close()
	_, err := c.HTTPClient().Get("http://127.0.0.1:1/rest")
	if late := new(url.Error); !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
}
