package mcpclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/retry"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/pkce"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	defaultRedirect = callback.DefaultRedirectURI
	offlineAccess   = "offline_access" // OpenID Connect Core §11

	// saveTimeout is how long a failed save of a sign-in is tried again, as that
	// of a refresh is: the code is spent, and the person has done their part.
	saveTimeout = 8 * time.Second
)

// signIn is a wish for a sign-in.
type signIn struct {
	challenge discovery.Challenge
	cfg       *discovery.Configuration // nil: to be discovered
	scopes    []string                 // to ask for besides the usual ones
	refused   *refresh.Access          // what does not serve; nil if there was nothing

	login  *LoginOptions // not nil: a person asked for it
	before string        // with login: the SignIn of the grant at that time
}

// A flight is one sign-in and all who wait for it.
type flight struct {
	done    chan struct{}
	cancel  context.CancelCauseFunc
	waiters int // guarded by state.mu
	access  *refresh.Access
	err     error
}

// signIn returns the outcome of the sign-in under way, or of a new one. The
// flight ends when the last who waits for it has gone.
func (s *state) signIn(ctx context.Context, want signIn) (*refresh.Access, error) {
	if err := ctx.Err(); err != nil {
		return nil, at(StepCallback, err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if d := s.denied; d != nil && want.login == nil {
		if left := d.until.Sub(clock.Now()); left > 0 && left <= denialLasts { // more is left to a clock that was set back
			s.mu.Unlock()
			return nil, d.err
		}
	}
	f := s.flight
	if f == nil {
		flown, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel}
		s.flight = f
		s.flights.Go(func() { s.fly(flown, f, want) })
	}
	f.waiters++
	s.mu.Unlock()

	select {
	case <-f.done:
		return f.access, f.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.waiters--; f.waiters == 0 {
			f.cancel(context.Cause(ctx))
			if s.flight == f {
				s.flight = nil // whoever comes now starts anew
			}
		}
		return nil, at(StepCallback, context.Cause(ctx))
	}
}

func (s *state) fly(ctx context.Context, f *flight, want signIn) {
	timed, cancel := context.WithTimeout(ctx, s.signInTimeout)
	defer cancel()
	var shown bool
	f.access, f.err = s.signInLocked(timed, want, &shown)
	if f.err != nil && errors.Is(context.Cause(ctx), ErrClosed) {
		f.err = ErrClosed
	}
	s.mu.Lock()
	if s.flight == f { // else nobody waits for it any more
		s.flight, s.denied = nil, nil
		if f.err != nil && shown && ctx.Err() == nil {
			s.denied = &denial{f.err, clock.Now().Add(denialLasts)}
		}
	}
	s.mu.Unlock()
	f.cancel(nil)
	close(f.done)
}

// forgive forgets a failed sign-in, since somebody begins anew.
func (s *state) forgive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = nil
}

// signInLocked signs in under the lock that makes it one sign-in per account,
// or takes what another process has got meanwhile.
func (s *state) signInLocked(ctx context.Context, want signIn, shown *bool) (access *refresh.Access, err error) {
	err = s.store.Update(ctx, s.key.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
		held, err := s.held(ctx)
		if err != nil {
			return err
		}
		if held.Grant != nil && s.serves(held, want) {
			s.source.Adopt(held.Generation, held.Grant)
			if access, err = s.source.Access(ctx); !errors.Is(err, ErrLoginRequired) {
				return err
			}
		}
		access, err = s.signInNow(ctx, want, held.Grant, shown)
		return err
	})
	if _, outer := err.(*tokenstore.LockTimeoutError); outer {
		err = at(StepCallback, fmt.Errorf("wait for a sign-in to the same account: %w", err))
	}
	return access, at(StepExchange, err)
}

