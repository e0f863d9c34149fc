package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/mcpclient"
)

func (a *app) discoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discover [URL]",
		Short: "Show and check a server's OAuth configuration, without signing in",
		Long: `Show and check a server's OAuth configuration, without signing in. URL defaults
to that of --server.

With --output json:
  {"server":"…", "sign_in":true, "resource":"…", "scopes":["…"], "issuer":"…",
   "issuer_unlisted":false, "resource_metadata_url":"…", "resource_metadata":{…},
   "server_metadata_url":"…", "server_metadata":{…}}
where the metadata is what a client uses of RFC 9728 and RFC 8414, and
issuer_unlisted is true where --issuer names the issuer and the server does not.`,
		Args: a.arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := a.bound(cmd)
			if len(args) == 1 {
				a.server = args[0]
			}
			return a.discover(ctx)
		},
	}
	cmd.Flags().StringVar(&a.issuer, "issuer", "", "`URL` of the one authorization server to look at (RFC 8414 issuer)")
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
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, clean(value)) }
	row("Server", cfg.Server)
	if found.SignIn {
		row("Without a token", fmt.Sprintf("%d %s: it asks for a sign-in", http.StatusUnauthorized, http.StatusText(http.StatusUnauthorized)))
	} else {
		row("Without a token", "it answers")
	}
	row("Resource metadata", orNone(cfg.ProtectedResourceURL))
	row("  resource", orNone(cfg.Resource))
	row("  scopes", orNone(strings.Join(cfg.Scopes, " ")))
	as := cfg.AuthorizationServer
	row("Server metadata", cfg.AuthorizationServerURL)
	row("  issuer", cfg.Issuer)
	if cfg.IssuerUnlisted {
		row("", unlisted)
	}
	row("  authorization", as.AuthorizationEndpoint)
	row("  token", as.TokenEndpoint)
	row("  registration", orNone(as.RegistrationEndpoint))
	row("  revocation", orNone(as.RevocationEndpoint))
	row("  PKCE", strings.Join(as.CodeChallengeMethodsSupported, " "))
	return w.Flush()
}
