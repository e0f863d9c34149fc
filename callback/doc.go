// Package callback receives the answer of a sign-in: step 5 of the documented
// flow, "read code, state, error; always validate state first", on the loopback
// interface (RFC 8252 §7.3 and §8.3).
//
// [Listen] binds the address before the browser is opened. [Listener.Wait] hands
// each answer to a function of the caller, which verifies it and finishes the
// sign-in. Then the browser gets a page that says how it ended. If the browser
// runs on another machine, somebody can paste its address instead: that is an
// answer like any other, and the first good one decides.
//
// [Listener.Start] returns the address to open in the browser. Its page sends the
// browser on to the authorization server, and marks it, so that a browser which
// comes back is recognized. Without it, everybody who reads the authorization URL,
// in the list of processes or over a shoulder, can sign in there under another
// account and answer (RFC 6749 §10.12). State and PKCE do not help, since both are
// in that URL.
//
// Every program and every web page on the machine can speak to the port. So the
// listener takes only the exact path, GET and the exact Host, and reads only the
// query. Its pages hold nothing of the request.
//
// The package does not know what a state or a code is, opens no browser and talks
// to no server. Only the caller's context limits a wait.
package callback