// held returns the stored record; the zero record if there is none that can
// be read, which a sign-in replaces.
func (s *state) held(ctx context.Context) (tokenstore.Record, error) {
	r, err := s.store.Get(ctx, s.key)
	if errors.Is(err, tokenstore.ErrNotFound) || errors.Is(err, tokenstore.ErrCorrupt) {
		return tokenstore.Record{}, nil
	}
	return r, err
}

// serves reports whether a grant found under the sign-in lock makes the
// sign-in unnecessary.
func (s *state) serves(held tokenstore.Record, want signIn) bool {
	g := held.Grant
	if !s.accepts(g) {
		return false
	}
	if want.login != nil {
		return g.SignIn != want.before
	}
	for _, scope := range want.scopes {
		if !slices.Contains(g.ScopesRequested, scope) {
			return false
		}
	}
	alive := !g.RefreshToken.IsZero() || g.ExpiresAt.IsZero() || clock.Now().Before(g.ExpiresAt)
	return alive && (want.refused == nil || !want.refused.Token.Equal(g.AccessToken))
}

// signInNow takes steps 1 to 6 through a browser.
func (s *state) signInNow(ctx context.Context, want signIn, held *tokenstore.Grant, shown *bool) (*refresh.Access, error) {
	cfg, err := want.cfg, error(nil)
	if cfg == nil {
		if cfg, err = s.discover(ctx, want.challenge); err != nil {
			return nil, err
		}
	}
	if want.login == nil && held != nil {
		if err := s.mayMove(ctx, held.Issuer, cfg.Issuer); err != nil {
			return nil, at(StepAuthorize, err)
		}
	}
	s.warnUnlisted(cfg, want.login)
	for again := false; ; again = true {
		cl, p, address, err := s.begin(ctx, cfg, s.scopesFor(cfg, want, held), held, want.login, func() (*oauthClient, error) {
			return s.client(ctx, cfg, want.login)
		})
		if err != nil {
			return nil, err
		}
		*shown = true
		access, err := s.browse(ctx, cl, p, address, want.login)
		if again || !p.consentRefused(err) {
			return access, err
		}
	}
}

// begin takes steps 2 to 4: a client, by way of the function, and what it asks
// the server for. A registration of an earlier day that the server no longer
// knows is made anew.
func (s *state) begin(ctx context.Context, cfg *discovery.Configuration, scopes []string, held *tokenstore.Grant, opts *LoginOptions, client func() (*oauthClient, error)) (*oauthClient, *PendingLogin, string, error) {
	for anew := false; ; anew = true {
		cl, err := client()
		if err != nil {
			return nil, nil, "", err
		}
		var p *PendingLogin
		var address string
		if err = s.askFirst(ctx, cfg, cl, scopes, held, opts); err == nil {
			p, address, err = s.authorize(cfg, cl, scopes)
		}
		if err == nil && (anew || !cl.reused || !s.unknown(ctx, address)) {
			return cl, p, address, nil
		}
		if cl.listener != nil {
			_ = cl.listener.Close()
		}
		if err != nil {
			return nil, nil, "", err
		}
		if err := tokenstore.DropRegistration(ctx, s.store, cl.registration, cl.auth.ID); err != nil {
			return nil, nil, "", at(StepRegistration, err)
		}
	}
}

