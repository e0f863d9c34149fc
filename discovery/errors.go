package discovery

import (
	"errors"
	"fmt"
	"strings"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrNoPKCE: the authorization server does not state that it supports PKCE
// with S256. The MCP specification ("Authorization Code Protection") has a
// client refuse it.
var ErrNoPKCE = errors.New("no S256 in code_challenge_methods_supported")

// ErrForeignEndpoint is wrapped by the [*URLError] about an endpoint that is not
// at the issuer which the document states. A document found at the issuer's own
// well-known addresses may have its endpoints anywhere. One found elsewhere
// could be an attacker's, who gets the code and what it is redeemed with if one
// endpoint is theirs: it may state the issuer of [Request.Issuer] or
// [Request.MayState] only if authorization, token, registration, revocation,
// userinfo and device authorization endpoint have the issuer's origin (RFC 6454
// §4) and lie below its path. A path with a segment in braces, as in
// https://login.example.com/{tenantid}/v2.0, stands for many, and then the
// origin alone counts.
var ErrForeignEndpoint = errors.New("not at the issuer that the document states")

// An issuerError is an issuer that nothing can be fetched from.
type issuerError struct{ err error }

func (e *issuerError) Error() string { return "discovery: issuer: " + e.err.Error() }
func (e *issuerError) Unwrap() error { return e.err }

// A MismatchError is a document that speaks for another resource (RFC 9728
// §3.3) or another issuer (RFC 8414 §3.3) than the one asked for. Nothing of
// it was used, and no further address was tried.
type MismatchError struct {
	Document string // its URL
	Field    string // "resource" or "issuer"
	Want     string
	Got      string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("discovery: %s states %s %s, want %s", text.QuoteURL(e.Document), e.Field, text.QuoteURL(e.Got), text.QuoteURL(e.Want))
}

// A URLError is an address in a metadata document that must not be used: not
// https, for one. Nothing of the document was used.
type URLError struct {
	Document string // its URL
	Field    string // the member, such as "token_endpoint"
	Err      error
}

func (e *URLError) Error() string {
	return fmt.Sprintf("discovery: %s of %s: %v", e.Field, text.QuoteURL(e.Document), e.Err)
}

func (e *URLError) Unwrap() error { return e.Err }

// What a [NotFoundError] is about.
const (
	ResourceMetadata = "protected-resource metadata"
	ServerMetadata   = "authorization-server metadata"
)

// A NotFoundError says that a document could not be had anywhere.
type NotFoundError struct {
	What  string    // [ResourceMetadata] or [ServerMetadata]
	Tried []Attempt // in order
}

// An Attempt is one address and why what it yielded is no such document.
type Attempt struct {
	URL string
	Err error
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "discovery: no %s", e.What)
	sep := ": "
	for _, a := range e.Tried {
		fmt.Fprintf(&b, "%s%s: %v", sep, text.QuoteURL(a.URL), a.Err)
		sep = "; "
	}
	return b.String()
}

// Unwrap returns the error of each attempt.
func (e *NotFoundError) Unwrap() []error {
	errs := make([]error, len(e.Tried))
	for i, a := range e.Tried {
		errs[i] = a.Err
	}
	return errs
}

// incomplete is a document without the member that it names.
type incomplete string

func (e incomplete) Error() string { return "no " + string(e) + " in it" }
