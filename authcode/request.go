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
	State         Secret   // REQUIRED: from [NewState], for this request only
	CodeChallenge string   // REQUIRED: S256 of the verifier (RFC 7636 §4.2)
	Scopes        []string // empty: the server's default
	Resource      string   // RFC 8707; empty: not sent
	Prompt        string   // OpenID Connect Core §3.1.2.1: "consent", "select_account"; empty: not sent
	LoginHint     string   // OpenID Connect Core §3.1.2.1: the account to sign in; empty: not sent
}

// A ParameterError means that the authorization endpoint's own query has a
// parameter that only the request may have.
type ParameterError struct{ Name string }

func (e *ParameterError) Error() string {
	return "authcode: the authorization endpoint already has the parameter " + text.Quote(e.Name)
}

// reserved are parameters that would turn the request into another one. Of a
// request object the server uses all parameters and ignores ours (RFC 9101 §6.3).
// response_mode makes the server send the code another way (OAuth 2.0 Multiple
// Response Type Encoding Practices §2.1).
var reserved = []string{"request", "request_uri", "response_mode"}

// URL returns the address to open in the user's browser. It holds the state, so it
// is as secret as the state. A query that the endpoint already has is kept, encoded
// again. If it has a parameter of this request, or request, request_uri or
// response_mode, URL returns a [*ParameterError]: each may appear only once (RFC
// 6749 §3.1). Names that some server may read as one of these count too.
//
// The address is safe for a program that hands it to a shell, as ssh does. Besides
// letters, digits and - . _ ~ it has only : / @ + , = and % in its path, [ ] around
// an IPv6 address, one ?, and & = + % in its query. The only one of these that can
// start a command in a shell is &. After it comes one of two things:
//
//   - a parameter of this request with = and a value, which sh takes for an
//     assignment;
//   - a parameter of the endpoint. Its name begins with %, and no command does,
//     whether = ends the name of a command (cmd.exe) or not (sh).
//
// cmd.exe takes text between two % for a variable, and replaces it if there is one
// of that name.
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
	taken := slices.Clone(reserved)
	for _, p := range ours {
		taken = append(taken, p.name)
	}
	query, err := endpointQuery(u.RawQuery, taken)
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

// endpointQuery returns the parameters of the endpoint's own query in their order,
// encoded again. Every name but the first gets its first byte percent-encoded, also
// if it need not be; the meaning stays (RFC 3986 §2.3). A name of taken is a
// [*ParameterError].
func endpointQuery(raw string, taken []string) ([]string, error) {
	malformed := errors.New("authcode: the authorization endpoint's query is malformed")
	if strings.Contains(raw, ";") { // some servers take it for an &
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
		if slices.ContainsFunc(taken, func(t string) bool { return strings.EqualFold(t, loosest(name)) }) {
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

// loosest returns a parameter's name as the least careful server reads it: PHP drops
// white space before it and everything from a bracket or a NUL on, and takes a dot
// or a space for an underscore. Upper and lower case are left to the caller.
func loosest(name string) string {
	name = strings.TrimSpace(name)
	if i := strings.IndexAny(name, "[\x00"); i >= 0 {
		name = name[:i]
	}
	return strings.NewReplacer(".", "_", " ", "_").Replace(name)
}
