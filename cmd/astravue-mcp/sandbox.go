package main

import (
	"errors"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/sandbox"
)

func (a *app) sandboxCommand() *cobra.Command {
	var o sandbox.Options
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a local Astravue to try things with",
		Long: `Run a local Astravue to try things with, until you interrupt it: an
authorization server with sign-in and consent pages, and an MCP server with a
workspace behind it. It listens on loopback only and keeps nothing.

With --output json it prints, when it is ready:
  {"server":"…", "issuer":"…", "api":"…", "client_id":"…", "client_secret":"…",
   "accounts":[{"user":"…", "password":"…", "role":"…"}]}
The client is a confidential app that is registered already.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.IssuerHost != "api" && o.IssuerHost != "auth" {
				return usagef("--issuer-host is %q, not api or auth", o.IssuerHost)
			}
			if o.AccessTTL <= 0 || o.RefreshTTL <= 0 {
				return usagef("--access-ttl and --refresh-ttl must be longer than 0")
			}
			o.Logger = a.logger()
			srv, err := sandbox.Start(o)
			if taken := new(net.OpError); err != nil && !errors.As(err, &taken) {
				return &usageError{err} // all that can be wrong but the network is in the options
			}
			if err != nil {
				return err
			}
			if err := a.printSandbox(srv); err != nil {
				return errors.Join(err, srv.Close())
			}
			<-cmd.Context().Done()
			return srv.Close()
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "loopback `ADDRESS` of the MCP server; port 0 means any")
	f.DurationVar(&o.AccessTTL, "access-ttl", 30*time.Minute, "access tokens live for `DURATION`")
	f.DurationVar(&o.RefreshTTL, "refresh-ttl", 24*time.Hour, "refresh tokens live for `DURATION`")
	f.StringVar(&o.IssuerHost, "issuer-host", "auth", "put the issuer on the host `api|auth`")
	f.BoolVar(&o.AutoApprove, "auto-approve", false, "approve every sign-in without showing a page")
	return cmd
}

func (a *app) printSandbox(srv *sandbox.Server) error {
	id, secret := srv.App()
	if a.output == "json" {
		type account struct {
			User     string `json:"user"`
			Password string `json:"password"`
			Role     string `json:"role"`
		}
		out := struct {
			Server       string    `json:"server"`
			Issuer       string    `json:"issuer"`
			API          string    `json:"api"`
			ClientID     string    `json:"client_id"`
			ClientSecret string    `json:"client_secret"`
			Accounts     []account `json:"accounts"`
		}{Server: srv.URL(), Issuer: srv.Issuer(), API: srv.APIURL(), ClientID: id, ClientSecret: secret}
		for _, u := range srv.Accounts() {
			out.Accounts = append(out.Accounts, account{u.User, u.Password, u.Role})
		}
		return a.printJSON(out)
	}
	a.stdout.line("The sandbox is ready. In another terminal:\n\n  astravue-mcp login --server %s\n", srv.URL())
	a.stdout.line("Accounts:")
	for _, u := range srv.Accounts() {
		a.stdout.line("  %-8s %-8s password %s", u.User, u.Role, u.Password)
	}
	a.stdout.line("An app that is registered already:\n  --client-id %s, with the secret %s", id, secret)
	a.note("Interrupt to end it. It keeps nothing.")
	return nil
}
