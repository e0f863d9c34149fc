// Package keycloak runs the library and the command against Keycloak, the authorization server
// that Astravue has: whole flows through Keycloak's own pages (flow_test.go), the ways in which it
// differs from what specifications lead one to expect (traps_test.go), and a list of probes
// that it and the sandbox must answer alike (probes_test.go).
//
// Some traps have no test. An issuer whose host or scheme is not the one that Keycloak is reached
// by is a proxy's doing, and to a client the same as any metadata that states another issuer.
// Client-ID metadata documents want https and a trusted domain, which nothing on loopback has.
// The policy on protocol mappers refuses what we never send. Keycloak's clock cannot be moved, so
// nothing is said here about tokens that live for hours; where only a refresh matters, tests age
// the stored access token instead of waiting.
package keycloak
