package main

import (
	"time"

	"github.com/astravue/mcp-client-go/examples/internal/browser"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// useSandbox starts a sandbox in this process and makes client the app that is registered there.
// The caller closes the sandbox.
func useSandbox(client *mcpclient.Client) (*sandbox.Server, error) {
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true, AccessTTL: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	id, secret := srv.App()
	client.Server = srv.URL()
	client.Registration.ClientID, client.Registration.ClientSecret = id, tokenstore.NewSecret(secret)
	client.Store = &tokenstore.Memory{} // tokens for the sandbox are not worth keeping
	client.OpenBrowser = browser.Open
	return srv, nil
}
