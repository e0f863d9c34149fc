// Package gosdk compares this module with the go-sdk's own
// AuthorizationCodeHandler, in situations that the handler does not come out of
// well. In each case both take the same steps against the same sandbox. The end
// is told in words; ours must be right, the SDK's is wrong. The table is kept in
// results.md, written with
//
//	go test ./internal/proofs/gosdk -update
//
// The table is for one version of the SDK. Under another one, such as after a
// dependency bump, a plain run holds our side alone and logs what the SDK does:
// a fault that the SDK has mended fails nothing. With ASTRAVUE_MCP_LONG=1 or
// -update it fails the test; take its row out, then write the table anew.
//
// The SDK is used as its documentation shows it: the handler under a
// StreamableClientTransport, with dynamic registration, and with the token
// source of its example of persistence, which saves a session in a file. Where
// a flag of the handler helps, the table says so. Code that a program may add in
// the places that the handler leaves open is not counted.
//
// For our client under faults of every sort see package faults.
package gosdk

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

var update = flag.Bool("update", false, "write results.md")

// A row of the table is one case, which both clients go through.
type row struct {
	name string
	want string // what specifications ask of a client, and where
	play func(*env) (result string, right bool)
}

var rows = []row{
	// Discovery.
	{"the metadata is that of another resource",
		"Metadata that states another `resource` is not used (RFC 9728 §3.3).", anotherResource},
	{"HTML where server metadata should be",
		"The well-known addresses are tried in order (MCP, Authorization Server Metadata Discovery).", htmlMetadata},
	{"error 500 where server metadata should be",
		"The well-known addresses are tried in order (MCP, Authorization Server Metadata Discovery).", brokenMetadata},
	{"a server that does not list S256",
		"A client that can use S256 uses it, and refuses where metadata does not say that PKCE is supported (MCP, Authorization Code Protection).", plainOnly},
	{"a server without any metadata",
		"A client refuses where metadata does not say that PKCE is supported, and so without metadata (MCP, Authorization Code Protection).", noMetadata},
	{"an authorization endpoint that is a file",
		"Authorization URLs are https, or http on loopback; `file:` is rejected (MCP Security Best Practices, OAuth Authorization URL Validation).", fileURL},
	{"a public server that names an authorization server on this computer",
		"OAuth URLs are https; loopback is for development (MCP Security Best Practices, Server-Side Request Forgery; RFC 9728 §7.7).", loopbackNamed},

	// Registration.
	{"a client made by hand beside a metadata document",
		"Pre-registered client information comes first (MCP, Client Registration).", byHandFirst},
	{"a client metadata document for a client ID",
		"A code is sent once (RFC 6749 §4.1.2); the client's method at the token endpoint is known (RFC 7591 §2).", documentAsID},
	{"registration is refused with 403",
		"A rejected registration gives a meaningful error (MCP, Application Type and Redirect URI Constraints).", registrationRefused},
	{"a registration with a key set",
		"`jwks` is a JSON object (RFC 7591 §2).", registrationWithKeys},
	{"three sign-ins in two runs",
		"A registration is kept by its issuer (MCP, Authorization Server Binding); one client ID serves until it is refused.", registeredOnce},

	// Sign-in.
	{"an unadvertised iss that matches",
		"`iss` is compared whether it is advertised or not (MCP, Authorization Response Validation; RFC 9207 §2.4).", unadvertisedIss},
	{"the user denies the sign-in",
		"`access_denied` is the answer (RFC 6749 §4.1.2.1).", deniedOnce},
	{"five calls at once that only a sign-in helps",
		"Whoever comes while a sign-in is under way takes its result; no specification says so.", fiveAtOnce},

	// Tokens.
	{"the token has expired and there is no refresh token",
		"Refresh tokens may not come (MCP, Refresh Tokens).", noRefreshToken},
	{"the client was deleted at the server",
		"`invalid_client` ends a registration, not a program (RFC 6749 §5.2).", clientDeleted},
	{"the access token was revoked",
		"`invalid_token` is what refresh tokens are for (RFC 6749 §1.5, RFC 6750 §3.1).", accessRevoked},
	{"a refresh",
		"`resource` is in token requests (MCP, Resource Parameter Implementation; RFC 8707 §2.2).", resourceAtRefresh},
	{"a call while the refresh of a live token is slow",
		"A token is good until it expires (RFC 6749 §5.1, `expires_in`).", liveWhileRefreshed},
	{"a call that is cancelled while a refresh is slow",
		"A call ends with its context.", cancelledWhileRefreshed},
	{"a renewed token that cannot be saved",
		"The new refresh token replaces the old one (RFC 6749 §6); a spent one ends the session (RFC 9700 §4.14.2).", notSaved},
	{"two processes renew one session",
		"The new refresh token replaces the old one (RFC 6749 §6); a spent one ends the session (RFC 9700 §4.14.2).", twoProcesses},

	// Scopes and refusals.
	{"more scopes for a restored session",
		"The scopes asked for before and the new ones are asked for together (MCP, Step-Up Authorization Flow).", scopesOfRestored},
	{"the user denies more scopes",
		"Upgrade attempts are tracked, denials are cached for a while (MCP, Step-Up Authorization Flow; MCP Security Best Practices, Scope Minimization).", scopesDenied},
	{"a 403 that asks for nothing",
		"403 is a lack of permission for what was asked (MCP, Error Handling; RFC 6750 §3.1).", forbidden},
	{"a second 401",
		"A retry that fails is the failure of that request (MCP, Step-Up Authorization Flow).", refusedTwice},
	{"a session ID that the server has forgotten",
		"404 for a session ID means that a new session is started (MCP 2025-11-25, Session Management).", sessionForgotten},

	// Redirects.
	{"a redirect to another port",
		"A token goes to the server that it is for (MCP, Token Handling; MCP Security Best Practices, Validate Redirect Targets).", redirectedElsewhere},
	{"a redirect from https to http",
		"A token goes to the server that it is for (MCP, Token Handling); tokens are never sent in the clear (RFC 6750 §5.3).", redirectedToHTTP},
}

