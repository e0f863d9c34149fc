package main

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"os"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// chooseServer returns what makes a client talk to the server that
// ASTRAVUE_MCP_SERVER names, to Astravue if it names none, or to a sandbox of
// this process, which stop ends.
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
		c.Store = &tokenstore.Memory{} // its tokens end with it
		c.OpenBrowser = visit
	}, srv.Close, nil
}

// visit is browser enough for pages that approve by themselves: it follows
// their redirects back to the client, with the cookie that the client gave it,
// which may be done before it has read the last page.
func visit(ctx context.Context, url string) error {
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
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return resp.Body.Close()
}
