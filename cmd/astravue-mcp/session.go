package main

import (
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
		Short: "Show the session: who, where, how long",
		Long: `Show the session: who, where, how long. Nothing is sent.

With --output json:
  {"server":"…", "account":"…", "signed_in":true, "issuer":"…",
   "issuer_unlisted":false, "client_id":"…", "resource":"…", "scopes":["…"],
   "obtained_at":"…", "access_expires_at":"…", "refreshable":true,
   "refresh_expires_at":"…", "refresh_expires":"at|never|unknown"}
Members that are not known are left out. issuer_unlisted is true where login
--issuer named the issuer and the server does not. Without a session the exit
status is 3.`,
		Args: a.arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := a.open().Status(a.bound(cmd))
			if err != nil {
				return err
			}
			return a.printStatus(st)
		},
	}
}

func (a *app) printStatus(st *mcpclient.Status) error {
	refresh := "unknown"
	switch {
	case st.RefreshForever:
		refresh = "never"
	case !st.RefreshExpiresAt.IsZero():
		refresh = "at"
	}
	if a.output == "json" {
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
		if st.Refreshable {
			out.RefreshExpires = refresh
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
		if !st.SignedIn {
			return errSignedOut
		}
		return nil
	}
	now := clock.Now()
	t := a.stdout.table("")
	row := t.field
	row("Server", text.URL(st.Server))
	if st.Account != "" {
		row("Account", st.Account)
	}
	if !st.SignedIn {
		row("Session", "none")
		if err := t.print(); err != nil {
			return err
		}
		a.note("Sign in: %s", a.line("login"))
		return errSignedOut
	}
	row("Signed in at", text.URL(st.Issuer))
	if st.IssuerUnlisted {
		row("", unlisted)
	}
	row("Client", st.ClientID)
	row("Scopes", orNone(strings.Join(st.ScopesGranted, " ")))
	switch {
	case st.AccessExpiresAt.IsZero():
		row("Access token", "for an unknown time")
	case now.Before(st.AccessExpiresAt):
		row("Access token", "until "+day(st.AccessExpiresAt, now))
	default:
		row("Access token", "expired; the next call renews it")
	}
	switch {
	case !st.Refreshable:
		row("Session", "ends with the access token")
	case refresh == "never":
		row("Session", "does not expire by itself")
	case refresh == "at":
		row("Session", "until "+day(st.RefreshExpiresAt, now)+" if not used")
	default:
		row("Session", "renewed for as long as the server allows")
	}
	return t.print()
}

// unlisted is said of an issuer that a person named.
const unlisted = "which you named and the server does not; it may refuse its tokens"

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Sign out: revoke the tokens and forget them",
		Long: `Sign out: revoke the tokens at the server, where it offers that, and forget
them in any case.

With --output json:
  {"revocation":"revoked|not offered|failed|not needed", "error":"…",
   "access_token_until":"…", "other_processes_seconds":60}
error is there if revocation failed, access_token_until where a server that
checks only a token's signature may still take it. Without a session the exit
status is 3.`,
		Args: a.arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := a.open().Logout(a.bound(cmd))
			if err != nil {
				return err
			}
			none := res.Revocation == mcpclient.RevocationNotNeeded
			if a.output == "json" {
				out := struct {
					Revocation mcpclient.Revocation `json:"revocation"`
					Error      string               `json:"error,omitempty"`
					Until      time.Time            `json:"access_token_until,omitzero"`
					Elsewhere  int                  `json:"other_processes_seconds,omitempty"`
				}{Revocation: res.Revocation, Until: res.AccessUntil}
				if res.Err != nil {
					out.Error = res.Err.Error()
				}
				if !none {
					out.Elsewhere = int(res.Elsewhere.Seconds())
				}
				if err := a.printJSON(out); err != nil {
					return err
				}
				if none {
					return errSignedOut
				}
				return nil
			}
			switch res.Revocation {
			case mcpclient.RevocationNotNeeded:
				a.stdout.line("There was no session.")
				return errSignedOut
			case mcpclient.Revoked:
				a.stdout.line("Signed out: the server has revoked the tokens, and they are forgotten here.")
			case mcpclient.RevocationMissing:
				a.stdout.line("Signed out: the tokens are forgotten here. The server does not offer to revoke them.")
			case mcpclient.RevocationFailed:
				a.stdout.line("Signed out: the tokens are forgotten here. The server could not be made to revoke them.")
				a.stderr.sentence("astravue-mcp: %v", res.Err)
			}
			if now := clock.Now(); res.AccessUntil.After(now) {
				a.stdout.line("A server that checks only its signature may take the access token until %s.", day(res.AccessUntil, now))
			}
			a.stdout.line("Other programs that use this session notice within %s.", span(res.Elsewhere))
			return nil
		},
	}
}
