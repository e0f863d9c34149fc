package authcode

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// NewState returns a fresh value for [Request].State and [Check].State, of at
// least 128 random bits.
func NewState() Secret { return NewSecret(rand.Text()) }

// A Request is an authorization request (RFC 6749 §4.1.1).
type Request struct {
	Endpoint      string   // REQUIRED: authorization_endpoint of the metadata
	ClientID      string   // REQUIRED
	RedirectURI   string   // REQUIRED, as registered: https, or http on a loopback host
	State         Secret   // REQUIRED: of NewState, for this request only
	CodeChallenge string   // REQUIRED: S256 of the verifier (RFC 7636 §4.2)
	Scopes        []string // empty: the server's default
	Resource      string   // RFC 8707; empty: not sent
	Prompt        string   // OpenID Connect Core §3.1.2.1: "consent", "select_account"
	LoginHint     string   // OpenID Connect Core §3.1.2.1: whose sign-in it is
}

// A ParameterError is an authorization endpoint whose own query has a parameter
// that is not the endpoint's to choose.
type ParameterError struct{ Name string }

func (e *ParameterError) Error() string {
	return "authcode: the authorization endpoint already has the parameter " + text.Quote(e.Name)
}

// foreign are the parameters that turn the request into another one: of a
// request object the server uses the parameters and no others (RFC 9101 §6.3),
// and response_mode has the code sent another way (OAuth 2.0 Multiple Response
// Type Encoding Practices §2.1).
var foreign = []string{"request", "request_uri", "response_mode"}

// URL returns the address to open in the user's browser. It holds the state
// and is to be treated like it. A query that the endpoint already has is kept,
// encoded anew. One that names a parameter of ours, or request, request_uri or
// response_mode, is a [*ParameterError]: each may appear only once (RFC 6749
// §3.1). Names that some server could read as one of these count as it.
//
// The address is one of RFC 3986, and what opens it may hand it to a shell, as
// ssh does. Besides letters, digits and - . _ ~ it has only : / @ + , = in its
// path and [ ] around an IPv6 address, then one ?, and & = + % in the query.
// No shell can run anything of that by itself. What follows an & it may take
// for a command, and these are: the names of this request, each with = and a
// value, which sh takes for assignments; and the endpoint's own parameters but
// the first, whose names begin with a % so that they are no command, whether
// = ends a command's name (cmd.exe) or not (sh). A text between two % is a
// variable to cmd.exe: it may be replaced where a variable is called so.
func (r Request) URL() (string, error) {
	u, err := oauthhttp.CheckURL(r.Endpoint, r.Endpoint)
	if err != nil {
		return "", fmt.Errorf("authcode: authorization endpoint: %w", err)
	}
	if _, err := oauthhttp.CheckURL(r.RedirectURI, r.RedirectURI); err != nil {
		return "", fmt.Errorf("authcode: redirect URI: %w", err)
	}
	if r.ClientID == "" || r.State.IsZero() || r.CodeChallenge == "" {
		return "", errors.New("authcode: client ID, state and code challenge are required")
	}
	ours := []struct{ name, value string }{
		{"client_id", r.ClientID},
		{"code_challenge", r.CodeChallenge},
		{"code_challenge_method", "S256"},
		{"login_hint", r.LoginHint},
		{"prompt", r.Prompt},
		{"redirect_uri", r.RedirectURI},
		{"resource", r.Resource},
		{"response_type", "code"},
		{"scope", strings.Join(r.Scopes, " ")},
		{"state", r.State.Reveal()},
	}
	taken := slices.Clone(foreign)
	for _, p := range ours {
		taken = append(taken, p.name)
	}
	query, err := standing(u.RawQuery, taken)
	if err != nil {
		return "", err
	}
	for _, p := range ours {
		if p.value != "" {
			query = append(query, p.name+"="+url.QueryEscape(p.value))
		}
	}
	u.RawPath = oauthhttp.Escape(u.EscapedPath(), "/:@+=,")
	u.RawQuery = strings.Join(query, "&")
	return u.String(), nil
}

// standing returns the parameters of an endpoint's own query in their order,
// each with a name, and each name but the first one with its first byte
// percent-encoded, whatever that is (RFC 3986 §2.3 has it mean what it did).
func standing(raw string, taken []string) ([]string, error) {
	malformed := errors.New("authcode: the authorization endpoint's query is malformed")
	if strings.Contains(raw, ";") { // which some servers take for an &
		return nil, malformed
	}
	var query []string
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil || name == "" {
			return nil, malformed
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, malformed
		}
		if slices.ContainsFunc(taken, func(t string) bool { return strings.EqualFold(t, read(name)) }) {
			return nil, &ParameterError{name}
		}
		escaped := url.QueryEscape(name)
		if len(query) > 0 {
			escaped = fmt.Sprintf("%%%02X", name[0]) + url.QueryEscape(name[1:])
		}
		query = append(query, escaped+"="+url.QueryEscape(value))
	}
	return query, nil
}

// read returns the name as the least careful server reads it, but for its case,
// which some take no notice of: PHP drops white space in front and what follows
// a bracket or a NUL, and takes a dot or a space for an underscore.
func read(name string) string {
	name = strings.TrimSpace(name)
	if i := strings.IndexAny(name, "[\x00"); i >= 0 {
		name = name[:i]
	}
	return strings.NewReplacer(".", "_", " ", "_").Replace(name)
}
