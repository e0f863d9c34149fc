// Package pkce is step 2 of the documented flow: the proof key that binds an
// authorization code to whoever asked for it (RFC 7636).
//
// It does not keep the verifier: hold it in memory or in a sealed session until
// the code exchange, its only use.
package pkce

import (
	"fmt"

	"golang.org/x/oauth2"
)

// Method is the code_challenge_method, the only one that OAuth 2.1 keeps
// (RFC 7636 §4.2).
const Method = "S256"

// A Verifier is a code verifier (RFC 7636 §4.1): one for each authorization
// request, never sent before the code exchange. It prints as [redacted]. The
// zero value is no verifier. Safe for concurrent use.
type Verifier struct{ s Secret }

// New returns a verifier of 32 random bytes, base64url without padding.
func New() Verifier { return Verifier{NewSecret(oauth2.GenerateVerifier())} }

// FromSecret returns the verifier that [Verifier.Secret] gave away, for a flow
// that is finished by another process. It is not checked.
func FromSecret(s Secret) Verifier { return Verifier{s} }

// Secret returns what is sent as code_verifier.
func (v Verifier) Secret() Secret { return v.s }

// Challenge returns what is sent as code_challenge: base64url(SHA-256(verifier)).
func (v Verifier) Challenge() string { return oauth2.S256ChallengeFromVerifier(v.s.Reveal()) }

// Format writes [redacted] for every verb.
func (v Verifier) Format(f fmt.State, verb rune) { v.s.Format(f, verb) }
