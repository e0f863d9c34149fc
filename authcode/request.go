package authcode

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
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

// URL returns the address to open in the user's browser. It holds the state
// and is to be treated like it. A query that the endpoint already has is kept;
// one that names a parameter of ours is refused, since each may appear only
// once (RFC 6749 §3.1).
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
	standing, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", errors.New("authcode: the authorization endpoint's query is malformed")
	}
	ours := url.Values{}
	for _, p := range []struct{ name, value string }{
		{"response_type", "code"},
		{"client_id", r.ClientID},
		{"redirect_uri", r.RedirectURI},
		{"scope", strings.Join(r.Scopes, " ")},
		{"state", r.State.Reveal()},
		{"code_challenge", r.CodeChallenge},
		{"code_challenge_method", "S256"},
		{"resource", r.Resource},
		{"prompt", r.Prompt},
		{"login_hint", r.LoginHint},
	} {
		if standing.Has(p.name) {
			return "", fmt.Errorf("authcode: the authorization endpoint already has the parameter %s", p.name)
		}
		if p.value != "" {
			ours.Set(p.name, p.value)
		}
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += ours.Encode()
	return u.String(), nil
}
