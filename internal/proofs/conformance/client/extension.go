package main

import (
	"context"
	"errors"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/auth/extauth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// errNotCarried: neither this module nor the SDK has the extension.
var errNotCarried = errors.New("extension is not carried")

// extensions are the ways to a token without a person, which are none of this
// module's. Where the SDK has one, a user of both is shown to get through.
var extensions = map[string]func(context.Context, string, given) (auth.OAuthHandler, error){
	"auth/client-credentials-basic": func(_ context.Context, _ string, g given) (auth.OAuthHandler, error) {
		return extauth.NewClientCredentialsHandler(&extauth.ClientCredentialsHandlerConfig{
			Credentials: credentials(g.ClientID, g.ClientSecret),
		})
	},
	"auth/client-credentials-jwt": notCarried,
	"auth/dpop":                   notCarried,
	"auth/dpop-nonce":             notCarried,
	"auth/wif-jwt-bearer":         notCarried,

	// The SDK has a handler, which refuses the suite's identity provider for
	// not announcing PKCE, which is not used with it.
	"auth/enterprise-managed-authorization": notCarried,
}

func notCarried(context.Context, string, given) (auth.OAuthHandler, error) { return nil, errNotCarried }

func credentials(id, secret string) *oauthex.ClientCredentials {
	c := &oauthex.ClientCredentials{ClientID: id}
	if secret != "" {
		c.ClientSecretAuth = &oauthex.ClientSecretAuth{ClientSecret: secret}
	}
	return c
}

// withHandler does the scenario with a handler of the SDK.
func withHandler(ctx context.Context, server string, g given, handler auth.OAuthHandler) error {
	client := mcp.NewClient(&mcp.Implementation{Name: "Conformance", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: server, OAuthHandler: handler}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	return use(ctx, session, g)
}
