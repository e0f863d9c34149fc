package mcpclient_test

import (
	"errors"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
)

// Another process goes on with the access token for a minute at most, unless
// the server has taken it back; and a sign-in there or here goes on with the session.
func TestALogoutInAnotherProcessEndsThisSessionWithinItsMinute(t *testing.T) {
	eras(t, func(t *testing.T, protocol string) {
		srv := start(t, sandbox.Options{Protocol: protocol})
		// So that the access token lives on, and only we can end the session.
		srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"revocation_endpoint": nil}})
		j := newJob(t, srv)
		c, _ := j.client()
		c.NonInteractive = true
		defer c.Close()
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		session := connect(t, c)
		mustCall(t, session)
		for _, again := range []func(){
			func() {
				if n := runAll(t, j); n != 1 { // which signs in
					t.Errorf("%d browsers were opened", n)
				}
			},
			func() {
				if err := c.Login(t.Context(), nil); err != nil {
					t.Error(err)
				}
			},
		} {
			out := j
			out.Logout = true
			runAll(t, out)
			mustCall(t, session) // it has not looked yet
			t.Cleanup(clock.Advance(time.Minute + time.Second))
			// The call that notices may get through: it looks off the path.
			testenv.Eventually(t, "calls end", func() bool {
				err := callTool(t.Context(), session)
				if err != nil && !errors.Is(err, mcpclient.ErrLoginRequired) {
					t.Fatal(err)
				}
				return err != nil
			})
			again()
			mustCall(t, session)
		}
	})
}