// browse opens the browser and waits for what comes back.
func (s *state) browse(ctx context.Context, cl *oauthClient, p *PendingLogin, address string, opts *LoginOptions) (access *refresh.Access, err error) {
	defer cl.listener.Close()
	start := time.Now()
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := cl.listener.Start(address)
	go func() {
		told := func(err error) {
			if err == nil || opening.Err() != nil {
				return
			}
			if ue := new(url.Error); errors.As(err, &ue) {
				err = ue.Err // without an address, which may be the callback's
			}
			// It may repeat an address, which is as good as the state.
			why := strings.NewReplacer(address, "…", begin, "…").Replace(err.Error())
			why = text.Without(why, p.v.State.Reveal(), path.Base(begin))
			s.log.Warn("no browser could be opened", "step", StepAuthorize.String(), "error", why)
		}
		if s.showURL != nil {
			told(s.showURL(opening, address))
		}
		if s.openBrowser != nil {
			told(s.openBrowser(opening, begin))
		}
	}()
	var pasted <-chan string
	if opts != nil {
		pasted = opts.Pasted
	}
	answered := false
	err = cl.listener.Wait(ctx, func(ctx context.Context, v url.Values) error {
		access, err = s.finish(ctx, p, cl.auth.Secret, v)
		var ae *authcode.AuthorizationError
		switch {
		case errors.Is(err, authcode.ErrState):
			return fmt.Errorf("%w: %w", callback.ErrIgnored, err)
		case errors.As(err, &ae) && ae.Denied():
			err = fmt.Errorf("%w: %w", callback.ErrDenied, err)
		}
		answered = true
		return err
	}, pasted)
	if !answered && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nobody came back from the browser within %s: %w", s.signInTimeout, err)
	}
	s.audit(ctx, StepCallback, "sign in", p.v.ClientID, start, err)
	if err != nil {
		return nil, at(StepCallback, err)
	}
	return access, nil
}

// discover takes step 1.
func (s *state) discover(ctx context.Context, c discovery.Challenge) (*discovery.Configuration, error) {
	return s.discoverAt(ctx, c, s.issuer)
}

// discoverAt takes step 1 with an issuer that is pinned, if it is not "".
func (s *state) discoverAt(ctx context.Context, c discovery.Challenge, issuer string) (*discovery.Configuration, error) {
	r := discovery.Request{
		Server:     s.serverURL,
		Challenge:  c,
		Issuer:     issuer,
		NoResource: s.resource == NoResource,
		HTTPClient: s.oauth,
	}
	if s.defaultServer {
		r.DefaultScopes = astravueScopes
		r.MayState = astravueRealm
	}
	start := time.Now()
	cfg, err := discovery.Discover(ctx, r)
	s.audit(ctx, StepDiscovery, "discover", "", start, err)
	if err != nil {
		return nil, at(StepDiscovery, err)
	}
	switch {
	case s.resource == NoResource:
	case s.resource != "":
		cfg.Resource = s.resource
	case s.defaultServer:
		cfg.Resource = DefaultServer // as documented, even if its metadata names the origin
	}
	return cfg, nil
}

// scopesFor returns what to ask for: what the caller wants or the server names,
// what was asked for before (MCP specification, "Step-Up Authorization Flow"),
// and what is wanted besides. offline_access is never what a server names.
func (s *state) scopesFor(cfg *discovery.Configuration, want signIn, held *tokenstore.Grant) []string {
	offline := slices.Contains(s.scopes, offlineAccess) || slices.Contains(want.scopes, offlineAccess)
	scopes := without(s.scopes, offlineAccess)
	chosen := len(scopes) > 0
	if !chosen {
		scopes = cfg.Scopes
	}
	if held != nil && held.Issuer == cfg.Issuer && (want.login == nil || !chosen) {
		scopes = union(scopes, held.ScopesRequested)
		offline = offline || want.login == nil && slices.Contains(held.ScopesRequested, offlineAccess)
	}
	scopes = without(union(scopes, want.scopes), offlineAccess)
	if offline {
		scopes = append(scopes, offlineAccess)
	}
	return scopes
}

func without(scopes []string, scope string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == scope })
}

// oauthClient is who signs in, and where it is sent back to.
type oauthClient struct {
	auth         authcode.ClientAuth
	registration tokenstore.Key // "" unless it was registered dynamically
	redirect     string
	listener     *callback.Listener // nil for a web application
	reused       bool               // a registration of an earlier day
	shared       bool               // it serves other servers too
	consent      bool               // the user is to be asked for it in any case
	request      string             // "", or what the request without that is known by
}

