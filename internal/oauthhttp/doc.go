// Package oauthhttp is the HTTP under every step of the documented flow: it
// fetches metadata documents, posts forms and registrations, and reads token
// answers (RFC 6749 §5, RFC 7009, RFC 7591 §3, RFC 8414 §3). What comes from
// outside is taken to be hostile: addresses are https or loopback, bodies are
// capped, doubled JSON names are refused, a request is sent once.
//
// It does not decide: which documents belong together is discovery's business,
// what follows from a refused or lost refresh is package refresh's.
package oauthhttp
