package mcpclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Time: clocks that are wrong, that are set, and that stand still in a computer
// that sleeps. A life is counted from when the token was asked for, by the one
// clock at hand, so that a clock that is only wrong does not matter; what a
// clock does that is set costs one refresh. The server has the last word on
// whether a token is good.

// jump moves this computer's clock alone.
func jump(t *testing.T, d time.Duration) { t.Cleanup(clock.Advance(d)) }

// Each spelling of expires_in comes from the exchange and from each refresh.
// The tokens really live for half an hour.
func TestExpiresInOfEveryKind(t *testing.T) {
	const (
		unknown = -1
		most    = 10 * 365 * 24 * time.Hour
	)
	for name, test := range map[string]struct {
		value any // nil: absent
		life  time.Duration
	}{
		"number":               {json.RawMessage(`300`), 300 * time.Second},
		"string":               {json.RawMessage(`"300"`), 300 * time.Second},
		"float":                {json.RawMessage(`299.7`), 299700 * time.Millisecond},
		"float in a string":    {json.RawMessage(`"299.7"`), 299700 * time.Millisecond},
		"exponent":             {json.RawMessage(`3e2`), 300 * time.Second},
		"huge":                 {json.RawMessage(`99999999999999999999`), most},
		"beyond all floats":    {json.RawMessage(`1e999`), most},
		"negative":             {json.RawMessage(`-300`), unknown},
		"negative in a string": {json.RawMessage(`"-300"`), unknown},
		"absent":               {nil, unknown},
		"0":                    {json.RawMessage(`0`), unknown},
		"null":                 {json.RawMessage(`null`), unknown},
		"boolean":              {json.RawMessage(`true`), unknown},
		"text":                 {json.RawMessage(`"soon"`), unknown},
		"array":                {json.RawMessage(`[300]`), unknown},
		"object":               {json.RawMessage(`{"seconds":300}`), unknown},
	} {
		t.Run(name, func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			for _, step := range []sandbox.Step{sandbox.StepExchange, sandbox.StepRefresh} {
				srv.Fail(step, sandbox.Fault{Set: map[string]any{"expires_in": test.value}})
			}
			c, b := newClient(t, srv, nil)
			session := connect(t, c)
			for n := range 2 { // after the sign-in, and after a refresh
				wantSteps(t, srv, sandbox.StepRefresh, n)
				mustCall(t, session)
				st, err := c.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				life := time.Duration(unknown)
				if !st.AccessExpiresAt.IsZero() {
					life = st.AccessExpiresAt.Sub(st.ObtainedAt)
				}
				if life != test.life {
					t.Errorf("after %d refreshes the life is %v, want %v", n, life, test.life)
				}
				if test.life > 0 && test.life < most {
					advance(t, srv, test.life-90*time.Second)
					mustCall(t, session)
					wantSteps(t, srv, sandbox.StepRefresh, n) // it is early in the last 60 seconds
					advance(t, srv, 91*time.Second)
				} else {
					advance(t, srv, 31*time.Minute) // the server's refusal has it renewed
				}
				mustCall(t, session)
			}
			wantSteps(t, srv, sandbox.StepRefresh, 2)
			wantOpened(t, b, 1)
		})
	}
}

