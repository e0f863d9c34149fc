package authcode

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrState: the callback's state is missing, doubled or not ours, so it is no
// answer to our request. Whoever waits for that answer goes on waiting.
var ErrState = errors.New("authcode: the callback does not carry the state of this sign-in")

// ErrNoCode: the callback is ours and holds neither an error nor exactly one
// code, or another parameter twice (RFC 6749 §3.1).
var ErrNoCode = errors.New("authcode: the callback holds no usable code")

// An IssuerError is a callback of another authorization server than the one
// that was asked (RFC 9207 §2.4). Nothing else of it was read.
type IssuerError struct {
	Want string
	Got  string // "" if iss was promised and is missing
}

func (e *IssuerError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("authcode: the callback names no issuer, want %s", text.QuoteURL(e.Want))
	}
	return fmt.Sprintf("authcode: the callback is from %s, want %s", text.QuoteURL(e.Got), text.QuoteURL(e.Want))
}

// An AuthorizationError is the server's or the user's no (RFC 6749 §4.1.2.1).
// Code and Description are cut to 200 characters, without control characters
// and without the callback's state and code.
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

// Denied reports whether the user, or the server for them, refused consent.
func (e *AuthorizationError) Denied() bool { return e.Code == "access_denied" }

// A Check is what a callback is held against, recorded before the browser
// opened.
type Check struct {
	State  Secret // of the request; empty: every callback is refused
	Issuer string // of the validated metadata

	// IssSupported is the metadata's
	// authorization_response_iss_parameter_supported.
	IssSupported bool
}

// Code takes a callback's query and returns its authorization code. It reads
// the state first, then iss, then error, then code, and nothing of what follows
// a failure.
//
// The rule for iss (MCP, "Authorization Response Validation"): a server that
// promises it must send it; whoever sends it must send the issuer's very string.
// A server that neither promises nor sends it is accepted, and nothing tells its
// answers from another's: an attacker's server can send the user on to it, and
// is then given its code (RFC 9700 §4.4, "mix-up"). Only its operator can mend
// that.
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
