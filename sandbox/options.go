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
	IssuerSplit = "split" // announced is the API host, its metadata states the realm
)

// Options say how a sandbox behaves. The zero value is Astravue as it is
// documented.
type Options struct {
	// Listen is the loopback address of the API host. The authorization host
	// takes any port of the same address. If empty, 127.0.0.1:0.
	Listen string

	// IssuerHost says which host the issuer is on: "auth" (the default), "api"
	// or "split", where the protected resource announces the API host as its
	// authorization server and the metadata found there states the realm as
	// issuer, which RFC 8414 §3.3 forbids and Astravue's documents leave open.
	IssuerHost string

	// Resource is what protected-resource metadata at the root address states
	// as resource: "url" (the default), the MCP endpoint; or "origin". The
	// audience follows it.
	Resource string

	// Resources are other servers that tokens may be asked for, by the URL that
	// is sent as resource. It becomes the audience; they check tokens by the
	// key set that the metadata names.
	Resources []string

	// ResourceMetadata is where protected-resource metadata is served: "root"
	// (the default, as documented), "path", with /mcp appended as RFC 9728 §3.1
	// has it, "both", or "none", and then the challenge names no document either.
	ResourceMetadata string

	// ChallengeScopes are stated in the scope parameter of a 401's challenge.
	ChallengeScopes []string

	// ToolScopes asks for a scope per MCP tool, by the tool's name. A call
	// without it is answered 403 insufficient_scope, for a client to step up.
	ToolScopes map[string]string

	// IgnoreResource does not look at resource at all, as Keycloak does by
	// default; every token is good for the MCP endpoint.
	IgnoreResource bool

	// Registration is "open" (the default), "refused" (403, as Keycloak's
	// Trusted Hosts policy does) or "none" (no registration endpoint).
	Registration string

	// MaxClients is how many clients may be registered at a time. 0: 200, as
	// Keycloak has it.
	MaxClients int

	// AppRedirectURLs are the redirect addresses of the application that
	// [Server.App] names. If nil, /callback on http://127.0.0.1,
	// http://localhost and http://[::1], any port.
	AppRedirectURLs []string

	// Protocol is the era of MCP that /mcp speaks: "both" (the default),
	// "modern" (2026-07-28: stateless) or "legacy" (up to 2025-11-25: sessions).
	Protocol string

	AccessTTL  time.Duration // of access tokens; 0: 30 minutes
	RefreshTTL time.Duration // of refresh tokens and of the browser's session; 0: 24 hours

	// NoRotation keeps a refresh token good for its life; refresh answers then
	// carry none.
	NoRotation bool

	// CheckSession has the API host ask for each access token whether its
	// session still exists. By default it does not, as documented: after a
	// sign-out an access token lives on until it expires.
	CheckSession bool

	// TokenSize pads access tokens to about so many bytes. Keycloak's can reach
	// 8,000.
	TokenSize int

	// AutoApprove signs in and approves without showing a page: the
	// authorization endpoint redirects at once. AutoApproveUser is who signs
	// in; if empty, whom login_hint names, else olivia.
	AutoApprove     bool
	AutoApproveUser string

	// HTTPClient fetches client-ID metadata documents, which must be on
	// loopback. If nil, one with a timeout of 5 seconds.
	HTTPClient *http.Client

	Now    func() time.Time // the clock that Advance moves; if nil, time.Now
	Logger *slog.Logger     // gets every request; if nil, nobody does
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
