// Package refresh keeps an access token fresh: step 8 of the documented flow,
// "grant_type=refresh_token, refresh_token, client_id. Every refresh returns a
// new refresh token and invalidates the previous one" (RFC 6749 §6, RFC 8707
// §2.2, OAuth 2.1 §4.3).
//
// Rotation makes a refresh token a thing that exactly one party may spend,
// once: a server that sees a spent one again ends the whole grant. So [Source]
// spends it under the lock of the [tokenstore.Store], which reaches across
// goroutines, processes and, with a shared store, hosts:
//
//  1. Take the lock and read the grant again. If somebody else has renewed it,
//     take that token and send nothing.
//  2. Write the pending mark, so that whoever comes after a crash knows that
//     the token may be spent.
//  3. Send, once. What follows depends on how far the request came: see
//     [RetryError], [ErrLoginRequired] and [ErrAnswerLost].
//  4. Save the answer, remove the mark, and only then hand the token out.
//
// A token that is fresh costs its callers one look at the clock and one atomic
// load. It is renewed ahead of time, in the last quarter of its life and at
// most a minute before its end, while callers go on with the one they have.
//
// The package does not sign in, does not send tokens to any server but the
// token endpoint, and does not revoke; it never makes a record, so that a
// logout meanwhile wins. Whether a server accepts a token is for its caller to
// say, with [Source.Refused].
package refresh
