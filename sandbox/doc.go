// Package sandbox is a local Astravue: all steps of the documented flow, on
// loopback, for tests, demonstrations and the first hour with the API. It is
// used like [net/http/httptest]:
//
//	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
//	if err != nil { … }
//	defer srv.Close()
//	client := &mcpclient.Client{Server: srv.URL(), …}
//
// As Astravue has it, there are two origins. The API host serves the MCP
// endpoint /mcp, the Public API under /api/v1/, protected-resource metadata
// (RFC 9728) and authorization-server metadata (RFC 8414). The authorization
// host has the paths of a Keycloak realm: sign-in and consent pages, token,
// revocation (RFC 7009) and registration (RFC 7591, RFC 7592) endpoints.
//
// It is stricter than most servers, so that a client which works here works
// elsewhere: PKCE with S256 is required (RFC 7636), a redirect address must be
// registered (RFC 8252 §7.3: a loopback address without a port matches any
// port), resource must be the same in both requests (RFC 8707), tokens carry
// an audience that is checked, a code serves once, and so does a refresh token:
// who uses one a second time loses the grant, as with Keycloak's "Revoke
// Refresh Token". Answers have Keycloak's members and its error texts.
//
// Tests move its clock ([Server.Advance]), read what was asked
// ([Server.Requests]), make any step fail ([Server.Fail]), get tokens without
// a browser ([Server.Issue]) and take them away again.
//
// A program can be the person at the browser too: the pages are plain forms.
// The sign-in form takes username and password ([Server.Accounts]), the consent
// form takes decision, which is approve or deny; their hidden fields and the
// cookies go along.
//
// The package imports nothing else of this module, so that a mistake in a
// client is not mirrored by the server that it is tested against.
//
// What it does not do: it keeps nothing across a restart, listens on nothing
// but loopback, speaks no TLS, and is no authorization server for production.
// Its passwords are printed on its sign-in page.
package sandbox
