// Package pkce is step 2 of the documented flow: the proof key that binds an
// authorization code to the client that asked for it (RFC 7636).
//
// It does not store the verifier. Keep it in memory or in a sealed session until
// the code exchange, its only use.
package pkce

import (
	"fmt"

	"golang.org/x/oauth2"
)

// Method is the code_challenge_method (RFC 7636 §4.2). OAuth 2.1 recommends no
// other.
const Method = "S256"

// A Verifier is a code verifier (RFC 7636 §4.1). Make one for each authorization
// request, and send it in the code exchange only. It prints as [redacted]. The zero
// value is no verifier. Safe for concurrent use.
type Verifier struct{ s Secret }

// New returns a verifier of 32 random bytes, base64url without padding.
func New() Verifier { return Verifier{NewSecret(oauth2.GenerateVerifier())} }

// FromSecret returns a verifier from the result of [Verifier.Secret], for a flow that
// another process finishes. It does not check s.
func FromSecret(s Secret) Verifier { return Verifier{s} }

// Secret returns the value to send as code_verifier.
func (v Verifier) Secret() Secret { return v.s }

// Challenge returns the value to send as code_challenge: base64url(SHA-256(verifier)).
func (v Verifier) Challenge() string { return oauth2.S256ChallengeFromVerifier(v.s.Reveal()) }

// Format writes [redacted] for every verb.
func (v Verifier) Format(f fmt.State, verb rune) { v.s.Format(f, verb) }
