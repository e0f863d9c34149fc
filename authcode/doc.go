// Package authcode is steps 4 and 6 of the flow: the authorization URL, the
// check of what comes back from it, and the exchange of the code for a token.
//
// It follows RFC 6749 §4.1 (authorization code), RFC 7636 (PKCE), RFC 8707
// (resource) and RFC 9207 (iss) as the MCP authorization specification
// (2026-07-28) puts them together.
//
// A [Request] yields the URL. A [Check] is kept until the redirect arrives: it
// holds what was known before the browser opened, so that nothing of the answer
// is believed on its own word. An [Exchange] is sent once; the server may
// revoke what it issued for a code that it sees twice (RFC 6749 §4.1.2).
//
// What it does not do: it opens no browser, listens on no port, makes no PKCE
// verifier, seals nothing that is kept between the steps, and stores no token.
package authcode
