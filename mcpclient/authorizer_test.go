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
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// What happens to the tokens, the servers and the account while one *mcp.ClientSession is in use; and
// what clocks do that are wrong, that are set, or that stand still in a computer that sleeps. A life is
// counted from when the token was asked for, by the one clock at hand: a clock that is only
// wrong does not matter, and one that is set costs one refresh. The server has the last word on
// whether a token is good.

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
			testenv.Eventually(t, "it is renewed", func() bool { return steps(srv)[sandbox.StepRefresh] > n })
			testenv.Eventually(t, "and saved", func() bool {
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
					c.Transport = testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
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
					c.Transport = testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
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
					testenv.Eventually(t, "the standalone stream is open", func() bool { return streams() == 1 })
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
					testenv.Eventually(t, "the standalone stream is open again", func() bool { return streams() == 2 })
				}
				wantSteps(t, srv, sandbox.StepRefresh, 1)
				wantOpened(t, b, 1)
			})
		})
	}
}

// A slowEndpoint is a token endpoint that takes ten seconds for an answer,
// unless a test has seen what it wants to see before.
type slowEndpoint struct {
	asked chan struct{} // gets one for each request, up to ten
	hurry func()        // has all be answered now
}

const slow = 10 * time.Second

// signedIn starts a sandbox, a slow token endpoint before its own, and stores a
// grant that is renewed there.
func signedIn(t *testing.T, store tokenstore.Store) (*sandbox.Server, *slowEndpoint) {
	t.Helper()
	srv := start(t, sandbox.Options{})
	tokens, err := srv.Issue("olivia", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	real, err := url.Parse(tokens.TokenEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan struct{})
	e := &slowEndpoint{asked: make(chan struct{}, 10), hurry: sync.OnceFunc(func() { close(now) })}
	proxy := testenv.Proxy(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: real.Scheme, Host: real.Host}))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case e.asked <- struct{}{}:
		default:
		}
		select {
		case <-now:
		case <-time.After(slow):
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	t.Cleanup(e.hurry)
	seed(t, store, tokenstore.GrantKey(srv.URL(), ""), &tokenstore.Grant{
		Server: srv.URL(), SignIn: "1", Issuer: srv.Issuer(), TokenEndpoint: front.URL + real.Path,
		ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource,
		ScopesRequested: strings.Fields(tokens.Scope), ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: clock.Now(), ExpiresAt: clock.Now().Add(tokens.ExpiresIn),
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
	})
	return srv, e
}

// await waits until a refresh is under way.
func (e *slowEndpoint) await(t *testing.T) {
	t.Helper()
	select {
	case <-e.asked:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody asks for a token")
	}
}

// soon is well before a refresh that was begun at since is answered, and long
// enough for whoever does not wait for it.
func soon(t *testing.T, since time.Time, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Until(since.Add(slow / 2))):
		t.Fatalf("%s waits for the refresh", what)
		return nil
	}
}

// renewedOnce checks that the refresh has been saved after all, and that it was
// the only one.
func renewedOnce(t *testing.T, srv *sandbox.Server, store tokenstore.Store, old tokenstore.Record, sessions ...*mcp.ClientSession) {
	t.Helper()
	key := tokenstore.GrantKey(srv.URL(), "")
	testenv.Eventually(t, "the renewed grant is saved", func() bool {
		r, err := store.Get(t.Context(), key)
		return err == nil && r.Generation != old.Generation && !r.Grant.RefreshToken.Equal(old.Grant.RefreshToken)
	})
	for _, session := range sessions {
		mustCall(t, session)
	}
	if n := steps(srv)[sandbox.StepRefresh]; n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestCallsWithALiveTokenDoNotWaitForASlowRefresh(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 30*time.Minute-30*time.Second) // it is time to renew the token, which lives

	begun := time.Now()
	done := make(chan error, 8)
	call := func() { done <- callTool(t.Context(), session) }
	go call()
	if err := soon(t, begun, "the call that starts it", done); err != nil {
		t.Errorf("the call that starts it: %v", err)
	}
	endpoint.await(t)
	for range 3 {
		for range 8 {
			go call()
		}
		for range 8 {
			if err := soon(t, begun, "a call", done); err != nil {
				t.Errorf("a call: %v", err)
			}
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session)
}

// twoOfOne returns two sessions of one account that share nothing but a folder,
// as those of two processes do: the store's locks are not of a process.
func twoOfOne(t *testing.T) (srv *sandbox.Server, endpoint *slowEndpoint, store tokenstore.Store, mine, theirs *mcp.ClientSession) {
	t.Helper()
	dir := t.TempDir()
	open := func() tokenstore.Store {
		return &tokenstore.File{
			Dir: dir, Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q"),
		}
	}
	store = open()
	srv, endpoint = signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	other, _ := newClient(t, srv, noBrowser(open()))
	return srv, endpoint, store, connect(t, c), connect(t, other)
}

func TestCallsWithALiveTokenDoNotWaitForAnothersRefresh(t *testing.T) {
	srv, endpoint, store, session, theirs := twoOfOne(t)
	old := record(t, srv, store)
	advance(t, srv, 30*time.Minute-30*time.Second)

	begun := time.Now()
	mustCall(t, theirs)
	endpoint.await(t) // it holds the lock
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(t.Context(), session) }()
	}
	for range 8 {
		if err := soon(t, begun, "a call", done); err != nil {
			t.Errorf("a call: %v", err)
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session, theirs)
}