// Each is renewed once, by many callers at a time.
func TestAccessTokensThatLiveFiveSeconds(t *testing.T) {
	for _, test := range []struct {
		name string
		step time.Duration // the last quarter of the life begins after 3.75 s
	}{{"used to the end", 5 * time.Second}, {"used now and then", 14 * time.Second}} {
		t.Run(test.name, func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				srv := start(t, sandbox.Options{Protocol: protocol, AccessTTL: 5 * time.Second})
				c, b := newClient(t, srv, nil)
				session := connect(t, c)
				for n := range 6 {
					began, before := time.Now(), steps(srv)[sandbox.StepRefresh]
					advance(t, srv, test.step)
					var wg sync.WaitGroup
					for range 4 {
						wg.Go(func() {
							if err := callTool(t.Context(), session); err != nil {
								t.Errorf("call: %v", err)
							}
						})
					}
					wg.Wait()
					// On a machine that is busy for seconds, real time adds lives.
					most := 1 + int(time.Since(began)/(3*time.Second))
					if got := steps(srv)[sandbox.StepRefresh] - before; got < 1 || got > most {
						t.Errorf("life %d: %d refreshes", n, got)
					}
				}
				wantOpened(t, b, 1)
			})
		})
	}
	t.Run("renewed early", func(t *testing.T) {
		srv := start(t, sandbox.Options{AccessTTL: 5 * time.Second})
		c, b := newClient(t, srv, nil)
		session := connect(t, c)
		for n := range 6 {
			began, then := time.Now(), clock.Now()
			advance(t, srv, 3*time.Second)
			mustCall(t, session)
			if got := steps(srv)[sandbox.StepRefresh]; got != n && time.Since(began) < 500*time.Millisecond {
				t.Errorf("renewed in the third quarter of its life: %d refreshes, want %d", got, n)
			}
			advance(t, srv, time.Second)
			mustCall(t, session) // with the old one, and has it renewed
			eventually(t, "it is renewed", func() bool { return steps(srv)[sandbox.StepRefresh] > n })
			eventually(t, "and saved", func() bool {
				st, err := c.Status(t.Context())
				return err == nil && st.ObtainedAt.After(then)
			})
		}
		wantOpened(t, b, 1)
	})
}

// A clock that is wrong all the time changes nothing.
func TestTheLocalClockIsWrong(t *testing.T) {
	for _, off := range []time.Duration{0, time.Hour, -time.Hour, 50 * 365 * 24 * time.Hour, -50 * 365 * 24 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			jump(t, off)
			store := &tokenstore.Memory{}
			c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			session := connect(t, c)
			for n := range 3 {
				advance(t, srv, 28*time.Minute)
				mustCall(t, session)
				advance(t, srv, 3*time.Minute)
				mustCall(t, session)
				wantSteps(t, srv, sandbox.StepRefresh, n+1)
			}
			later, none := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			mustCall(t, connect(t, later))
			wantSteps(t, srv, sandbox.StepRefresh, 3)
			wantOpened(t, b, 1)
			wantOpened(t, none, 0)
		})
	}
}

// Set while a session is used: calls work, and one refresh is all it costs.
func TestTheClockIsSetWhileASessionIsUsed(t *testing.T) {
	const day = 24 * time.Hour
	for name, jumps := range map[string][]time.Duration{
		"an hour ahead":           {time.Hour},  // tokens look expired
		"an hour back":            {-time.Hour}, // and live too long
		"a minute ahead":          {time.Minute},
		"a minute back":           {-time.Minute},
		"two days ahead":          {2 * day}, // refresh tokens look expired
		"two days back":           {-2 * day},
		"ahead, and back again":   {time.Hour, -time.Hour},
		"back, and ahead again":   {-time.Hour, time.Hour},
		"to and fro all the time": {time.Hour, -time.Hour, time.Hour, -time.Hour, time.Hour, -time.Hour, time.Hour, -time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			c, b := newClient(t, srv, nil)
			session := connect(t, c)
			use := func() {
				t.Helper()
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if err := callTool(t.Context(), session); err != nil {
							t.Errorf("call: %v", err)
						}
					})
				}
				wg.Wait()
			}
			use()
			for _, d := range jumps {
				jump(t, d)
				use()
			}
			if n := steps(srv)[sandbox.StepRefresh]; n > 1 {
				t.Errorf("%d refreshes for the jumps", n)
			}
			// The server's half hour goes by in steps, whatever ours says.
			before := steps(srv)[sandbox.StepRefresh]
			for range 7 {
				advance(t, srv, 10*time.Minute)
				use()
			}
			if n := steps(srv)[sandbox.StepRefresh] - before; n < 2 || n > 3 {
				t.Errorf("%d refreshes in 70 minutes", n)
			}
			wantOpened(t, b, 1)
		})
	}
}

