package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// ProtectedResource is what a client reads of a resource's metadata (RFC 9728
// §2). Other members are ignored, whatever they hold.
type ProtectedResource struct {
	Resource             string   `json:"resource"`              // REQUIRED
	AuthorizationServers []string `json:"authorization_servers"` // issuers; the MCP specification demands one
	ScopesSupported      []string `json:"scopes_supported,omitempty"`
}

// AuthorizationServer is what a client reads of an authorization server's
// metadata (RFC 8414 §2). Other members are ignored, whatever they hold.
type AuthorizationServer struct {
	Issuer                            string   `json:"issuer"`                          // REQUIRED
	AuthorizationEndpoint             string   `json:"authorization_endpoint"`          // REQUIRED
	TokenEndpoint                     string   `json:"token_endpoint"`                  // REQUIRED
	RegistrationEndpoint              string   `json:"registration_endpoint,omitempty"` // RFC 7591; "": none
	RevocationEndpoint                string   `json:"revocation_endpoint,omitempty"`   // RFC 7009; "": none
	ScopesSupported                   []string `json:"scopes_supported,omitempty"`      // never a list to ask for
	TokenEndpointAuthMethodsSupported []string `json:"token_endpoint_auth_methods_supported,omitempty"`
	CodeChallengeMethodsSupported     []string `json:"code_challenge_methods_supported"` // S256 among them

	// RFC 9207 §3: every authorization response carries iss.
	AuthorizationResponseIssParameterSupported bool `json:"authorization_response_iss_parameter_supported,omitempty"`

	// The client_id may be the URL of a client ID metadata document.
	ClientIDMetadataDocumentSupported bool `json:"client_id_metadata_document_supported,omitempty"`

	// ProtectedResources are those that the server can be used with (RFC 9728
	// §4); empty: it does not say, or not in a way that can be read.
	ProtectedResources lenient `json:"protected_resources,omitempty"`
}

// lenient is a list of an optional member: what is no list of strings counts as
// absent, since nothing but a warning hangs on it.
type lenient []string

func (l *lenient) UnmarshalJSON(data []byte) error {
	var list []string
	if json.Unmarshal(data, &list) == nil {
		*l = list
	}
	return nil
}

// MayServe reports whether the server can be used with a resource, as far as
// it says: without [AuthorizationServer.ProtectedResources] with any. URLs are
// compared as in [Discover].
func (a *AuthorizationServer) MayServe(resource string) bool {
	is := func(other string) bool {
		u, err := url.Parse(resource)
		v, otherErr := url.Parse(other)
		return other == resource || err == nil && otherErr == nil && oauthhttp.Canonical(u) == oauthhttp.Canonical(v)
	}
	return len(a.ProtectedResources) == 0 || slices.ContainsFunc(a.ProtectedResources, is)
}

const resourceWellKnown = "/.well-known/oauth-protected-resource"

// resourceURLs lists where the metadata of server may be (RFC 9728 §3.1), the
// challenge's address first.
func resourceURLs(server *url.URL, challenge string) []string {
	root := oauthhttp.Origin(server) + resourceWellKnown
	var urls []string
	if u, err := url.Parse(challenge); err == nil && challenge != "" {
		challenge = oauthhttp.Canonical(u) // to know it again below, and in binds
	}
	if challenge != "" {
		urls = append(urls, challenge)
	}
	// "If the resource identifier value contains a path or query component,
	// any terminating slash (/) following the host component MUST be removed".
	urls = append(urls, root+strings.TrimPrefix(oauthhttp.Canonical(server), oauthhttp.Origin(server)), root)
	return unique(urls)
}

// issuerURLs lists where the metadata of issuer may be: RFC 8414 §3.1, then
// OpenID Connect Discovery §4 with the path inserted, then appended.
func issuerURLs(issuer *url.URL) []string {
	host := oauthhttp.Origin(issuer)
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	return unique([]string{
		host + "/.well-known/oauth-authorization-server" + path,
		host + "/.well-known/openid-configuration" + path,
		host + path + "/.well-known/openid-configuration",
	})
}

func unique(urls []string) []string {
	var out []string
	for _, u := range urls {
		if !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

// binds reports whether a document found at docURL that states resource is
// that of server.
func binds(server *url.URL, docURL, resource string) bool {
	u, err := url.Parse(resource)
	if err != nil || strings.Contains(resource, "#") { // RFC 8707 §2: no fragment
		return false
	}
	stated := oauthhttp.Canonical(u)
	return stated == oauthhttp.Canonical(server) || stated == oauthhttp.Origin(server) && docURL == oauthhttp.Origin(server)+resourceWellKnown
}

// first fetches documents until one passes check. An incomplete one is passed
// over, any other complaint of check is final.
func first[T any](ctx context.Context, hc *http.Client, server, what string, urls []string, check func(at string, doc *T) error) (doc *T, at string, err error) {
	none := &NotFoundError{What: what}
	for _, at := range urls {
		doc := new(T)
		_, err := oauthhttp.CheckNamed(ctx, hc, at, server)
		if err == nil {
			err = oauthhttp.GetJSON(ctx, hc, at, doc)
		}
		if ctx.Err() != nil {
			return nil, "", fmt.Errorf("discovery: look for %s at %s: %w", what, text.QuoteURL(at), ctx.Err())
		}
		if err == nil {
			err = check(at, doc)
			if err == nil {
				return doc, at, nil
			}
			if !errors.As(err, new(incomplete)) {
				return nil, "", err
			}
		}
		none.Tried = append(none.Tried, Attempt{at, err})
	}
	return nil, "", none
}
