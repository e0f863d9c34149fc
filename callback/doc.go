// Package callback receives the answer of a sign-in: step 5 of the documented
// flow, "read code, state, error; always validate state first", on the loopback
// interface (RFC 8252 §7.3 and §8.3).
//
// [Listen] binds the address before the browser is opened, [Listener.Wait]
// hands every answer that reaches it to a function of the caller, which
// verifies it and finishes the sign-in, and the browser is shown a page that
// says how that ended. An address that somebody pastes, since the browser runs
// on another machine, is an answer like any other and raced with the rest.
//
// [Listener.Start] gives the address to open in the browser: that of a page which
// sends it on to the authorization server, and by which the browser that
// comes back is known for the one that was sent. Without it, whoever has read
// the authorization URL, in the list of processes or over a shoulder, can sign in there as
// somebody else and answer (RFC 6749 §10.12). State and PKCE do not help, for both
// are in that URL.
//
// What is heard is narrow, because every program and every web page on the
// machine can speak to the port: the exact path, GET, the exact Host, and of
// those only the query. What is said is narrower: the pages hold nothing of
// the request.
//
// The package does not know what a state or a code is, does not open a browser,
// does not talk to any server, and does not end a wait by itself: the caller's
// context does.
package callback