// The clock is set right after a sign-in, or in the middle of a token request.
func TestTheClockIsSetWhileATokenIsOnItsWay(t *testing.T) {
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		for _, grant := range []string{"authorization_code", "refresh_token"} {
			t.Run(fmt.Sprintf("%s %v", grant, d), func(t *testing.T) {
				srv := start(t, sandbox.Options{})
				var once sync.Once
				c, b := newClient(t, srv, func(c *mcpclient.Client) {
					c.Transport = wire(func(r *http.Request) (*http.Response, error) {
						if strings.HasSuffix(r.URL.Path, "/token") {
							body, _ := io.ReadAll(r.Body)
							r = r.Clone(r.Context())
							r.Body = io.NopCloser(bytes.NewReader(body))
							if bytes.Contains(body, []byte("grant_type="+grant)) {
								defer once.Do(func() { jump(t, d) })
							}
						}
						return http.DefaultTransport.RoundTrip(r)
					})
				})
				session := connect(t, c)
				if grant == "refresh_token" {
					advance(t, srv, 31*time.Minute)
					err := callTool(t.Context(), session)
					if dead := errors.Is(err, refresh.ErrDeadOnArrival) && errors.Is(err, refresh.ErrClockMoved); dead != (d > 0) || err != nil && !dead {
						t.Errorf("call: %v", err)
					}
					if se := new(mcpclient.StepError); err != nil && (!errors.As(err, &se) || se.Step != mcpclient.StepRefresh) {
						t.Errorf("call: %v, want it to name the step refresh", err)
					}
					advance(t, srv, 2*time.Second)
				}
				for range 3 {
					mustCall(t, session)
				}
				if n := steps(srv)[sandbox.StepRefresh]; n > 2 {
					t.Errorf("%d refreshes", n)
				}
				before := steps(srv)[sandbox.StepRefresh]
				advance(t, srv, 31*time.Minute) // where it seems to live on, the server says that it does not
				mustCall(t, session)
				wantSteps(t, srv, sandbox.StepRefresh, before+1)
				wantOpened(t, b, 1)
			})
		}
	}
}

// What is refused though it is new may be refused for the clocks: the error has
// by how much they differ. Nothing is asked for again and again.
func TestTheClocksOfServersDiffer(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 0} {
		t.Run(off.String(), func(t *testing.T) {
			srv := start(t, sandbox.Options{})
			c, b := newClient(t, srv, nil)
			session := connect(t, c)
			undo := srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: 401, Body: "no", Header: http.Header{
				"Www-Authenticate": {`Bearer error="invalid_token"`}, "Date": {time.Now().Add(off).UTC().Format(http.TimeFormat)},
			}})
			for range 10 {
				var refused *mcpclient.TokenRefusedError
				if err := callTool(t.Context(), session); !errors.As(err, &refused) {
					t.Fatalf("call: %v", err)
				}
				if (refused.Clock - off).Abs() > 30*time.Second {
					t.Errorf("the clocks are said to differ by %v, and do by %v", refused.Clock, off)
				}
			}
			if n := steps(srv)[sandbox.StepRefresh]; n > 1 {
				t.Errorf("%d refreshes", n)
			}
			undo()
			mustCall(t, session)
			wantOpened(t, b, 1)
		})
	}
}

// A refresh token is tried whatever this computer's clock says of it: only the
// server knows, and it is one request. What it refuses is not tried again.
func TestARefreshTokenThatIsADayOldAtTheStart(t *testing.T) {
	const day = 24*time.Hour + time.Minute
	for _, test := range []struct {
		name  string
		known bool // when it expires
		ours  time.Duration
		good  bool // at the server
	}{
		{"expired, as stated", true, day, false},
		{"expired, which was not stated", false, day, false},
		{"good for longer than stated", true, day, true},
		{"good for longer, which was not stated", false, day, true},
		{"expired, and our clock is a day behind", true, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := sandbox.Options{RefreshTTL: 24 * time.Hour}
			if test.good {
				o.RefreshTTL = 48 * time.Hour
			}
			srv := start(t, o)
			expires := any(86400)
			if !test.known {
				expires = nil
			}
			srv.Fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"refresh_expires_in": expires}})
			store := &tokenstore.Memory{}
			first, _ := newClient(t, srv, func(c *mcpclient.Client) { c.Store = store })
			mustCall(t, connect(t, first))

			srv.Advance(day)
			jump(t, test.ours)
			c, b := newClient(t, srv, func(c *mcpclient.Client) { c.Store, c.NonInteractive = store, true })
			session, err := c.Connect(t.Context())
			if err == nil {
				defer session.Close()
			}
			if test.good {
				if err != nil {
					t.Fatal(err)
				}
				mustCall(t, session)
			} else if !errors.Is(err, mcpclient.ErrLoginRequired) {
				t.Errorf("Connect: %v", err)
			}
			if _, err := c.Connect(t.Context()); (err == nil) != test.good {
				t.Errorf("Connect: %v", err)
			}
			wantSteps(t, srv, sandbox.StepRefresh, 1)
			wantOpened(t, b, 0)
		})
	}
}

