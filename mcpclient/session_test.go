package mcpclient_test

import (
	"errors"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
)

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
				testenv.Eventually(t, "the standalone stream is open", func() bool { return streams() > n })
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
			testenv.Eventually(t, "the standalone stream is open once more", func() bool { return streams() > 2 })
		}
		wantOpened(t, b, 1)
		wantSteps(t, srv, sandbox.StepRefresh, 0)
	})
}

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