// client takes step 3, in the specification's order: a client registered
// beforehand, a client-ID metadata document, dynamic registration.
func (s *state) client(ctx context.Context, cfg *discovery.Configuration, opts *LoginOptions) (*oauthClient, error) {
	redirect := cmp.Or(s.registration.RedirectURL, defaultRedirect)
	if u, err := url.Parse(redirect); err == nil && u.Scheme == "https" {
		return nil, at(StepCallback, errors.New("Registration.RedirectURL is a web application's, which signs in with BeginLogin and FinishLogin"))
	}
	if auth, given := s.given(cfg); given {
		l, err := s.listen(ctx, redirect, opts)
		if err != nil {
			return nil, err
		}
		return &oauthClient{auth: auth, listener: l, redirect: l.RedirectURI(), shared: true}, nil
	}
	cl := &oauthClient{registration: s.registrationKey(cfg.Issuer, redirect)}
	r, err := s.registered(ctx, cfg, cl.registration, func(old *tokenstore.Registration) ([]string, error) {
		if old != nil {
			l, err := s.listen(ctx, old.RedirectURI, opts)
			if errors.As(err, new(*callback.PortError)) && old.RedirectURI != redirect && slices.Contains(old.RedirectURIs, redirect) {
				// The address without a port matches any (RFC 8252 §7.3).
				l, err = s.listen(ctx, redirect, opts)
			}
			if err == nil {
				cl.listener, cl.reused = l, true
				return nil, nil
			}
		}
		l, err := s.listen(ctx, redirect, opts)
		if err != nil {
			return nil, err
		}
		cl.listener = l
		if live := l.RedirectURI(); live != redirect {
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
	cl.redirect, cl.shared = cl.listener.RedirectURI(), r.Server != s.serverURL
	return cl, nil
}

// webClient takes step 3 for an application whose callback address is redirect.
func (s *state) webClient(ctx context.Context, cfg *discovery.Configuration, redirect string) (*oauthClient, error) {
	cl := &oauthClient{redirect: redirect}
	if cl.auth, cl.shared = s.given(cfg); cl.shared {
		return cl, nil
	}
	cl.registration = s.registrationKey(cfg.Issuer, redirect)
	r, err := s.registered(ctx, cfg, cl.registration, func(old *tokenstore.Registration) ([]string, error) {
		if cl.reused = old != nil && slices.Contains(old.RedirectURIs, redirect); cl.reused {
			return nil, nil
		}
		return []string{redirect}, nil
	})
	if err != nil {
		return nil, at(StepRegistration, err)
	}
	cl.auth, cl.shared = authcode.ClientAuth{ID: r.ClientID, Secret: r.ClientSecret, Method: r.AuthMethod}, r.Server != s.serverURL
	return cl, nil
}

// given returns the client that needs no registration, if there is one.
func (s *state) given(cfg *discovery.Configuration) (authcode.ClientAuth, bool) {
	r := s.registration
	switch {
	case r.ClientID != "":
		return authcode.ClientAuth{ID: r.ClientID, Secret: r.ClientSecret, Method: authMethod(r, cfg)}, true
	case r.ClientMetadataURL != "" && cfg.AuthorizationServer.ClientIDMetadataDocumentSupported:
		return authcode.ClientAuth{ID: r.ClientMetadataURL, Method: oauthhttp.AuthNone}, true
	}
	return authcode.ClientAuth{}, false
}

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

func (s *state) listen(ctx context.Context, redirect string, opts *LoginOptions) (*callback.Listener, error) {
	c := callback.Config{RedirectURI: redirect, Name: s.name, Server: s.server.Hostname(), AnyBrowser: s.showURL != nil}
	if opts != nil {
		c.OnIgnored = opts.OnIgnored
	}
	l, err := callback.Listen(ctx, c)
	return l, at(StepCallback, err)
}

// registered returns the stored registration or makes one, under its lock.
// redirects is asked for the addresses to register; nil keeps what is stored.
func (s *state) registered(ctx context.Context, cfg *discovery.Configuration, key tokenstore.Key, redirects func(old *tokenstore.Registration) ([]string, error)) (*tokenstore.Registration, error) {
	var r *tokenstore.Registration
	err := s.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
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
		if cfg.AuthorizationServer.RegistrationEndpoint == "" {
			return ErrNoRegistration
		}
		start := time.Now()
		var c *dcr.Client
		err = s.counted(ctx, cfg.Issuer, func(ctx context.Context) (err error) {
			c, err = dcr.Register(ctx, s.oauth, cfg.AuthorizationServer.RegistrationEndpoint, dcr.Metadata{ClientName: s.clientName(), RedirectURIs: uris})
			return err
		})
		id := ""
		if c != nil {
			id = c.ID
		}
		s.audit(ctx, StepRegistration, "register", id, start, err)
		if err != nil {
			return err
		}
		r = &tokenstore.Registration{
			Issuer: cfg.Issuer, Server: s.serverURL, ClientID: c.ID, ClientSecret: c.Secret, SecretExpiry: c.SecretExpiry, AuthMethod: c.AuthMethod,
			RedirectURIs: c.RedirectURIs, RedirectURI: uris[len(uris)-1],
			ManagementURI: c.ManagementURI, ManagementToken: c.ManagementToken, CreatedAt: clock.Now(),
		}
		_, err = l.Save(ctx, tokenstore.Record{Registration: r})
		return err
	})
	return r, err
}

// unknown reports whether the authorization endpoint turns the client away.
// It would do so on a page that leads nowhere, and the user would be left
// there; so a client of an earlier day is announced before the browser opens.
func (s *state) unknown(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, s.requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false
	}
	resp, err := s.rt.RoundTrip(req) // which follows no redirect
	if err != nil {
		return false
	}
	oauthhttp.Drain(resp)
	return resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone
}

