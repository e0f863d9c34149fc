package mcpclient_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A minute without the server, on the clock of a bubble: nothing is slept. The
// sockets are pipes for that, all above them is real.
func TestTheServerIsGoneForAMinuteWhileTheStreamIsOpen(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %v", restarted), func(t *testing.T) {
			eras(t, func(t *testing.T, protocol string) {
				synctest.Test(t, func(t *testing.T) { goneForAMinute(t, protocol, restarted) })
			})
		})
	}
}

func goneForAMinute(t *testing.T, protocol string, restarted bool) {
	now, wire := newToolbox(protocol, false), new(line)
	told := 0
	serve := func(w http.ResponseWriter, r *http.Request) { now.ServeHTTP(w, r) }
	session := wire.connect(t, serve, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { told++ },
	})
	call := func() error {
		_, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read"})
		return err
	}
	news := func() {
		t.Helper()
		told = 0
		mcp.AddTool(now.server, &mcp.Tool{Name: rand.Text()}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return nil, nil, nil
		})
		time.Sleep(time.Second)
		synctest.Wait()
		if told == 0 {
			t.Error("the server is not heard")
		}
	}
	time.Sleep(time.Second)
	news()

	wire.set(true)
	before, start := wire.tries(), time.Now()
	if restarted {
		for session := range now.server.Sessions() {
			_ = session.Close()
		}
		now = newToolbox(protocol, false)
	}
	for range 4 {
		asked := time.Now()
		if err := call(); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(asked) != 0 {
			t.Errorf("a call while the server is gone fails after %v: %v", time.Since(asked), err)
		}
		time.Sleep(15 * time.Second)
	}
	if d := time.Since(start); d < time.Minute {
		t.Errorf("it was gone for %v", d)
	}
	if n := wire.tries() - before - 4; n < 2 || n > 10 {
		t.Errorf("the stream was asked for %d times in a minute", n)
	}
	wire.set(false)
	if err := call(); err != nil {
		t.Errorf("a call when the server is back: %v", err)
	}
	time.Sleep(30 * time.Second) // the longest back-off
	news()
	if err := call(); err != nil {
		t.Errorf("call: %v", err)
	}
}
