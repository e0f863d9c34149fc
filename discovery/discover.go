package discovery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// A Request says what to discover. Only Server is required.
type Request struct {
	// Server is the URL of the MCP server as the user named it: https, or
	// http on a loopback host.
	Server string

	// Challenge is that of the server's 401. Zero: none was seen.
	Challenge Challenge

	// Issuer, if set, is the authorization server that the user trusts by
	// name. Of several announced ones it is the one chosen; metadata found at
	// the announced one may state this issuer instead of its own; and where
	// the resource publishes no metadata its own is fetched directly.
	Issuer string

	// DefaultScopes are asked for if neither the challenge nor the resource's
	// metadata name any.
	DefaultScopes []string

	// NoResource: leave out the resource parameter (RFC 8707). With an Issuer,
	// the resource's metadata is not asked for either: it may be about another
	// one at the same host.
	NoResource bool

	// HTTPClient fetches the documents. Nil means a hardened one: TLS 1.2, 30
	// seconds per request, no private address on behalf of a public server.
	HTTPClient *http.Client
}

// A Configuration is what [Discover] found and checked.
type Configuration struct {
	Server string // as in the request

	// Resource is the value of the resource parameter, byte for byte the
	// same in every request (RFC 8707 §2); "" with NoResource.
	Resource string

	// Scopes to ask for first: those of the challenge, else those of the
	// resource's metadata, else DefaultScopes. Empty: send no scope.
	Scopes []string

	// Issuer identifies the authorization server: the key of its credentials,
	// and what a callback's iss is compared with.
	Issuer string

	ProtectedResource      *ProtectedResource // nil: none published, the issuer was pinned
	ProtectedResourceURL   string             // where it was found
	AuthorizationServer    *AuthorizationServer
	AuthorizationServerURL string // where it was found
}

// Discover finds the metadata of r.Server and of its authorization server.
//
// A resource's document is used if its resource is the server's URL, or, for
// the document at the root of the server's host, its origin; what it states is
// what is sent. URLs are compared with scheme and host in lower case and
// without default port; https://host and https://host/ are the same,
// https://host/mcp and https://host/mcp/ are not. Issuers are compared byte for
// byte. Of several authorization servers the first is used, unless r.Issuer is
// among them, and no other if that one is down: its accounts are not theirs.
//
// Errors: [*NotFoundError], [*MismatchError], [*URLError], [ErrNoPKCE], the
// context's. Safe for concurrent use.
func Discover(ctx context.Context, r Request) (*Configuration, error) {
	server, err := oauthhttp.CheckURL(r.Server, r.Server)
	if err != nil {
		return nil, fmt.Errorf("discovery: server: %w", err)
	}
	hc := r.HTTPClient
	if hc == nil {
		hc = oauthhttp.NewClient(r.Server)
	}

	c := &Configuration{Server: r.Server, Resource: canonical(server)}
	if !r.NoResource || r.Issuer == "" {
		c.ProtectedResource, c.ProtectedResourceURL, err = first(ctx, hc, r.Server, ResourceMetadata,
			resourceURLs(server, r.Challenge.ResourceMetadata),
			func(at string, doc *ProtectedResource) error {
				if doc.Resource == "" {
					return incomplete("resource")
				}
				if !binds(server, at, doc.Resource) {
					return &MismatchError{Document: at, Field: "resource", Want: canonical(server), Got: doc.Resource}
				}
				if len(doc.AuthorizationServers) == 0 && r.Issuer == "" {
					return incomplete("authorization_servers")
				}
				c.Resource = doc.Resource // as it is written: some compare bytes
				return nil
			})
		if err != nil && (r.Issuer == "" || !errors.As(err, new(*NotFoundError))) {
			return nil, err
		}
	}
	if r.NoResource {
		c.Resource = ""
	}

	c.Scopes = r.Challenge.Scopes()
	issuer := r.Issuer
	if p := c.ProtectedResource; p != nil {
		if len(c.Scopes) == 0 {
			c.Scopes = p.ScopesSupported
		}
		if len(p.AuthorizationServers) > 0 && (issuer == "" || !slices.Contains(p.AuthorizationServers, issuer)) {
			issuer = p.AuthorizationServers[0]
		}
	}
	if len(c.Scopes) == 0 {
		c.Scopes = r.DefaultScopes
	}

	u, err := checkIssuer(issuer, r.Server)
	if err != nil && r.Issuer != "" && issuer == r.Issuer {
		return nil, fmt.Errorf("discovery: issuer: %w", err)
	}
	if err != nil {
		return nil, &URLError{Document: c.ProtectedResourceURL, Field: "authorization_servers", Err: err}
	}
	c.AuthorizationServer, c.AuthorizationServerURL, err = first(ctx, hc, r.Server, ServerMetadata,
		issuerURLs(u),
		func(at string, doc *AuthorizationServer) error {
			switch {
			case doc.Issuer == "":
				return incomplete("issuer")
			case doc.Issuer != issuer && doc.Issuer != r.Issuer:
				return &MismatchError{Document: at, Field: "issuer", Want: issuer, Got: doc.Issuer}
			}
			return doc.check(at, r.Server)
		})
	if err != nil {
		return nil, err
	}
	c.Issuer = c.AuthorizationServer.Issuer
	return c, nil
}

// checkIssuer is RFC 8414 §2: "a URL that uses the "https" scheme and has no
// query or fragment components".
func checkIssuer(issuer, server string) (*url.URL, error) {
	u, err := oauthhttp.CheckURL(issuer, server)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("an issuer has no query")
	}
	return u, err
}

// check looks at what a sign-in will use of the document.
func (a *AuthorizationServer) check(at, server string) error {
	for _, e := range []struct {
		name, url string
		required  bool
	}{
		{"authorization_endpoint", a.AuthorizationEndpoint, true},
		{"token_endpoint", a.TokenEndpoint, true},
		{"registration_endpoint", a.RegistrationEndpoint, false},
		{"revocation_endpoint", a.RevocationEndpoint, false},
	} {
		if e.url == "" {
			if e.required {
				return incomplete(e.name)
			}
			continue
		}
		if _, err := oauthhttp.CheckURL(e.url, server); err != nil {
			return &URLError{Document: at, Field: e.name, Err: err}
		}
	}
	if !slices.Contains(a.CodeChallengeMethodsSupported, "S256") {
		return fmt.Errorf("discovery: %s: %w", quote(at), ErrNoPKCE)
	}
	return nil
}
