// Package oauthhttp is the HTTP under every step of the documented flow. It
// fetches metadata documents, posts forms and registrations, and reads token
// answers (RFC 6749 §5, RFC 7009, RFC 7591 §3, RFC 8414 §3). It takes every
// answer for hostile: addresses are https or loopback, bodies have a limit,
// doubled JSON names are refused, and each request is sent once.
//
//	token.go      the token and the revocation endpoint
//	document.go   JSON documents: metadata, registrations
//	once.go       sending once, limits, how far a request came
//	transport.go  the guard at the dial: no way to private addresses
//	url.go        one spelling of addresses, and rules about them
//	json.go       JSON without doubled names
//
// It does not decide which documents belong together (package discovery), nor
// what a refused or lost refresh leads to (package refresh).
package oauthhttp
