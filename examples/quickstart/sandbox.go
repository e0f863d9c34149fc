package main

import (
	"os"

	"github.com/astravue/mcp-client-go/examples/internal/browser"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// chooseServer returns a function that sets a client's server: with local a sandbox in this
// process, which stop ends; else the server that ASTRAVUE_MCP_SERVER names, or Astravue.
func chooseServer(local bool) (choose func(*mcpclient.Client), stop func() error, err error) {
	if !local {
		return func(c *mcpclient.Client) { c.Server = os.Getenv("ASTRAVUE_MCP_SERVER") }, func() error { return nil }, nil
	}
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		return nil, nil, err
	}
	return func(c *mcpclient.Client) {
		c.Server = srv.URL()
		c.Store = &tokenstore.Memory{} // tokens for the sandbox are not worth keeping
		c.OpenBrowser = browser.Open
	}, srv.Close, nil
}
