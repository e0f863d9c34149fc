// Package refresh keeps an access token fresh: step 8 of the documented flow,
// "grant_type=refresh_token, refresh_token, client_id. Every refresh returns a
// new refresh token and invalidates the previous one" (RFC 6749 §6, RFC 8707
// §2.2, OAuth 2.1 §4.3).
//
// With rotation exactly one party may spend a refresh token, once: a server that
// sees a spent token again ends the whole grant. So [Source] spends it under the
// lock of the [tokenstore.Store], which holds across goroutines, processes and,
// with a shared store, hosts:
//
//  1. Take the lock and read the grant again. If another process has renewed it,
//     take its token and send nothing.
//  2. Write the pending mark. After a crash it tells the next process that the
//     token may be spent.
//  3. Send the token, once. [RetryError], [ErrLoginRequired] and [ErrAnswerLost]
//     say what follows if no new token comes back.
//  4. Save the new tokens, remove the mark, and only then hand out the access
//     token.
//
// A call with a fresh token costs one look at the clock and one atomic load. The
// token is renewed in the last quarter of its life, at most a minute before its
// expiry, while callers go on with the one they have.
//
// The package does not sign in, does not revoke, and sends tokens to the token
// endpoint only. It never creates a record, so a logout during a refresh wins.
// A server that does not accept a token tells its caller, who calls
// [Source.Refused].
package refresh
