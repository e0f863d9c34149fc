// Package dcr is step 3 of the documented flow: it registers the application
// as a client at the authorization server (RFC 7591), and deletes what it
// registered (RFC 7592 §2.3).
//
// It does not keep the client: store it, and register once, not at every
// sign-in, since servers limit how many clients they take. It does not read or
// update registrations, and sends no software statement.
package dcr