// authorize takes steps 2 and 4: what is kept until the callback, and the URL.
func (s *state) authorize(cfg *discovery.Configuration, cl *oauthClient, scopes []string) (*PendingLogin, string, error) {
	verifier, state := pkce.New(), authcode.NewState()
	r := authcode.Request{
		Endpoint:      cfg.AuthorizationServer.AuthorizationEndpoint,
		ClientID:      cl.auth.ID,
		RedirectURI:   cl.redirect,
		Scopes:        scopes,
		State:         state,
		CodeChallenge: verifier.Challenge(),
		Resource:      cfg.Resource,
		Prompt:        s.prompt(cl.consent || slices.Contains(scopes, offlineAccess)),
	}
	address, err := r.URL()
	if err != nil {
		return nil, "", at(StepAuthorize, err)
	}
	return &PendingLogin{v: &pendingLogin{
		ID: rand.Text(), Key: s.key, Started: clock.Now(),
		State: state, Verifier: verifier.Secret(),
		Issuer: cfg.Issuer, IssuerUnlisted: cfg.IssuerUnlisted, IssSupported: cfg.AuthorizationServer.AuthorizationResponseIssParameterSupported,
		TokenEndpoint: cfg.AuthorizationServer.TokenEndpoint, RevocationEndpoint: cfg.AuthorizationServer.RevocationEndpoint,
		ClientID: cl.auth.ID, AuthMethod: cl.auth.Method, Registration: cl.registration,
		RedirectURI: cl.redirect, Resource: cfg.Resource, Scopes: scopes, Request: cl.request,
	}}, address, nil
}

// prompt asks whoever has more than one account which one it shall be, and
// for consent: offline_access is not given without (OpenID Connect Core §3.1.2.1
// and §11), nor is another server's good for this one.
func (s *state) prompt(consent bool) string {
	switch {
	case consent && s.account != "":
		return "consent select_account"
	case consent:
		return "consent"
	case s.account != "":
		return "select_account"
	}
	return ""
}

