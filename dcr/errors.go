package dcr

import (
	"errors"
	"fmt"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// ErrUnsupported means that the server has no registration endpoint or, from
// [Delete], that the client has no management address.
var ErrUnsupported = errors.New("dcr: not offered by the server")

// Error codes (RFC 7591 §3.2.2).
const (
	InvalidRedirectURI    = "invalid_redirect_uri"
	InvalidClientMetadata = "invalid_client_metadata"
)

// An Error is a refusal by the server (RFC 7591 §3.2.2, RFC 7592 §2).
type Error struct {
	Status      int
	Code        string // error; "" if the answer had none
	Description string // error_description, at most 200 characters
	// Policy is the client registration policy that Keycloak names in a 403, such
	// as "Trusted Hosts"; "" if there is none. The code is then
	// insufficient_scope, although no scope is missing.
	Policy string
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "dcr: the server refused with status %d", e.Status)
	if e.Code != "" {
		fmt.Fprintf(&b, ": %q", e.Code)
	}
	if e.Description != "" {
		fmt.Fprintf(&b, " (%q)", e.Description)
	}
	return b.String()
}

// A RedirectURIError means that the server registered a client with none of the
// redirect addresses that were sent.
type RedirectURIError struct{ Sent, Registered []string }

func (e *RedirectURIError) Error() string {
	return fmt.Sprintf("dcr: the server registered none of the redirect addresses %q", e.Sent)
}

func readError(status int, body []byte, sent Secret) *Error {
	e := &Error{Status: status}
	e.Code, e.Description = oauthhttp.ErrorOf(body, sent.Reveal())
	if _, rest, ok := strings.Cut(e.Description, "Policy '"); ok {
		e.Policy, _, _ = strings.Cut(rest, "'")
	}
	return e
}
