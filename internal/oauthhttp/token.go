package oauthhttp

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/internal/text"
)

// Client authentication methods at the token endpoint (RFC 6749 §2.3,
// RFC 7591 §2 token_endpoint_auth_method). Nothing is ever probed.
const (
	AuthNone  = "none"
	AuthPost  = "client_secret_post"
	AuthBasic = "client_secret_basic"
)

// ClientAuth says who asks at a token or revocation endpoint, and how that is
// proved. The zero Method means none.
type ClientAuth struct {
	ID     string
	Secret secret.Secret
	Method string
}

// A Token is a successful answer of a token endpoint (RFC 6749 §5.1).
type Token struct {
	AccessToken secret.Secret
	TokenType   string // always "Bearer"

	RequestedAt time.Time // when the request was sent
	ExpiresAt   time.Time // of the access token; zero: the server did not say

	RefreshToken     secret.Secret // empty if none came
	RefreshExpiresAt time.Time     // zero: unknown, or never where RefreshForever
	RefreshForever   bool          // the server stated that it does not expire

	Scopes      []string // as the server stated them
	ScopeStated bool     // false: the answer had no scope member
}

// An Outcome is how far a token request came.
type Outcome int

const (
	// NotSent: no byte of the request left (address, DNS, dial, TLS).
	NotSent Outcome = iota
	// Refused: the server answered without carrying it out.
	Refused
	// Unknown: it may have been carried out and the answer is lost.
	Unknown
)

func (o Outcome) String() string {
	switch o {
	case NotSent:
		return "not sent"
	case Refused:
		return "refused"
	case Unknown:
		return "outcome unknown"
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}

// A TokenError is a failed request at a token or revocation endpoint. Of what
// the server wrote it holds error and error_description only (RFC 6749 §5.2),
// cut to 200 characters, without control characters and without any secret
// that the request itself carried.
type TokenError struct {
	Endpoint    string // without query
	Outcome     Outcome
	Status      int           // HTTP status; 0 if no answer came
	Code        string        // the OAuth error code; "" if the answer had none
	Description string        // error_description
	RetryAfter  time.Duration // of the Retry-After header, at most an hour; 0 if none
	Err         error         // the cause, for errors.Is and errors.As; nil where Status and Code say it all
}

// Error names the endpoint's host, what became of the request, and why.
func (e *TokenError) Error() string {
	var b strings.Builder
	b.WriteString("request")
	if u, err := url.Parse(e.Endpoint); err == nil && u.Host != "" {
		b.WriteString(" to " + text.Host(u.Host))
	}
	fmt.Fprintf(&b, ": %v", e.Outcome)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (status %d)", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, ": %q", e.Code)
	}
	if e.Description != "" {
		fmt.Fprintf(&b, " (%q)", e.Description)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause, which may be nil.
func (e *TokenError) Unwrap() error { return e.Err }
