// Package authcode is steps 4 and 6 of the flow: the authorization URL, the check
// of the callback, and the exchange of the code for a token.
//
// It follows RFC 6749 §4.1 (authorization code), RFC 7636 (PKCE), RFC 8707
// (resource) and RFC 9207 (iss), as the MCP authorization specification
// (2026-07-28) combines them.
//
// A [Request] yields the URL. A [Check] is kept until the callback comes. It holds
// facts from before the browser opened, and no answer is believed without them. An
// [Exchange] is sent once: if a server sees a code twice, it may revoke the tokens
// that it issued for it (RFC 6749 §4.1.2).
//
// The package opens no browser, listens on no port, makes no PKCE verifier, seals
// nothing that is kept between the steps, and stores no token.
package authcode
