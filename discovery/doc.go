// Package discovery is step 1 of the flow. It takes the URL of an MCP server and
// yields everything that a sign-in needs to know, checked.
//
// It follows the MCP authorization specification (2026-07-28, "Authorization
// Server Discovery"), which builds on RFC 9728 (protected-resource metadata),
// RFC 8414 and OpenID Connect Discovery (authorization-server metadata), RFC
// 6750 §3 and RFC 9110 §11 (the challenge of a 401).
//
// [Discover] looks for two documents, or with a pinned issuer for up to three,
// each at a short list of addresses in a fixed order. If
// https://api.example.com/mcp announces the issuer
// https://auth.example.com/realms/x, these are
//
//	resource_metadata of the challenge, if there is one
//	https://api.example.com/.well-known/oauth-protected-resource/mcp
//	https://api.example.com/.well-known/oauth-protected-resource
//
//	https://auth.example.com/.well-known/oauth-authorization-server/realms/x
//	https://auth.example.com/.well-known/openid-configuration/realms/x
//	https://auth.example.com/realms/x/.well-known/openid-configuration
//
// An address without a usable document (missing, HTML, a server error, malformed,
// without a required member) is passed over for the next one. If none has it, a
// [*NotFoundError] lists them all.
//
// Three kinds of document end the search at once: one that speaks for somebody
// else ([*MismatchError]), one with an address that no client may use
// ([*URLError]), and one without PKCE ([ErrNoPKCE]). Otherwise the author of a bad
// document could choose which later one is believed.
//
// The package caches nothing, reads no signed metadata (RFC 9728 §2.2), and never
// guesses an authorization server for a resource that announces none.
package discovery
