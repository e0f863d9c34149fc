// Quickstart is the shortest program that uses Astravue. It signs in through the browser, lists the
// tools and calls one of them. The next run finds the tokens in the keychain and opens no browser.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ExitOnError)
	local := flags.Bool("sandbox", false, "use a local Astravue that signs in by itself")
	call := flags.String("call", "list_projects", "`tool` to call, without arguments")
	_ = flags.Parse(args) // exits

	choose, stop, err := chooseServer(*local)
	if err != nil {
		return err
	}
	defer stop()
	return quickstart(ctx, stdout, choose, *call)
}

func quickstart(ctx context.Context, stdout io.Writer, choose func(*mcpclient.Client), call string) error {
	client := &mcpclient.Client{Name: "Acme Notes"} // Astravue, the browser, the OS keychain
	defer client.Close()                            // waits for a refresh under way
	choose(client)                                  // in this example only: the sandbox, or ASTRAVUE_MCP_SERVER
	session, err := client.Connect(ctx)             // *mcp.ClientSession of the go-sdk
	if err != nil {
		return err
	}
	defer session.Close()

	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%-28s %s\n", tool.Name, tool.Description)
	}

	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: call})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%s:\n", call)
	for _, content := range result.Content {
		if text, ok := content.(*mcp.TextContent); ok {
			fmt.Fprintln(stdout, text.Text)
		}
	}
	if result.IsError {
		return errors.New("the tool reported an error")
	}
	return nil
}