func TestCancelledCallersDoNotWaitForASlowRefreshWhichIsSaved(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	var notices atomic.Int32
	c, _ := newClient(t, srv, func(c *mcpclient.Client) {
		noBrowser(store)(c)
		below := mcpclient.NewTransport(srv.URL())
		c.Transport = testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
			if cancels(r) {
				notices.Add(1)
			}
			return below.RoundTrip(r)
		})
	})
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 31*time.Minute) // the token has expired

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	callers := map[string]func() error{
		"a call":    func() error { return callTool(ctx, session) },
		"a listing": func() error { _, err := session.ListTools(ctx, nil); return err },
		"Connect":   func() error { _, err := c.Connect(ctx); return err },
		"a request": func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.APIURL()+"/api/v1/projects", nil)
			if err != nil {
				return err
			}
			resp, err := c.HTTPClient().Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			return err
		},
	}
	for n := range 16 { // of the SDK's ways through a Connect that is given up some are rare
		callers[fmt.Sprint("Connect ", n)] = callers["Connect"]
	}
	begun := time.Now()
	results := map[string]chan error{}
	for name, call := range callers {
		done := make(chan error, 1)
		results[name] = done
		go func() { done <- call() }()
	}
	stays := make(chan error, 1)
	go func() { stays <- callTool(t.Context(), session) }()
	endpoint.await(t)
	for name, done := range results {
		select {
		case err := <-done:
			t.Errorf("%s has a result without a token: %v", name, err)
		default:
		}
	}
	cancel()
	for name, done := range results {
		if err := soon(t, begun, name, done); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := record(t, srv, store); r.Generation != old.Generation {
		t.Fatal("the refresh had ended")
	}
	endpoint.hurry()
	if err := <-stays; err != nil {
		t.Errorf("the caller who stays: %v", err)
	}
	renewedOnce(t, srv, store, old, session)
	if err := session.Close(); err != nil { // sees its notices off
		t.Errorf("Close: %v", err)
	}
	if n := notices.Load(); n != 0 {
		t.Errorf("the server was told %d times to cancel what it was never asked for", n)
	}
}

// cancels reports whether r is a notice that a call is cancelled.
func cancels(r *http.Request) bool {
	if r.GetBody == nil {
		return false
	}
	body, err := r.GetBody()
	if err != nil {
		return false
	}
	msg, err := io.ReadAll(body)
	return err == nil && bytes.Contains(msg, []byte(`"notifications/cancelled"`))
}

func TestARefreshThatAllHaveGivenUpIsSaved(t *testing.T) {
	store := &tokenstore.Memory{}
	srv, endpoint := signedIn(t, store)
	c, _ := newClient(t, srv, noBrowser(store))
	session, old := connect(t, c), record(t, srv, store)
	advance(t, srv, 31*time.Minute)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := time.Now()
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(ctx, session) }()
	}
	endpoint.await(t)
	cancel()
	for range 8 {
		if err := soon(t, begun, "a call", done); !errors.Is(err, context.Canceled) {
			t.Errorf("a call: %v", err)
		}
	}
	endpoint.hurry()
	renewedOnce(t, srv, store, old, session)
}

func TestCancelledCallersDoNotWaitForAnothersRefresh(t *testing.T) {
	srv, endpoint, store, session, theirs := twoOfOne(t)
	old := record(t, srv, store)
	advance(t, srv, 31*time.Minute)

	begun := time.Now()
	other := make(chan error, 1)
	go func() { other <- callTool(t.Context(), theirs) }()
	endpoint.await(t) // it holds the lock
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 8)
	for range 8 {
		go func() { done <- callTool(ctx, session) }()
	}
	select {
	case err := <-done:
		t.Fatalf("a call has a result without a token: %v", err)
	case <-time.After(100 * time.Millisecond): // so that they wait for the lock
	}
	cancel()
	for range 8 {
		if err := soon(t, begun, "a call", done); !errors.Is(err, context.Canceled) {
			t.Errorf("a call: %v", err)
		}
	}
	endpoint.hurry()
	if err := <-other; err != nil {
		t.Errorf("the other's call: %v", err)
	}
	renewedOnce(t, srv, store, old, session, theirs)
}
