package discovery

import (
	"errors"
	"fmt"
	"strings"

	"github.com/astravue/mcp-client-go/internal/text"
)

// ErrNoPKCE means that the authorization server does not state that it supports
// PKCE with S256. The MCP specification ("Authorization Code Protection") requires
// a client to refuse such a server.
var ErrNoPKCE = errors.New("no S256 in code_challenge_methods_supported")

// ErrForeignEndpoint means that an endpoint is not at the issuer that its document
// states. A [*URLError] wraps it.
//
// A document at the issuer's own well-known addresses may have its endpoints
// anywhere. A document found elsewhere may be an attacker's: with one endpoint of
// theirs they get the code and everything that redeems it. Such a document may
// state [Request.Issuer] or [Request.MayState] only if its authorization, token,
// registration, revocation, userinfo and device authorization endpoints have the
// issuer's origin (RFC 6454 §4) and lie below its path. If a segment of that path
// is in braces, as in https://login.example.com/{tenantid}/v2.0, the path stands
// for many, and only the origin is compared.
var ErrForeignEndpoint = errors.New("not at the issuer that the document states")

// An issuerError is an issuer whose address may not be used.
type issuerError struct{ err error }

func (e *issuerError) Error() string { return "discovery: issuer: " + e.err.Error() }
func (e *issuerError) Unwrap() error { return e.err }

// A MismatchError is a document that speaks for another resource (RFC 9728 §3.3)
// or another issuer (RFC 8414 §3.3) than the one that was asked for. Nothing of it
// was used, and no further address was tried.
type MismatchError struct {
	Document string // its URL
	Field    string // "resource" or "issuer"
	Want     string
	Got      string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("discovery: %s states %s %s, want %s", text.QuoteURL(e.Document), e.Field, text.QuoteURL(e.Got), text.QuoteURL(e.Want))
}

// A URLError is an address in a metadata document that must not be used, for
// example because it is not https. Nothing of the document was used.
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

// A NotFoundError means that no address has the document.
type NotFoundError struct {
	What  string    // [ResourceMetadata] or [ServerMetadata]
	Tried []Attempt // in order
}

// An Attempt is one address, and why it yielded no usable document.
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

// incomplete is the error about a document without a required member; it holds the member's name.
type incomplete string

func (e incomplete) Error() string { return "no " + string(e) + " in it" }
