package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A server names its authorization server itself. A hostile server can name the
// one of an honest server, to be given a token that is good there. So the servers
// of each origin have a client of their own, whose name says which servers they
// are. A client that serves other servers too has the user asked for consent, see
// consent.go.

const defaultRedirect = callback.DefaultRedirectURI

const (
	mostName = 64 // characters of a client_name
	leastApp = 16 // of which so many are the application's, if it has them
)

// oauthClient is the client that signs in, and where its user is sent back to.
type oauthClient struct {
	auth         authcode.ClientAuth
	registration tokenstore.Key // "" unless the client was registered dynamically
	redirect     string
	listener     *callback.Listener // nil for a web application
	reused       bool               // it was registered for an earlier sign-in: the server may have dropped it
	shared       bool               // it serves other servers too

	// Set by [flow.decideConsent].
	consent     bool   // the user is to be asked for consent in any case
	requestHash string // of a request that may go without consent if that is refused; "": it may not
}

// loopbackClient takes step 3, in the specification's order: a client registered
// beforehand, a client-ID metadata document, dynamic registration. It returns
// with a listener at the callback address: only a port that is bound is sure to be
// free, and the client is registered with the port.
func (f *flow) loopbackClient(ctx context.Context, cfg *discovery.Configuration, opts *LoginOptions) (*oauthClient, error) {
	redirect := cmp.Or(f.registration.RedirectURL, defaultRedirect)
	if u, err := url.Parse(redirect); err == nil && u.Scheme == "https" {
		return nil, at(StepCallback, errors.New("Registration.RedirectURL is a web application's, which signs in with BeginLogin and FinishLogin"))
	}
	if auth, ok := f.unregistered(cfg); ok {
		l, err := f.listen(ctx, redirect, opts)
		if err != nil {
			return nil, err
		}
		return &oauthClient{auth: auth, listener: l, redirect: l.RedirectURI(), shared: true}, nil
	}
	cl := &oauthClient{registration: f.registrationKey(cfg.Issuer, redirect)}
	r, err := f.registered(ctx, cfg, cl.registration, func(old *tokenstore.Registration) ([]string, error) {
		if old != nil {
			l, err := f.listen(ctx, old.RedirectURI, opts)
			if errors.As(err, new(*callback.PortError)) && old.RedirectURI != redirect && slices.Contains(old.RedirectURIs, redirect) {
				// The registered port is taken. The address without a port was
				// registered too, and matches any port (RFC 8252 §7.3).
				l, err = f.listen(ctx, redirect, opts)
			}
			if err == nil {
				cl.listener, cl.reused = l, true
				return nil, nil
			}
			// The registered port is taken, and no other address is registered. So
			// the client is replaced by one with another port.
		}
		l, err := f.listen(ctx, redirect, opts)
		if err != nil {
			return nil, err
		}
		cl.listener = l
		if live := l.RedirectURI(); live != redirect {
			// Not all servers let the port vary, so the address with this port is
			// registered too. It is the one to use.
			return []string{redirect, live}, nil
		}
		return []string{redirect}, nil
	})
	if err != nil {
		if cl.listener != nil {
			_ = cl.listener.Close()
		}
		return nil, at(StepRegistration, err)
	}
	cl.auth = authcode.ClientAuth{ID: r.ClientID, Secret: r.ClientSecret, Method: r.AuthMethod}
	// Another server of this origin may have had it registered: they share it.
	cl.redirect, cl.shared = cl.listener.RedirectURI(), r.Server != f.serverURL
	return cl, nil
}

// webClient takes step 3 for a web application whose callback address is redirect.
func (f *flow) webClient(ctx context.Context, cfg *discovery.Configuration, redirect string) (*oauthClient, error) {
	cl := &oauthClient{redirect: redirect}
	if cl.auth, cl.shared = f.unregistered(cfg); cl.shared {
		return cl, nil
	}
	cl.registration = f.registrationKey(cfg.Issuer, redirect)
	r, err := f.registered(ctx, cfg, cl.registration, func(old *tokenstore.Registration) ([]string, error) {
		if cl.reused = old != nil && slices.Contains(old.RedirectURIs, redirect); cl.reused {
			return nil, nil
		}
		return []string{redirect}, nil
	})
	if err != nil {
		return nil, at(StepRegistration, err)
	}
	cl.auth, cl.shared = authcode.ClientAuth{ID: r.ClientID, Secret: r.ClientSecret, Method: r.AuthMethod}, r.Server != f.serverURL
	return cl, nil
}

// unregistered returns the client that needs no dynamic registration, if there is
// one. All servers of its issuer share it.
func (f *flow) unregistered(cfg *discovery.Configuration) (authcode.ClientAuth, bool) {
	r := f.registration
	switch {
	case r.ClientID != "":
		return authcode.ClientAuth{ID: r.ClientID, Secret: r.ClientSecret, Method: authMethod(r, cfg)}, true
	case r.ClientMetadataURL != "" && cfg.AuthorizationServer.ClientIDMetadataDocumentSupported:
		return authcode.ClientAuth{ID: r.ClientMetadataURL, Method: oauthhttp.AuthNone}, true
	}
	return authcode.ClientAuth{}, false
}

