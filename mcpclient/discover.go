package mcpclient

import (
	"context"

	"github.com/astravue/mcp-client-go/discovery"
)

// Discovered is what [Client.Discover] found.
type Discovered struct {
	SignIn        bool                     // the server wants a token for a ping
	Configuration *discovery.Configuration // never nil
}

// Discover takes the first step alone: it asks the server whether it wants a
// sign-in, and fetches and checks its OAuth configuration. Nothing is stored.
func (c *Client) Discover(ctx context.Context) (*Discovered, error) {
	a, err := c.init()
	if err != nil {
		return nil, err
	}
	challenge, needed, err := a.probe(ctx)
	if err != nil {
		return nil, err
	}
	cfg, err := a.discover(ctx, challenge)
	if err != nil {
		return nil, err
	}
	return &Discovered{needed, cfg}, nil
}
