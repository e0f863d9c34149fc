// Package discovery is step 1 of the flow: from the URL of an MCP server to
// everything that a sign-in needs to know, checked.
//
// It follows the MCP authorization specification (2026-07-28, "Authorization
// Server Discovery"), which stands on RFC 9728 (protected-resource metadata),
// RFC 8414 and OpenID Connect Discovery (authorization-server metadata), RFC
// 6750 §3 and RFC 9110 §11 (the challenge of a 401).
//
// [Discover] asks for two documents, or with a pinned issuer for up to three,
// each at a short list of addresses in a fixed order. For https://api.example.com/mcp, announcing the issuer
// https://auth.example.com/realms/x:
//
//	resource_metadata of the challenge, if there is one
//	https://api.example.com/.well-known/oauth-protected-resource/mcp
//	https://api.example.com/.well-known/oauth-protected-resource
//
//	https://auth.example.com/.well-known/oauth-authorization-server/realms/x
//	https://auth.example.com/.well-known/openid-configuration/realms/x
//	https://auth.example.com/realms/x/.well-known/openid-configuration
//
// An address that yields no usable document (missing, HTML, a server error,
// malformed, without a required member) is passed over for the next, and the
// final [*NotFoundError] lists them all. A document that is there and speaks
// for somebody else ([*MismatchError]), names an address that no client may
// use ([*URLError]) or does not offer PKCE ([ErrNoPKCE]) ends the search at
// once: going on would let whoever wrote it choose what is believed instead.
//
// What it does not do: it caches nothing, reads no signed metadata (RFC 9728
// §2.2), and never invents an authorization server for a resource that
// announces none.
package discovery
