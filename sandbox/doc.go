// Package sandbox is a local Astravue. It serves all steps of the documented flow
// on loopback, for tests, demonstrations and the first hour with the API. Use it
// like [net/http/httptest]:
//
//	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
//	if err != nil { … }
//	defer srv.Close()
//	client := &mcpclient.Client{Server: srv.URL(), …}
//
// Like Astravue it has two origins. The API host serves the MCP endpoint /mcp, the
// Public API under /api/v1/, protected-resource metadata
// (RFC 9728) and authorization-server metadata (RFC 8414). The authorization
// host has the paths of a Keycloak realm: sign-in and consent pages, token,
// revocation (RFC 7009) and registration (RFC 7591, RFC 7592) endpoints.
//
// It is stricter than most servers, so that a client which works here works
// elsewhere:
//
//   - PKCE with S256 is required (RFC 7636);
//   - a redirect address must be registered (RFC 8252 §7.3: a loopback address
//     without a port matches any port);
//   - both requests must send one resource (RFC 8707), and the audience of a token
//     is checked;
//   - a code and a refresh token serve once. A second use ends the grant, as with
//     Keycloak's "Revoke Refresh Token".
//
// Answers have Keycloak's members and its error texts.
//
// Tests move its clock ([Server.Advance]), read its requests ([Server.Requests]),
// make any step fail ([Server.Fail]), get tokens without a browser
// ([Server.Issue]) and take them away again.
//
// A program can act as the person at the browser, since the pages are plain forms.
// The sign-in form takes username and password ([Server.Accounts]). The consent
// form takes decision, which is approve or deny. Send the hidden fields and the
// cookies along.
//
// The package imports nothing else of this module. Otherwise a mistake in shared
// code would be in the client and in the server, and no test would find it.
//
// It keeps nothing across a restart, listens on loopback only, speaks no TLS, and
// is no authorization server for production: its sign-in page shows its passwords.
package sandbox
