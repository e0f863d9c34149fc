package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/examples/internal/browser"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestSandbox(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-sandbox"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "Harbor Museum website") {
		t.Errorf("no projects in\n%s", &out)
	}
}

func TestBothErasOfTheProtocol(t *testing.T) {
	for _, protocol := range []string{"modern", "legacy"} {
		t.Run(protocol, func(t *testing.T) {
			srv, err := sandbox.Start(sandbox.Options{AutoApprove: true, AutoApproveUser: "mia", Protocol: protocol})
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			var out strings.Builder
			err = transport(t.Context(), &out, func(c *mcpclient.Client) {
				c.Server, c.Store, c.OpenBrowser = srv.URL(), &tokenstore.Memory{}, browser.Open
			}, "list_personal_tasks", false)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), "Book the typography workshop") {
				t.Errorf("not what mia sees:\n%s", &out)
			}
			if n := srv.Counts().Requests[sandbox.StepAuthorize]; n != 1 {
				t.Errorf("%d sign-ins", n)
			}
		})
	}
}

// TestHandlers has a server speak of its own accord, which the sandbox does not.
func TestHandlers(t *testing.T) {
	for _, protocol := range []string{"modern", "legacy"} {
		t.Run(protocol, func(t *testing.T) {
			server := mcp.NewServer(&mcp.Implementation{Name: "talkative"}, nil)
			mcp.AddTool(server, &mcp.Tool{Name: "import"}, func(ctx context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
				err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
					ProgressToken: req.Params.GetProgressToken(), Progress: 2, Total: 3, Message: "rows"})
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "imported"}}}, nil, err
			})
			handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server },
				&mcp.StreamableHTTPOptions{Stateless: protocol == "modern"})
			web := httptest.NewServer(handler)
			defer web.Close()

			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out := &output{written: make(chan struct{}, 1)}
			done := make(chan error, 1)
			go func() {
				done <- transport(ctx, out, func(c *mcpclient.Client) { c.Server, c.Store = web.URL, &tokenstore.Memory{} }, "import", true)
			}()
			out.wait(t, ctx, "import: 2 of 3 rows")
			out.wait(t, ctx, "imported")
			mcp.AddTool(server, &mcp.Tool{Name: "export"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
				return nil, nil, nil
			})
			out.wait(t, ctx, "the list of tools has changed")
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// output is what the program has said so far.
type output struct {
	mu      sync.Mutex
	said    strings.Builder
	written chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said.Write(p)
	select {
	case o.written <- struct{}{}:
	default: // it is known already
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said.String()
}

func (o *output) wait(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	for !strings.Contains(o.String(), want) {
		select {
		case <-o.written:
		case <-ctx.Done():
			t.Fatalf("no %q in\n%s", want, o)
		}
	}
}