// finish takes steps 5 and 6 with the client's secret and the parameters of a
// callback: it checks them, exchanges the code and keeps the grant. Once the
// code is sent, ctx no longer ends it: the tokens would be lost.
func (s *state) finish(ctx context.Context, p *PendingLogin, secret tokenstore.Secret, v url.Values) (*refresh.Access, error) {
	check := authcode.Check{State: p.v.State, Issuer: p.v.Issuer, IssSupported: p.v.IssSupported}
	code, err := check.Code(v)
	if err != nil {
		if p.consentRefused(err) {
			if noteErr := s.noteRefusal(ctx, p); noteErr != nil {
				err = fmt.Errorf("%w; and remember the refusal: %w", err, noteErr)
			}
		}
		return nil, at(StepCallback, err)
	}
	ctx = context.WithoutCancel(ctx)
	start := time.Now()
	t, err := authcode.Exchange{
		Endpoint:    p.v.TokenEndpoint,
		Client:      authcode.ClientAuth{ID: p.v.ClientID, Secret: secret, Method: p.v.AuthMethod},
		Code:        code,
		RedirectURI: p.v.RedirectURI,
		Verifier:    p.v.Verifier,
		Resource:    p.v.Resource,
		HTTPClient:  s.oauth,
	}.Token(ctx)
	s.audit(ctx, StepExchange, "exchange code", p.v.ClientID, start, err)
	if err != nil {
		if te := new(authcode.TokenError); errors.As(err, &te) && te.Code == "invalid_client" && p.v.Registration != "" {
			if dropErr := tokenstore.DropRegistration(ctx, s.store, p.v.Registration, p.v.ClientID); dropErr != nil {
				err = fmt.Errorf("%w; and forget the client: %w", err, dropErr)
			}
		}
		return nil, at(StepExchange, err)
	}
	g := &tokenstore.Grant{
		Server: s.serverURL, Account: s.account, SignIn: p.v.ID,
		Issuer: p.v.Issuer, IssuerUnlisted: p.v.IssuerUnlisted, TokenEndpoint: p.v.TokenEndpoint, RevocationEndpoint: p.v.RevocationEndpoint,
		ClientID: p.v.ClientID, ClientSecret: secret, AuthMethod: p.v.AuthMethod, Registration: p.v.Registration,
		Resource: p.v.Resource, ScopesRequested: p.v.Scopes, ScopesGranted: p.v.Scopes,
		AccessToken: t.AccessToken, ObtainedAt: t.RequestedAt, ExpiresAt: t.ExpiresAt,
		RefreshToken: t.RefreshToken, RefreshExpiresAt: t.RefreshExpiresAt, RefreshForever: t.RefreshForever,
	}
	if t.ScopeStated {
		g.ScopesGranted = t.Scopes
	}
	var generation string
	start = time.Now()
	err = retry.For(saveTimeout, func() error {
		return s.store.Update(ctx, s.key, func(ctx context.Context, l *tokenstore.Locked) error {
			if generation, err = l.Save(ctx, tokenstore.Record{Grant: g}); err != nil {
				return err
			}
			if mark, err := l.Mark(ctx); err == nil {
				_ = l.SetMark(ctx, tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt}) // one that stays is that of an older generation, and void
			}
			return nil
		})
	})
	s.audit(ctx, StepExchange, "save", p.v.ClientID, start, err)
	if err != nil {
		return nil, at(StepExchange, fmt.Errorf("%w: %w", ErrNotSaved, err))
	}
	s.source.Adopt(generation, g)
	access, err := s.source.Access(ctx)
	return access, at(StepRefresh, err)
}

// audit logs one OAuth operation.
func (s *state) audit(ctx context.Context, step Step, operation, clientID string, start time.Time, err error) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("step", step.String()),
		slog.String("outcome", "done"),
		slog.String("client_id", clientID),
		slog.Duration("duration", time.Since(start)),
	}
	if err != nil {
		level, attrs[1] = slog.LevelWarn, slog.String("outcome", "failed")
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.log.LogAttrs(ctx, level, operation, attrs...)
}
