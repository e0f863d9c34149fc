package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Sign out: revoke the tokens and forget them",
		Long: `Sign out: revoke the tokens at the server, if it offers that, and forget them
in any case.

With --output json:
  {"revocation":"revoked|not offered|failed|not needed", "error":"…",
   "access_token_until":"…", "other_processes_seconds":60}
error is there if the revocation failed. access_token_until is there if a server
that checks only the token's signature may accept the access token until then.
If there was no session, the exit status is 3.`,
		Args: takes(0, 0),
		RunE: a.bounded(func(ctx context.Context, _ []string) error {
			res, err := a.newClient().Logout(ctx)
			if err != nil {
				return err
			}
			return a.printLogout(res)
		}),
	}
}

func (a *app) printLogout(res *mcpclient.LogoutResult) error {
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
		a.stdout.line("Signed out: the tokens are forgotten here. The server did not revoke them.")
		a.stderr.sentence("astravue-mcp: %v", res.Err)
	}
	if now := clock.Now(); res.AccessUntil.After(now) {
		a.stdout.line("A server that checks only its signature may accept the access token until %s.", day(res.AccessUntil, now))
	}
	a.stdout.line("Other programs that use this session notice within %s.", span(res.Elsewhere))
	return nil
}
