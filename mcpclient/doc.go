// Package mcpclient connects to a hosted MCP server with OAuth. It signs the user in,
// keeps the tokens fresh, and returns a session of the go-sdk. It is step 7 of the
// documented flow, "connect over Streamable HTTP with the bearer token", and takes
// all the other steps.
//
//	client := &mcpclient.Client{Name: "Acme Notes"} // Astravue, the browser, the OS keychain
//	defer client.Close()                            // waits for a refresh under way
//	session, err := client.Connect(ctx)             // *mcp.ClientSession of the go-sdk
//
// # The flow
//
// A [Client] without tokens takes these steps, each a package of its own that
// can be used alone:
//
//  1. discovery: protected-resource metadata (RFC 9728) and authorization-server metadata (RFC 8414)
//  2. pkce: a code verifier and its S256 challenge (RFC 7636)
//  3. dcr: a client ID, given, named by URL, or registered (RFC 7591) and kept
//  4. authcode: the authorization URL, with state and resource (RFC 6749 §4.1.1, RFC 8707)
//  5. callback: the loopback listener that the browser is sent back to (RFC 8252 §7.3)
//  6. authcode: the code for tokens, with verifier and resource; tokenstore: where they are kept
//  7. mcpclient: the bearer token on every request to the server (RFC 6750 §2.1)
//  8. refresh: new tokens before the old ones expire (RFC 6749 §6), rotation included
//
// With tokens it takes step 7 alone, and step 8 when they are about to expire.
// Errors name the step: [StepError].
//
// # What stands between the SDK and the server
//
// Tokens are put on requests by an [http.RoundTripper] under the go-sdk's
// StreamableClientTransport, not by its OAuthHandler. A request may be refused, a
// stream may break, and the server may forget the session: that is mended, or
// becomes a typed error of that one call, and the session goes on. Look with
// errors.As and errors.Is in the error of a call for [ForbiddenError],
// [TokenRefusedError], [IssuerChangedError], [AnswerError], [ErrLoginRequired],
// [ErrNoAnswer] and [ErrTooLarge].
//
// The package has no dialect of MCP: [Client.Connect] returns the SDK's own
// session. It does not show tokens to its caller, and stores them in the
// [tokenstore.Store] only.
//
// A call whose connection ends before the answer comes may have been carried out.
// It is repeated if that is safe: if it lists or reads, or calls a tool that the
// last list of tools has as read-only or idempotent. Any other call fails with
// [ErrNoAnswer]. A repetition has an ID of its own. If the caller cancels the call
// then, a server of MCP 2025-11-25 gets a notice with the first ID only, and the
// connection of the repetition ends.
package mcpclient

// Inside, knowledge points one way: Client → conn → authorizer → signIns → flow →
// settings. layers_test.go has the files of each.
