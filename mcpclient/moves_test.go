package mcpclient_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// twoIssuers starts a server that moves between two authorization servers.
func twoIssuers(t *testing.T) (s *movingServer, one, other *sandbox.Server, client func() (*mcpclient.Client, *fakeBrowser)) {
	s = newMovingServer(t, "modern")
	one = start(t, sandbox.Options{Resources: []string{s.url}})
	other = start(t, sandbox.Options{Resources: []string{s.url}})
	s.moveTo(one.Issuer())
	store := new(tokenstore.Memory)
	return s, one, other, func() (*mcpclient.Client, *fakeBrowser) {
		return newClient(t, one, func(c *mcpclient.Client) { c.Server, c.Store = s.url, store })
	}
}

func read(t *testing.T, session *mcp.ClientSession) error {
	_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
	return err
}

// A server that names one authorization server after the other opens no more
// browsers than one that has moved.
func TestASecondNewIssuerHasToBeAskedFor(t *testing.T) {
	s, one, other, client := twoIssuers(t)
	c, b := client()
	session := connect(t, c)
	refused := func(session *mcp.ClientSession, from, to *sandbox.Server) {
		t.Helper()
		changed := new(mcpclient.IssuerChangedError)
		if err := read(t, session); !errors.As(err, &changed) || *changed != (mcpclient.IssuerChangedError{Issuer: from.Issuer(), Named: to.Issuer()}) || !errors.Is(err, mcpclient.ErrLoginRequired) {
			t.Errorf("call: %v", err)
		}
	}
	goes := func() {
		t.Helper()
		if err := read(t, session); err != nil {
			t.Error(err)
		}
	}
	goes()
	s.moveTo(other.Issuer())
	goes()
	wantOpened(t, b, 2) // it has moved
	s.moveTo(one.Issuer())
	for range 5 {
		refused(session, other, one)
	}
	if n := steps(one)[sandbox.StepRegister]; n != 1 {
		t.Errorf("%d registrations", n)
	}

	// What is remembered is the account's, and no process's.
	again, b2 := client()
	_, err := again.Connect(t.Context())
	if !errors.As(err, new(*mcpclient.IssuerChangedError)) {
		t.Errorf("Connect: %v", err)
	}
	wantOpened(t, b2, 0)

	// A refresh changes nothing about it.
	s.moveTo(other.Issuer())
	before := steps(other)[sandbox.StepRefresh]
	advance(t, other, 31*time.Minute)
	one.Advance(31 * time.Minute)
	goes()
	if n := steps(other)[sandbox.StepRefresh] - before; n != 1 {
		t.Errorf("%d refreshes", n)
	}
	s.moveTo(one.Issuer())
	refused(session, other, one)

	// Somebody asks for it, and then there may be one more.
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	wantOpened(t, b, 3)
	goes()
	s.moveTo(other.Issuer())
	goes()
	wantOpened(t, b, 4)
	s.moveTo(one.Issuer())
	refused(session, other, one)

	// And one a day.
	for _, d := range []time.Duration{24*time.Hour - time.Minute, 2 * time.Minute} {
		advance(t, other, d)
		one.Advance(d)
		if d < time.Hour {
			goes()
			continue
		}
		refused(session, other, one)
	}
	wantOpened(t, b, 5)
	s.moveTo(other.Issuer())
	refused(session, one, other)
	wantOpened(t, b, 5)
}

// A sign-in at a new issuer that nobody ends is one too: what the person is
// shown is what counts.
func TestANewIssuerThatLeadsNowhereCounts(t *testing.T) {
	s, _, other, client := twoIssuers(t)
	c, b := client()
	session := connect(t, c)
	s.moveTo(other.Issuer())
	other.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"error": "access_denied", "code": nil}})
	if err := read(t, session); err == nil {
		t.Error("a call gets through")
	}
	wantOpened(t, b, 2)
	advance(t, other, 2*time.Minute) // a denial is forgotten by then
	if err := read(t, session); !errors.As(err, new(*mcpclient.IssuerChangedError)) {
		t.Errorf("call: %v", err)
	}
	wantOpened(t, b, 2)
}

// Login does not fail since calls do at the same time.
func TestLoginAmongCallsThatMayNotSignIn(t *testing.T) {
	s, one, other, client := twoIssuers(t)
	c, _ := client()
	session := connect(t, c)
	for _, to := range []*sandbox.Server{other, one} {
		s.moveTo(to.Issuer())
		_ = read(t, session)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				_, _ = session.CallTool(ctx, &mcp.CallToolParams{Name: "read"})
			}
		})
	}
	for range 3 {
		if err := c.Login(t.Context(), nil); err != nil {
			t.Errorf("Login: %v", err)
		}
		s.moveTo(other.Issuer())
		s.moveTo(one.Issuer())
	}
	cancel()
	callers.Wait()
	if err := read(t, session); err != nil {
		t.Error(err)
	}
}

// Whom the embedder names is nobody's move.
func TestAPinIsNoMove(t *testing.T) {
	s, one, other, _ := twoIssuers(t)
	store := new(tokenstore.Memory)
	for n := range 4 {
		to := []*sandbox.Server{one, other}[n%2]
		s.moveTo(to.Issuer())
		c, b := newClient(t, one, func(c *mcpclient.Client) { c.Server, c.Store, c.Issuer = s.url, store, to.Issuer() })
		if err := read(t, connect(t, c)); err != nil {
			t.Error(err)
		}
		wantOpened(t, b, 1)
	}
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
