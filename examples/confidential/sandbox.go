package main

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// useSandbox points client at a sandbox of this process, as the app that is
// registered there already. The caller closes the sandbox.
func useSandbox(client *mcpclient.Client) (*sandbox.Server, error) {
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true, AccessTTL: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	id, secret := srv.App()
	client.Server = srv.URL()
	client.Registration.ClientID, client.Registration.ClientSecret = id, tokenstore.NewSecret(secret)
	client.Store = &tokenstore.Memory{} // its tokens end with it
	client.OpenBrowser = visit
	return srv, nil
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
