package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
)

func (a *app) discoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discover [URL]",
		Short: "Show and check a server's OAuth configuration, without signing in",
		Long: `Show and check a server's OAuth configuration, without signing in. Without URL it
is the server of --server.

With --output json:
  {"server":"…", "sign_in":true, "resource":"…", "scopes":["…"], "issuer":"…",
   "issuer_unlisted":false, "resource_metadata_url":"…", "resource_metadata":{…},
   "server_metadata_url":"…", "server_metadata":{…}}
The metadata has the members of RFC 9728 and RFC 8414 that a client uses.
issuer_unlisted is true if --issuer names the issuer and the server does not
announce it.`,
		Args: takes(0, 1),
		RunE: a.bounded(func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				a.server = args[0]
			}
			return a.discover(ctx)
		}),
	}
	cmd.Flags().StringVar(&a.issuer, "issuer", "", "`URL` of the only authorization server to look at (RFC 8414 issuer)")
	return cmd
}

func (a *app) discover(ctx context.Context) error {
	found, err := (&mcpclient.Client{Name: "astravue-mcp", Version: version(), Server: a.server, Issuer: a.issuer, Logger: a.logger()}).Discover(ctx)
	if err != nil {
		return err
	}
	cfg := found.Configuration
	if a.output == "json" {
		return a.printJSON(struct {
			Server               string                         `json:"server"`
			SignIn               bool                           `json:"sign_in"`
			Resource             string                         `json:"resource,omitempty"`
			Scopes               []string                       `json:"scopes,omitempty"`
			Issuer               string                         `json:"issuer"`
			IssuerUnlisted       bool                           `json:"issuer_unlisted"`
			ResourceMetadataURL  string                         `json:"resource_metadata_url,omitempty"`
			ResourceMetadata     *discovery.ProtectedResource   `json:"resource_metadata,omitempty"`
			ServerMetadataURL    string                         `json:"server_metadata_url"`
			AuthorizationServers *discovery.AuthorizationServer `json:"server_metadata"`
		}{cfg.Server, found.SignIn, cfg.Resource, cfg.Scopes, cfg.Issuer, cfg.IssuerUnlisted, cfg.ProtectedResourceURL, cfg.ProtectedResource, cfg.AuthorizationServerURL, cfg.AuthorizationServer})
	}
	t := a.stdout.table("")
	row := t.field
	row("Server", text.URL(cfg.Server))
	if found.SignIn {
		row("Without a token", fmt.Sprintf("%d %s: it asks for a sign-in", http.StatusUnauthorized, http.StatusText(http.StatusUnauthorized)))
	} else {
		row("Without a token", "it answers")
	}
	row("Resource metadata", orNone(text.URL(cfg.ProtectedResourceURL)))
	row("  resource", orNone(text.URL(cfg.Resource)))
	row("  scopes", orNone(strings.Join(cfg.Scopes, " ")))
	as := cfg.AuthorizationServer
	row("Server metadata", text.URL(cfg.AuthorizationServerURL))
	row("  issuer", text.URL(cfg.Issuer))
	if cfg.IssuerUnlisted {
		row("", unlisted)
	}
	row("  authorization", text.URL(as.AuthorizationEndpoint))
	row("  token", text.URL(as.TokenEndpoint))
	row("  registration", orNone(text.URL(as.RegistrationEndpoint)))
	row("  revocation", orNone(text.URL(as.RevocationEndpoint)))
	row("  PKCE", strings.Join(as.CodeChallengeMethodsSupported, " "))
	return t.print()
}