// Eight hours of sleep: the clock has moved on, and the connections may be gone.
func TestTheComputerSleepsEightHours(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("connections cut %v", cut), func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				srv := start(t, sandbox.Options{Protocol: protocol})
				between := new(line)
				under := between.transport()
				var armed atomic.Bool
				asleep, awake := make(chan struct{}), make(chan struct{})
				c, b := newClient(t, srv, func(c *mcpclient.Client) {
					c.MCP = &mcp.ClientOptions{}
					c.Transport = wire(func(r *http.Request) (*http.Response, error) {
						resp, err := under.RoundTrip(r)
						if r.Method == http.MethodPost && armed.CompareAndSwap(true, false) {
							close(asleep)
							<-awake
							if cut {
								_ = resp.Body.Close()
								return nil, syscall.ECONNRESET
							}
						}
						return resp, err
					})
				})
				session := connect(t, c)
				mustCall(t, session)
				streams := func() (n int) {
					for _, r := range srv.Requests() {
						if r.Method == http.MethodGet && r.Path == "/mcp" && r.Status == http.StatusOK {
							n++
						}
					}
					return n
				}
				if protocol == "legacy" {
					eventually(t, "the standalone stream is open", func() bool { return streams() == 1 })
				}
				armed.Store(true)
				called := make(chan error, 1)
				go func() { called <- callTool(context.Background(), session) }()
				<-asleep
				advance(t, srv, 8*time.Hour)
				if cut {
					between.set(false)
				}
				close(awake)
				if err := <-called; cut != errors.Is(err, mcpclient.ErrNoAnswer) || err != nil && !cut {
					t.Errorf("the call during which it slept: %v", err)
				}
				for range 3 {
					mustCall(t, session)
				}
				if protocol == "legacy" && cut {
					eventually(t, "the standalone stream is open again", func() bool { return streams() == 2 })
				}
				wantSteps(t, srv, sandbox.StepRefresh, 1)
				wantOpened(t, b, 1)
			})
		})
	}
}

// A date in Retry-After is one of the server's clock.
func TestRetryAfterUnderAWrongClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		s := newLegacyServer(t)
		session := s.connect(t)
		s.mu.Lock()
		s.call = func(w http.ResponseWriter, r *http.Request, id json.RawMessage) {
			w.Header().Set("Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		}
		s.mu.Unlock()
		jump(t, off)
		var answer *mcpclient.AnswerError
		if err := callTool(t.Context(), session); !errors.As(err, &answer) || (answer.RetryAfter-time.Minute).Abs() > 5*time.Second {
			t.Errorf("with a clock that is %v ahead: %v", off, err)
		}
	}
}

// A denial is a minute's, not as long as a clock that was set back makes it.
func TestADenialUnderAClockThatIsSetBack(t *testing.T) {
	srv := start(t, sandbox.Options{})
	undo := srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied"}})
	c, b := newClient(t, srv, nil)
	get := func() int {
		resp, err := c.HTTPClient().Get(srv.APIURL() + "/api/v1/projects")
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for range 2 {
		if get() == http.StatusOK {
			t.Error("a denied sign-in succeeded")
		}
	}
	wantOpened(t, b, 1)
	undo()
	jump(t, -time.Hour)
	if status := get(); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	wantOpened(t, b, 2)
}
