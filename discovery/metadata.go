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
	ScopesSupported                   []string `json:"scopes_supported,omitempty"`      // all that exist; not a list to ask for
	TokenEndpointAuthMethodsSupported []string `json:"token_endpoint_auth_methods_supported,omitempty"`
	CodeChallengeMethodsSupported     []string `json:"code_challenge_methods_supported"` // S256 among them

	// RFC 9207 §3: every authorization response carries iss.
	AuthorizationResponseIssParameterSupported bool `json:"authorization_response_iss_parameter_supported,omitempty"`

	// The client_id may be the URL of a client ID metadata document.
	ClientIDMetadataDocumentSupported bool `json:"client_id_metadata_document_supported,omitempty"`

	// ProtectedResources are the resources that the server can be used with
	// (RFC 9728 §4). It is empty if the server does not say, or not as a list of
	// strings.
	ProtectedResources lenient `json:"protected_resources,omitempty"`
}

// lenient is the list of an optional member. Any other value counts as absent,
// since only a warning depends on it.
type lenient []string

func (l *lenient) UnmarshalJSON(data []byte) error {
	var list []string
	if json.Unmarshal(data, &list) == nil {
		*l = list
	}
	return nil
}

// MayServe reports whether the server says that it can be used with resource. A
// server without [AuthorizationServer.ProtectedResources] can be used with any.
// URLs are compared as in [Discover].
func (a *AuthorizationServer) MayServe(resource string) bool {
	is := func(other string) bool {
		u, err := url.Parse(resource)
		v, otherErr := url.Parse(other)
		return other == resource || err == nil && otherErr == nil && oauthhttp.Canonical(u) == oauthhttp.Canonical(v)
	}
	return len(a.ProtectedResources) == 0 || slices.ContainsFunc(a.ProtectedResources, is)
}

const resourceWellKnown = "/.well-known/oauth-protected-resource"

// resourceURLs lists the addresses where the metadata of server may be (RFC 9728
// §3.1), the challenge's address first.
func resourceURLs(server *url.URL, challenge string) []string {
	root := oauthhttp.Origin(server) + resourceWellKnown
	var urls []string
	if u, err := url.Parse(challenge); err == nil && challenge != "" {
		challenge = oauthhttp.Canonical(u) // unique and binds compare spellings
	}
	if challenge != "" {
		urls = append(urls, challenge)
	}
	// "If the resource identifier value contains a path or query component,
	// any terminating slash (/) following the host component MUST be removed".
	urls = append(urls, root+strings.TrimPrefix(oauthhttp.Canonical(server), oauthhttp.Origin(server)), root)
	return unique(urls)
}

// issuerURLs lists the addresses where the metadata of issuer may be: that of RFC
// 8414 §3.1, then those of OpenID Connect Discovery §4 with the issuer's path at
// the end and at the beginning.
func issuerURLs(issuer *url.URL) []string {
	host := oauthhttp.Origin(issuer)
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	return unique([]string{
		host + "/.well-known/oauth-authorization-server" + path,
		host + "/.well-known/openid-configuration" + path,
		host + path + "/.well-known/openid-configuration",
	})
}

// unique returns urls in their order, each once.
func unique(urls []string) []string {
	var out []string
	for _, u := range urls {
		if !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

// binds reports whether a document at docURL that states resource is about server.
// A document at the root of the host may state the whole origin.
func binds(server *url.URL, docURL, resource string) bool {
	u, err := url.Parse(resource)
	if err != nil || strings.Contains(resource, "#") { // RFC 8707 §2: no fragment
		return false
	}
	stated := oauthhttp.Canonical(u)
	return stated == oauthhttp.Canonical(server) || stated == oauthhttp.Origin(server) && docURL == oauthhttp.Origin(server)+resourceWellKnown
}

// first fetches the documents at urls until one passes check, and returns it with
// its address. A document that is missing or incomplete is passed over; any other
// error of check is final.
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
