// Command client is what the MCP project's conformance suite drives: it is
// given the URL of a server by argument and the name of a scenario by the
// environment, and does there what the scenario expects of a client.
//
//	client URL                          with the library
//	client -command astravue-mcp URL    with the command, one process per step
//	client open URL                     as the browser: it follows redirects
//
// It writes one line to standard output: done, done with the SDK where this
// module has nothing to do with it, or the kind of its error. It knows scenarios only as a user would: which tool to call, and
// the credentials that were handed out. What a server expects of an OAuth
// client it leaves to what is under test.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/mcpclient"
)

// metadataURL is what the suite takes for our client ID metadata document.
const metadataURL = "https://conformance-test.local/client-metadata.json"

// given is what the suite tells a client of a scenario.
type given struct {
	Scenario string

	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	ToolCalls    []struct {
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
	} `json:"toolCalls"`
}

func main() {
	command := flag.String("command", "", "`program` to use in place of the library")
	flag.Parse()
	if err := run(context.Background(), *command, flag.Args()); err != nil {
		fmt.Println(kind(err))
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
	if extensions[os.Getenv("MCP_CONFORMANCE_SCENARIO")] != nil {
		fmt.Println("done with the SDK")
		return
	}
	fmt.Println("done")
}

func run(ctx context.Context, command string, args []string) error {
	if len(args) == 2 && args[0] == "open" {
		return open(ctx, args[1])
	}
	if len(args) != 1 {
		return errors.New("want the URL of the server as the one argument")
	}
	g := given{Scenario: os.Getenv("MCP_CONFORMANCE_SCENARIO")}
	if data := os.Getenv("MCP_CONFORMANCE_CONTEXT"); data != "" {
		if err := json.Unmarshal([]byte(data), &g); err != nil {
			return fmt.Errorf("read context: %w", err)
		}
	}
	if command != "" {
		return processes(ctx, command, args[0], g)
	}
	return library(ctx, args[0], g)
}

// open is the browser. The suite's authorization server asks nobody anything
// and redirects at once.
func open(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Jar: jar}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// kind names the errors that scenarios are about, as the command does.
func kind(err error) string {
	var (
		process   *processError
		mismatch  *discovery.MismatchError
		issuer    *authcode.IssuerError
		forbidden *mcpclient.ForbiddenError
	)
	switch {
	case errors.As(err, &process):
		return process.Code
	case errors.As(err, &mismatch):
		return "metadata_mismatch"
	case errors.As(err, &issuer):
		return "issuer_mismatch"
	case errors.As(err, &forbidden):
		return "forbidden"
	case errors.Is(err, errNotCarried):
		return "not_carried"
	}
	return "failed"
}