// authMethod is [Registration.AuthMethod], or what takes its place if it is empty.
func authMethod(r Registration, cfg *discovery.Configuration) string {
	methods := cfg.AuthorizationServer.TokenEndpointAuthMethodsSupported
	switch {
	case r.AuthMethod != "":
		return r.AuthMethod
	case r.ClientSecret.IsZero():
		return oauthhttp.AuthNone
	case slices.Contains(methods, oauthhttp.AuthBasic) && !slices.Contains(methods, oauthhttp.AuthPost):
		return oauthhttp.AuthBasic
	}
	return oauthhttp.AuthPost
}

// listen binds the callback address. With ShowURL any browser may come back: the
// one that the person uses never was at the listener's own page for its cookie.
func (f *flow) listen(ctx context.Context, redirect string, opts *LoginOptions) (*callback.Listener, error) {
	c := callback.Config{RedirectURI: redirect, Name: f.name, Server: f.server.Hostname(), AnyBrowser: f.showURL != nil}
	if opts != nil {
		c.OnIgnored = opts.OnIgnored
	}
	l, err := callback.Listen(ctx, c)
	return l, at(StepCallback, err)
}

// registered returns the stored registration, or makes one. It holds the lock of
// the record for all of that, so that two processes register one client between
// them. redirects gets the stored registration, nil if there is none of use. It
// returns the addresses to register, or nil to keep what is stored.
func (f *flow) registered(ctx context.Context, cfg *discovery.Configuration, key tokenstore.Key, redirects func(old *tokenstore.Registration) ([]string, error)) (*tokenstore.Registration, error) {
	var r *tokenstore.Registration
	err := f.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		stored, err := l.Get(ctx)
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) && !errors.Is(err, tokenstore.ErrCorrupt) {
			return err
		}
		r = stored.Registration
		if r != nil && (r.Issuer != cfg.Issuer || !r.SecretExpiry.IsZero() && clock.Now().After(r.SecretExpiry)) {
			r = nil
		}
		uris, err := redirects(r)
		if err != nil || uris == nil {
			return err
		}
		if r, err = f.register(ctx, cfg, uris); err != nil {
			return err
		}
		_, err = l.Save(ctx, tokenstore.Record{Registration: r})
		return err
	})
	return r, err
}

// register registers a client with these callback addresses, of which it is to
// use the last one.
func (f *flow) register(ctx context.Context, cfg *discovery.Configuration, redirectURIs []string) (*tokenstore.Registration, error) {
	endpoint := cfg.AuthorizationServer.RegistrationEndpoint
	if endpoint == "" {
		return nil, ErrNoRegistration
	}
	start := time.Now()
	var c *dcr.Client
	err := f.withinLimit(ctx, cfg.Issuer, func(ctx context.Context) (err error) {
		c, err = dcr.Register(ctx, f.oauth, endpoint, dcr.Metadata{ClientName: f.clientName(), RedirectURIs: redirectURIs})
		return err
	})
	id := ""
	if c != nil {
		id = c.ID
	}
	f.audit(ctx, StepRegistration, "register", id, start, err)
	if err != nil {
		return nil, err
	}
	return &tokenstore.Registration{
		Issuer: cfg.Issuer, Server: f.serverURL, ClientID: c.ID, ClientSecret: c.Secret, SecretExpiry: c.SecretExpiry, AuthMethod: c.AuthMethod,
		RedirectURIs: c.RedirectURIs, RedirectURI: redirectURIs[len(redirectURIs)-1],
		ManagementURI: c.ManagementURI, ManagementToken: c.ManagementToken, CreatedAt: clock.Now(),
	}, nil
}

// registrationKey names the client of the server's origin at an issuer.
func (f *flow) registrationKey(issuer, redirect string) tokenstore.Key {
	return tokenstore.RegistrationKey(issuer, f.name, oauthhttp.Origin(f.server), redirect)
}

// turnsAway reports whether the authorization endpoint does not know the client
// of this address. It would show the user a page that leads nowhere. So a client
// of an earlier sign-in is tried before the browser opens. An endpoint that knows
// the client answers with a page or a redirect. No answer, or one of an outage, is no
// reason to drop a registration.
func (f *flow) turnsAway(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, f.requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false
	}
	resp, err := f.rt.RoundTrip(req) // which follows no redirect
	if err != nil {
		return false
	}
	oauthhttp.Drain(resp)
	return resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone
}

// clientName is the name that the user reads on the page that asks for consent.
// For every server but Astravue's own it ends with the server's host, in the
// spelling that looks like no other ([oauthhttp.Host]): "astravue-mcp
// (mcp.example.com)".
func (f *flow) clientName() string {
	if strings.HasPrefix(DefaultServer, oauthhttp.Origin(f.server)+"/") {
		return f.name
	}
	const around = len(" ()")
	app := strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Ps, unicode.Pe) {
			return -1 // the host's brackets are the only ones
		}
		return r
	}, f.name)
	app = cmp.Or(text.Line(app), defaultName)
	host := tail(f.server.Host, mostName-around-min(leastApp, len([]rune(app))))
	if r := []rune(app); len(r) > mostName-around-len(host) {
		app = strings.TrimSpace(string(r[:mostName-around-len(host)-1])) + "…"
	}
	return app + " (" + host + ")"
}

// tail cuts an ASCII string to at most so many bytes, at its beginning: the end of a
// host says whose it is.
func tail(s string, most int) string {
	const cut = "..."
	if len(s) <= most {
		return s
	}
	return cut + s[len(s)-most+len(cut):]
}
