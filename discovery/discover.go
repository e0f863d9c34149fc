package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// A Request says what to discover. Only Server is required.
type Request struct {
	// Server is the URL of the MCP server as the user named it: https, or
	// http on a loopback host.
	Server string

	// Challenge is that of the server's 401. Zero: none was seen.
	Challenge Challenge

	// Issuer, if set, is the one authorization server to use (RFC 8414 §2
	// issuer), since a person named it. No other is used, whatever the resource
	// announces. Its metadata is the announced server's if that states Issuer
	// and has every endpoint at Issuer, see [ErrForeignEndpoint], and else what
	// Issuer's own well-known addresses yield. A resource that publishes no
	// metadata, which is 404 or 410 at every address, needs none.
	Issuer string

	// MayState, if set, is an issuer that metadata on Server's own host may
	// state in place of the announced one, if it has every endpoint at MayState.
	// It is a permission: no issuer is preferred for it, and none excluded. It
	// is for a service whose documents are known to be so, and is not looked at
	// if there is an Issuer.
	MayState string

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
	// IssuerUnlisted says that Issuer is the request's, and that the resource
	// does not name it: it may refuse Issuer's tokens.
	IssuerUnlisted bool

	ProtectedResource      *ProtectedResource // nil: none published or asked for, the request has an Issuer
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
// Errors: [*NotFoundError], [*MismatchError], [*URLError], [ErrForeignEndpoint],
// [ErrNoPKCE], the context's. Safe for concurrent use.
func Discover(ctx context.Context, r Request) (*Configuration, error) {
	server, err := oauthhttp.CheckURL(r.Server, r.Server)
	if err != nil {
		return nil, fmt.Errorf("discovery: server: %w", err)
	}
	hc := r.HTTPClient
	if hc == nil {
		hc = oauthhttp.NewClient(r.Server)
	}

	c := &Configuration{Server: r.Server, Resource: oauthhttp.Canonical(server)}
	if !r.NoResource || r.Issuer == "" {
		c.ProtectedResource, c.ProtectedResourceURL, err = first(ctx, hc, r.Server, ResourceMetadata,
			resourceURLs(server, r.Challenge.ResourceMetadata),
			func(at string, doc *ProtectedResource) error {
				if doc.Resource == "" {
					return incomplete("resource")
				}
				if !binds(server, at, doc.Resource) {
					return &MismatchError{Document: at, Field: "resource", Want: oauthhttp.Canonical(server), Got: doc.Resource}
				}
				if len(doc.AuthorizationServers) == 0 && r.Issuer == "" {
					return incomplete("authorization_servers")
				}
				c.Resource = doc.Resource // as it is written: some compare bytes
				return nil
			})
		if err != nil && (r.Issuer == "" || !publishesNone(err)) {
			return nil, err
		}
	}
	if r.NoResource {
		c.Resource = ""
	}

	c.Scopes = r.Challenge.Scopes()
	var announced []string
	if p := c.ProtectedResource; p != nil {
		if len(c.Scopes) == 0 {
			c.Scopes = p.ScopesSupported
		}
		announced = p.AuthorizationServers
	}
	if len(c.Scopes) == 0 {
		c.Scopes = r.DefaultScopes
	}

	s := search{ctx, hc, r.Server}
	var doc *serverDocument
	if r.Issuer == "" {
		may := ""
		if u, err := url.Parse(announced[0]); err == nil && oauthhttp.Origin(u) == oauthhttp.Origin(server) {
			may = r.MayState
		}
		doc, c.AuthorizationServerURL, err = s.metadata(announced[0], announced[0], may)
		if bad := new(issuerError); errors.As(err, &bad) {
			err = &URLError{Document: c.ProtectedResourceURL, Field: "authorization_servers", Err: bad.err}
		}
	} else {
		c.IssuerUnlisted = !r.NoResource && !slices.Contains(announced, r.Issuer)
		doc, c.AuthorizationServerURL, err = s.pinned(r.Issuer, announced)
	}
	if err != nil {
		return nil, err
	}
	c.AuthorizationServer, c.Issuer = &doc.AuthorizationServer, doc.Issuer
	return c, nil
}

// publishesNone reports whether every address has said that there is no
// document. One that is out of order has not.
func publishesNone(err error) bool {
	missing := new(NotFoundError)
	return errors.As(err, &missing) && !slices.ContainsFunc(missing.Tried, func(a Attempt) bool {
		status := new(oauthhttp.StatusError)
		return !errors.As(a.Err, &status) || status.Status != http.StatusNotFound && status.Status != http.StatusGone
	})
}

// A search is one for metadata of authorization servers.
type search struct {
	ctx    context.Context
	hc     *http.Client
	server string // of the request
}

// checkURL checks an address that a document names.
func (s search) checkURL(raw string) (*url.URL, error) {
	return oauthhttp.CheckNamed(s.ctx, s.hc, raw, s.server)
}

// pinned returns the metadata of the issuer that a person named.
func (s search) pinned(issuer string, announced []string) (*serverDocument, string, error) {
	if _, err := s.checkIssuer(issuer); err != nil {
		return nil, "", fmt.Errorf("discovery: issuer: %w", err)
	}
	var elsewhere error
	if len(announced) > 0 && !slices.Contains(announced, issuer) {
		doc, at, err := s.metadata(announced[0], "", issuer)
		if err == nil || s.ctx.Err() != nil {
			return doc, at, err
		}
		elsewhere = err
	}
	doc, at, err := s.metadata(issuer, issuer, "")
	if err != nil && elsewhere != nil && s.ctx.Err() == nil {
		err = fmt.Errorf("%w; and the server that the resource announces does not serve: %w", err, elsewhere)
	}
	return doc, at, err
}

// metadata fetches what is published at the addresses of the issuer at. It has
// to state own, or with all endpoints at that issuer, foreign. Either may be "".
func (s search) metadata(at, own, foreign string) (*serverDocument, string, error) {
	u, err := s.checkIssuer(at)
	if err != nil {
		return nil, "", &issuerError{err}
	}
	return first(s.ctx, s.hc, s.server, ServerMetadata, issuerURLs(u), func(at string, doc *serverDocument) error {
		if doc.Issuer == "" {
			return incomplete("issuer")
		}
		if doc.Issuer != own {
			if foreign == "" || doc.Issuer != foreign {
				return &MismatchError{Document: at, Field: "issuer", Want: cmp.Or(own, foreign), Got: doc.Issuer}
			}
			if err := doc.isAt(s, foreign, at); err != nil {
				return err
			}
		}
		return doc.check(s, at)
	})
}

// checkIssuer is RFC 8414 §2: "a URL that uses the "https" scheme and has no
// query or fragment components".
func (s search) checkIssuer(issuer string) (*url.URL, error) {
	u, err := s.checkURL(issuer)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("an issuer has no query")
	}
	return u, err
}

// check looks at what a sign-in will use of the document.
func (a *AuthorizationServer) check(s search, at string) error {
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
		if _, err := s.checkURL(e.url); err != nil {
			return &URLError{Document: at, Field: e.name, Err: err}
		}
	}
	if !slices.Contains(a.CodeChallengeMethodsSupported, "S256") {
		return fmt.Errorf("discovery: %s: %w", text.QuoteURL(at), ErrNoPKCE)
	}
	return nil
}
