package authcode

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrState means that the callback's state is missing, doubled or not ours. The
// callback is no answer to our request, and the caller should go on waiting.
var ErrState = errors.New("authcode: the callback does not carry the state of this sign-in")

// ErrNoCode means that the callback is ours, but holds neither an error nor a code,
// or a parameter twice (RFC 6749 §3.1).
var ErrNoCode = errors.New("authcode: the callback holds no usable code")

// An IssuerError is a callback from another authorization server than the one that
// was asked (RFC 9207 §2.4). Of its parameters only state and iss were read.
type IssuerError struct {
	Want string
	Got  string // "" if the metadata promise iss and it is missing
}

func (e *IssuerError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("authcode: the callback names no issuer, want %s", text.QuoteURL(e.Want))
	}
	return fmt.Sprintf("authcode: the callback is from %s, want %s", text.QuoteURL(e.Got), text.QuoteURL(e.Want))
}

// An AuthorizationError is a refusal by the server or the user (RFC 6749
// §4.1.2.1). Code and Description are cut to 200 characters, without invisible
// characters and without the callback's state and code.
type AuthorizationError struct {
	Code        string // "access_denied", "invalid_scope", …
	Description string // error_description, "" if none came
}

func (e *AuthorizationError) Error() string {
	if e.Description == "" {
		return fmt.Sprintf("authcode: the server answered %q", e.Code)
	}
	return fmt.Sprintf("authcode: the server answered %q: %q", e.Code, e.Description)
}

// Denied reports whether the user refused consent, or the server did in their
// place.
func (e *AuthorizationError) Denied() bool { return e.Code == "access_denied" }

// A Check holds the facts that a callback must match. Record it before the browser
// opens.
type Check struct {
	State  Secret // that of the request; empty: every callback is refused
	Issuer string // of the validated metadata

	// IssSupported is the metadata's
	// authorization_response_iss_parameter_supported.
	IssSupported bool
}

// Code takes the query of a callback and returns the authorization code. It checks
// the state first, then iss, then error, then code, and stops at the first failure.
//
// The rule for iss (MCP, "Authorization Response Validation"): a server that
// promises iss must send it, and every iss must be exactly the issuer. A server
// that neither promises nor sends iss is accepted. Its answers then look like those
// of any other server: an attacker's server can send the user on to it, and the
// attacker is given its code (RFC 9700 §4.4, "mix-up"). Only the operator of that
// server can prevent this.
//
// Errors: [ErrState], [*IssuerError], [*AuthorizationError], [ErrNoCode].
func (c Check) Code(query url.Values) (Secret, error) {
	state := query["state"]
	if len(state) != 1 || c.State.IsZero() || !c.State.Equal(NewSecret(state[0])) {
		return Secret{}, ErrState
	}
	secrets := []string{state[0], query.Get("code")}
	iss := query["iss"]
	for _, got := range iss {
		if got != c.Issuer {
			return Secret{}, &IssuerError{Want: c.Issuer, Got: text.Redact(got, secrets...)}
		}
	}
	if c.IssSupported && len(iss) == 0 {
		return Secret{}, &IssuerError{Want: c.Issuer}
	}
	for _, values := range query {
		if len(values) > 1 {
			return Secret{}, fmt.Errorf("%w: a parameter came twice", ErrNoCode)
		}
	}
	if query.Has("error") {
		return Secret{}, &AuthorizationError{
			Code:        text.Without(query.Get("error"), secrets...),
			Description: text.Without(query.Get("error_description"), secrets...),
		}
	}
	code := NewSecret(query.Get("code"))
	if code.IsZero() {
		return Secret{}, ErrNoCode
	}
	return code, nil
}
