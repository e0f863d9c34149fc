// Transport puts Astravue's sign-in under an MCP client that you already have, here the go-sdk's with
// handlers of its own. It takes nothing from this module but an http.Client, which puts the right
// token on every request.
//
// Client.Connect, as in the quickstart, does more: it resumes broken streams and renews sessions that
// the server has forgotten. Use an http.Client if your program must keep its own MCP client or
// transport.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "transport:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("transport", flag.ExitOnError)
	local := flags.Bool("sandbox", false, "use a local Astravue that signs in by itself")
	call := flags.String("call", "list_projects", "`tool` to call, without arguments")
	watch := flags.Bool("watch", false, "stay and print what the server announces, until interrupted")
	_ = flags.Parse(args) // exits

	choose, stop, err := chooseServer(*local)
	if err != nil {
		return err
	}
	defer stop()
	return transport(ctx, stdout, choose, *call, *watch)
}

func transport(ctx context.Context, stdout io.Writer, choose func(*mcpclient.Client), call string, watch bool) (err error) {
	auth := &mcpclient.Client{Name: "Acme Console"}
	choose(auth)
	defer func() { err = errors.Join(err, auth.Close()) }()

	// The SDK calls handlers from goroutines of its own.
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(stdout, format+"\n", args...)
	}

	client := mcp.NewClient(&mcp.Implementation{Name: "acme-console", Version: "1.0.0"}, &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{},
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) {
			say("the list of tools has changed")
		},
		ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
			say("%v: %g of %g %s", req.Params.ProgressToken, req.Params.Progress, req.Params.Total, req.Params.Message)
		},
	})
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   cmp.Or(auth.Server, mcpclient.DefaultServer),
		HTTPClient: auth.HTTPClient(), // signs in, refreshes, steps up
	}, nil)
	if err != nil {
		return err
	}
	defer session.Close()

	tools := 0
	for _, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		tools++
	}
	say("%d tools", tools)

	params := &mcp.CallToolParams{Name: call}
	params.SetProgressToken(call) // asks the server to report progress
	result, err := session.CallTool(ctx, params)
	if err != nil {
		return err
	}
	for _, content := range result.Content {
		if text, ok := content.(*mcp.TextContent); ok {
			say("%s", text.Text)
		}
	}
	if result.IsError {
		return errors.New("the tool reported an error")
	}
	if watch {
		<-ctx.Done()
	}
	return nil
}
