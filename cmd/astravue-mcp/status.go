package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show where you are signed in, and until when",
		Long: `Show where you are signed in, and until when. Nothing is sent.

With --output json:
  {"server":"…", "account":"…", "signed_in":true, "issuer":"…",
   "issuer_unlisted":false, "client_id":"…", "resource":"…", "scopes":["…"],
   "obtained_at":"…", "access_expires_at":"…", "refreshable":true,
   "refresh_expires_at":"…", "refresh_expires":"at|never|unknown"}
Members that are not known are left out. issuer_unlisted is true if you named
the issuer and the server does not announce it. If there is no session, the exit
status is 3.`,
		Args: takes(0, 0),
		RunE: a.bounded(func(ctx context.Context, _ []string) error {
			st, err := a.newClient().Status(ctx)
			if err != nil {
				return err
			}
			return a.printStatus(st)
		}),
	}
}

// printStatus prints a status. It returns errSignedOut if there is no session.
func (a *app) printStatus(st *mcpclient.Status) error {
	show := a.printStatusText
	if a.output == "json" {
		show = a.printStatusJSON
	}
	if err := show(st); err != nil || st.SignedIn {
		return err
	}
	a.note("Sign in: %s", a.commandLine("login"))
	return errSignedOut
}

func (a *app) printStatusJSON(st *mcpclient.Status) error {
	out := struct {
		Server           string    `json:"server"`
		Account          string    `json:"account"`
		SignedIn         bool      `json:"signed_in"`
		Issuer           string    `json:"issuer,omitempty"`
		IssuerUnlisted   bool      `json:"issuer_unlisted"`
		ClientID         string    `json:"client_id,omitempty"`
		Resource         string    `json:"resource,omitempty"`
		Scopes           []string  `json:"scopes,omitempty"`
		ObtainedAt       time.Time `json:"obtained_at,omitzero"`
		AccessExpiresAt  time.Time `json:"access_expires_at,omitzero"`
		Refreshable      bool      `json:"refreshable"`
		RefreshExpiresAt time.Time `json:"refresh_expires_at,omitzero"`
		RefreshExpires   string    `json:"refresh_expires,omitempty"`
	}{
		Server: st.Server, Account: st.Account, SignedIn: st.SignedIn,
		Issuer: st.Issuer, IssuerUnlisted: st.IssuerUnlisted, ClientID: st.ClientID, Resource: st.Resource, Scopes: st.ScopesGranted,
		ObtainedAt: st.ObtainedAt, AccessExpiresAt: st.AccessExpiresAt,
		Refreshable: st.Refreshable, RefreshExpiresAt: st.RefreshExpiresAt,
	}
	switch {
	case !st.Refreshable:
	case st.RefreshForever:
		out.RefreshExpires = "never"
	case !st.RefreshExpiresAt.IsZero():
		out.RefreshExpires = "at"
	default:
		out.RefreshExpires = "unknown"
	}
	return a.printJSON(out)
}

func (a *app) printStatusText(st *mcpclient.Status) error {
	now := clock.Now()
	t := a.stdout.table("")
	row := t.field
	row("Server", text.URL(st.Server))
	if st.Account != "" {
		row("Account", st.Account)
	}
	if !st.SignedIn {
		row("Session", "none")
		return t.print()
	}
	row("Signed in at", text.URL(st.Issuer))
	if st.IssuerUnlisted {
		row("", unlisted)
	}
	row("Client", st.ClientID)
	row("Scopes", orNone(strings.Join(st.ScopesGranted, " ")))
	switch {
	case st.AccessExpiresAt.IsZero():
		row("Access token", "valid for an unknown time")
	case now.Before(st.AccessExpiresAt):
		row("Access token", "until "+day(st.AccessExpiresAt, now))
	default:
		row("Access token", "expired; the next call renews it")
	}
	switch {
	case !st.Refreshable:
		row("Session", "ends with the access token")
	case st.RefreshForever:
		row("Session", "does not expire by itself")
	case !st.RefreshExpiresAt.IsZero():
		row("Session", "until "+day(st.RefreshExpiresAt, now)+" if not used")
	default:
		row("Session", "renewed as long as the server allows")
	}
	return t.print()
}

// unlisted is printed below an issuer that a person named and the server does not announce.
const unlisted = "you named this issuer and the server does not; it may refuse the tokens"

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
