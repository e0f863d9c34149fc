package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Values of [Options.IssuerHost].
const (
	IssuerAuth  = "auth"  // the realm on the authorization host
	IssuerAPI   = "api"   // the origin of the API host
	IssuerSplit = "split" // the API host is announced, and its metadata states the realm
)

// Options say how a sandbox behaves. The zero value is Astravue as it is
// documented.
type Options struct {
	// Listen is the loopback address of the API host. The authorization host
	// takes any port of the same address. If empty, 127.0.0.1:0.
	Listen string

	// IssuerHost says which host the issuer is on: "auth" (the default), "api" or
	// "split". With "split" the protected resource announces the API host as its
	// authorization server, but the metadata found there states the realm as
	// issuer. RFC 8414 §3.3 forbids that; Astravue's documents leave it open.
	IssuerHost string

	// Resource is the resource that protected-resource metadata at the root
	// address state: "url" (the default), the MCP endpoint, or "origin", that of
	// the API host. It is also the audience of tokens.
	Resource string

	// Resources are the URLs of other servers that a client may send as resource.
	// The URL becomes the audience of the token. These servers verify tokens with
	// the key set that the metadata names.
	Resources []string

	// ResourceMetadata says where protected-resource metadata is served: "root"
	// (the default, as documented), "path", with /mcp at the end (RFC 9728 §3.1),
	// "both", or "none". With "none" a challenge names no document either.
	ResourceMetadata string

	// ChallengeScopes are the scope parameter of the challenge of a 401.
	ChallengeScopes []string

	// ToolScopes are the scopes that MCP tools require, by the tool's name. A call
	// without the scope is answered 403 insufficient_scope, and a client should
	// sign in for more.
	ToolScopes map[string]string

	// IgnoreResource ignores resource, as Keycloak does by default. Every token is
	// good for the MCP endpoint.
	IgnoreResource bool

	// Registration is "open" (the default), "refused" (403, as by Keycloak's
	// Trusted Hosts policy) or "none" (no registration endpoint).
	Registration string

	// MaxClients limits the number of registered clients. 0: 200, Keycloak's
	// default.
	MaxClients int

	// AppRedirectURLs are the redirect addresses of [Server.App]. If nil,
	// /callback on http://127.0.0.1, http://localhost and http://[::1], any port.
	AppRedirectURLs []string

	// Protocol is the era of MCP that /mcp speaks: "both" (the default),
	// "modern" (2026-07-28: stateless) or "legacy" (up to 2025-11-25: sessions).
	Protocol string

	AccessTTL  time.Duration // of access tokens; 0: 30 minutes
	RefreshTTL time.Duration // of refresh tokens and of the browser's session; 0: 24 hours

	// NoRotation keeps a refresh token good for its whole life. The answer to a
	// refresh then has no refresh token.
	NoRotation bool

	// CheckSession makes the API host refuse an access token whose session has
	// ended. By default it does not, as documented: after a sign-out an access
	// token is good until it expires.
	CheckSession bool

	// TokenSize is the size in bytes to which access tokens are padded, about.
	// Keycloak's can reach 8,000. 0: no padding.
	TokenSize int

	// AutoApprove signs in and approves without a page: the authorization endpoint
	// redirects at once. AutoApproveUser is the user that signs in. If empty, it is
	// the one in login_hint, or else olivia.
	AutoApprove     bool
	AutoApproveUser string

	// HTTPClient fetches client-ID metadata documents, which must be on
	// loopback. If nil, one with a timeout of 5 seconds.
	HTTPClient *http.Client

	Now    func() time.Time // the clock that Advance moves; if nil, time.Now
	Logger *slog.Logger     // gets every request; if nil, nothing is logged
}

// complete checks the options and fills in the defaults. It returns the host of Listen.
func (o *Options) complete() (host string, err error) {
	for _, c := range []struct {
		name  string
		value *string
		ok    []string
	}{
		{"IssuerHost", &o.IssuerHost, []string{IssuerAuth, IssuerAPI, IssuerSplit}},
		{"Resource", &o.Resource, []string{"url", "origin"}},
		{"ResourceMetadata", &o.ResourceMetadata, []string{"root", "path", "both", "none"}},
		{"Registration", &o.Registration, []string{"open", "refused", "none"}},
		{"Protocol", &o.Protocol, []string{"both", "modern", "legacy"}},
	} {
		*c.value = cmp.Or(*c.value, c.ok[0])
		if !slices.Contains(c.ok, *c.value) {
			return "", fmt.Errorf("sandbox: %s is %q, want one of %s", c.name, *c.value, strings.Join(c.ok, ", "))
		}
	}
	o.Listen = cmp.Or(o.Listen, "127.0.0.1:0")
	o.MaxClients = cmp.Or(o.MaxClients, 200)
	o.AccessTTL = cmp.Or(o.AccessTTL, 30*time.Minute)
	o.RefreshTTL = cmp.Or(o.RefreshTTL, 24*time.Hour)
	if o.AccessTTL < 0 || o.RefreshTTL < 0 {
		return "", errors.New("sandbox: a lifetime is negative")
	}
	if o.AppRedirectURLs == nil {
		o.AppRedirectURLs = loopbackRedirects()
	}
	for _, u := range o.AppRedirectURLs {
		if checkRedirect(u) != nil {
			return "", fmt.Errorf("sandbox: %q cannot be a redirect address", u)
		}
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Timeout: 5 * time.Second}
	}
	if o.Now == nil {
		o.Now = time.Now
	}

	host, _, err = net.SplitHostPort(o.Listen)
	if err != nil {
		return "", fmt.Errorf("sandbox: listen %q: %w", o.Listen, err)
	}
	if !loopbackHost(host) {
		return "", fmt.Errorf("sandbox: listen %q: not a loopback address, and a sandbox shows its passwords", o.Listen)
	}
	return host, nil
}

func loopbackRedirects() []string {
	return []string{"http://127.0.0.1/callback", "http://localhost/callback", "http://[::1]/callback"}
}