func TestGoSDK(t *testing.T) {
	table := "| when | what a client is asked | go-sdk " + sdkVersion(t) + " | this library |\n|---|---|---|---|\n"
	kept, err := os.ReadFile("results.md")
	if err != nil && !*update {
		t.Fatal(err)
	}
	// What a plain run holds does not depend on the SDK's newest release.
	compared := *update || os.Getenv(testenv.Long) == "1" || strings.Contains(string(kept), "| go-sdk "+sdkVersion(t)+" |")
	played := 0
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			theirs, right := through(t, row, goSDK)
			switch {
			case right && compared:
				t.Errorf("the go-sdk gets it right by now: %s", theirs)
			case !compared:
				t.Logf("the go-sdk (right: %v): %s", right, theirs)
			}
			ours, right := through(t, row, thisLibrary)
			if !right {
				t.Errorf("ours: %s", ours)
			}
			table += "| " + strings.Join([]string{row.name, row.want, theirs, ours}, " | ") + " |\n"
			played++
		})
	}
	if t.Failed() {
		return
	}
	if !compared {
		t.Logf("results.md is not for go-sdk %s: compare with %s=1, or write it anew with -update", sdkVersion(t), testenv.Long)
		return
	}
	if played < len(rows) {
		testenv.Need(t, "a run of every row", false, "-run chose some, so there is no table")
	}
	testenv.Keep(t, "results.md", intro+table, *update)
}

const intro = "Each scenario is played twice against one server, once with the `auth.AuthorizationCodeHandler` of the go-sdk under its\n" +
	"`mcp.StreamableClientTransport`, saving sessions as the SDK's example of persistence does, and once with\n" +
	"`mcpclient.Client`. What a program may add to the handler by code of its own (`NewTokenSource`, `ScopeFilter`,\n" +
	"`Client`) is not counted. \"MCP\" is the specification of 2026-07-28, unless another revision is named.\n\n"

// sdkVersion is the one that go.mod requires.
func sdkVersion(t *testing.T) string {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`github\.com/modelcontextprotocol/go-sdk (v\S+)`).FindSubmatch(mod)
	if m == nil {
		t.Fatal("go.mod requires no go-sdk")
	}
	return string(m[1])
}
