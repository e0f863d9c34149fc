package mcpclient_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

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
