package main

import (
	"context"
	"errors"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/auth/extauth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

// errNotCarried: neither this module nor the SDK has the extension.
var errNotCarried = errors.New("extension is not carried")

// extensions are the ways to a token that are none of this module, which signs
// in people. Where the SDK has a handler of its own, that is shown to work.
var extensions = map[string]func(context.Context, string, given) error{
	"auth/client-credentials-basic": func(ctx context.Context, server string, g given) error {
		handler, err := extauth.NewClientCredentialsHandler(&extauth.ClientCredentialsHandlerConfig{Credentials: credentials(g.ClientID, g.ClientSecret)})
		return withHandler(ctx, server, g, handler, err)
	},
	"auth/enterprise-managed-authorization": func(ctx context.Context, server string, g given) error {
		return notCarried(ctx, server, g)
	},
	"auth/client-credentials-jwt": notCarried,
	"auth/dpop":                   notCarried,
	"auth/dpop-nonce":             notCarried,
	"auth/wif-jwt-bearer":         notCarried,
}

func notCarried(context.Context, string, given) error { return errNotCarried }

func credentials(id, secret string) *oauthex.ClientCredentials {
	c := &oauthex.ClientCredentials{ClientID: id}
	if secret != "" {
		c.ClientSecretAuth = &oauthex.ClientSecretAuth{ClientSecret: secret}
	}
	return c
}

func withHandler(ctx context.Context, server string, g given, handler auth.OAuthHandler, err error) error {
	if err != nil {
		return err
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "Conformance", Version: "1"}, nil).
		Connect(ctx, &mcp.StreamableClientTransport{Endpoint: server, OAuthHandler: handler}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	return use(ctx, session, g)
}

var _ = (*oauth2.Token)(nil)
