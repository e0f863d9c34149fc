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

	// Challenge is the one of the server's 401. Zero: none was seen.
	Challenge Challenge

	// Issuer, if set, is the only authorization server to use (issuer in RFC
	// 8414 §2), whatever the resource announces: a person named it. Metadata
	// found at the announced server is accepted if it states Issuer and has
	// every endpoint at Issuer, see [ErrForeignEndpoint]. Otherwise the metadata
	// is looked for at Issuer's own well-known addresses. The resource then need
	// not publish metadata: 404 or 410 at every address is no error.
	Issuer string

	// MayState, if set, is another issuer that metadata may state if Server
	// announces an issuer on its own host. The metadata must have every endpoint
	// at MayState. The announced issuer is still accepted. MayState is for a
	// service whose documents are known to be so. It is ignored if Issuer is set.
	MayState string

	// DefaultScopes are used if neither the challenge nor the resource's metadata
	// name any scope.
	DefaultScopes []string

	// NoResource leaves out the resource parameter (RFC 8707). If Issuer is set
	// too, the resource's metadata is not fetched: it may be about another
	// resource on the same host.
	NoResource bool

	// HTTPClient fetches the documents. If nil, a hardened one does: TLS 1.2 or
	// newer, 30 seconds per request, no way from a public server to private
	// addresses.
	HTTPClient *http.Client
}

// A Configuration is what [Discover] found and checked.
type Configuration struct {
	Server string // as in the request

	// Resource is the value of the resource parameter. Every request sends
	// exactly these bytes (RFC 8707 §2). It is "" with NoResource.
	Resource string

	// Scopes are the scopes to ask for first: those of the challenge, or else of
	// the resource's metadata, or else DefaultScopes. Empty: send no scope.
	Scopes []string

	// Issuer identifies the authorization server. Credentials are kept under it,
	// and a callback's iss must equal it.
	Issuer string
	// IssuerUnlisted means that the request named Issuer and the resource does
	// not announce it: the resource may refuse Issuer's tokens.
	IssuerUnlisted bool

	ProtectedResource      *ProtectedResource // nil: none was published or looked for, and the request has an Issuer
	ProtectedResourceURL   string             // where it was found
	AuthorizationServer    *AuthorizationServer
	AuthorizationServerURL string // where it was found
}

// Discover finds the metadata of r.Server and of its authorization server.
//
// The document of a resource must state the server's URL as its resource; the one
// at the root of the server's host may state the origin. The resource parameter is
// what the document states. URLs are compared with scheme and host in lower case
// and without default port. https://host equals https://host/, but
// https://host/mcp does not equal https://host/mcp/. Issuers are compared byte for
// byte.
//
// If the resource announces several authorization servers, Discover uses
// r.Issuer, or else the first. It tries no other one if that server is down: other
// servers have other accounts.
//
// Errors: [*NotFoundError], [*MismatchError], [*URLError], [ErrForeignEndpoint],
// [ErrNoPKCE], that of the context. Safe for concurrent use.
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
				c.Resource = doc.Resource // as written: some servers compare bytes
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

// publishesNone reports whether every address answered that it has no document. An
// address that is out of order did not.
func publishesNone(err error) bool {
	missing := new(NotFoundError)
	return errors.As(err, &missing) && !slices.ContainsFunc(missing.Tried, func(a Attempt) bool {
		status := new(oauthhttp.StatusError)
		return !errors.As(a.Err, &status) || status.Status != http.StatusNotFound && status.Status != http.StatusGone
	})
}

// A search looks for the metadata of an authorization server.
type search struct {
	ctx    context.Context
	hc     *http.Client
	server string // of the request
}

// checkURL checks an address that a document names.
func (s search) checkURL(raw string) (*url.URL, error) {
	return oauthhttp.CheckNamed(s.ctx, s.hc, raw, s.server)
}

// pinned returns the metadata of the issuer that a person named, and its address.
// The announced server comes first: it may serve the issuer's metadata where the
// issuer itself has none.
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

// metadata fetches a document from the well-known addresses of the issuer at, and
// returns it with its address. The document must state the issuer own, or the
// issuer foreign and have all its endpoints there. An empty own or foreign allows
// nothing.
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

// checkIssuer checks an issuer by RFC 8414 §2: "a URL that uses the "https" scheme
// and has no query or fragment components".
func (s search) checkIssuer(issuer string) (*url.URL, error) {
	u, err := s.checkURL(issuer)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.New("an issuer has no query")
	}
	return u, err
}

// check checks the members that a sign-in will use. at is the document's address.
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
