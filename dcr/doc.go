// Package dcr is step 3 of the documented flow. It registers the application as a
// client at the authorization server (RFC 7591), and deletes a registration (RFC
// 7592 §2.3).
//
// It does not store the client. The caller should, and register once instead of at
// every sign-in: servers limit the number of clients. The package does not read or
// update registrations, and sends no software statement.
package dcr
