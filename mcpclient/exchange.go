package mcpclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/retry"
	"github.com/astravue/mcp-client-go/pkce"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	offlineAccess = "offline_access" // OpenID Connect Core §11

	// saveTimeout is how long a failed save of a sign-in is tried again, as long as
	// that of a refresh: the code is spent, and the person has done their part.
	saveTimeout = 8 * time.Second
)

// scopesFor returns the scopes to ask for: those of the caller, or else those
// that the server names; those that were asked for before (MCP specification,
// "Step-Up Authorization Flow"); and those of want. offline_access is asked for
// if the caller, an earlier sign-in or a challenge for more scopes has asked for it,
// and never because the server's metadata or its first challenge names it.
func (f *flow) scopesFor(cfg *discovery.Configuration, want signInRequest, prior *tokenstore.Grant) []string {
	offline := slices.Contains(f.scopes, offlineAccess) || slices.Contains(want.scopes, offlineAccess)
	scopes := without(f.scopes, offlineAccess)
	chosen := len(scopes) > 0
	if !chosen {
		scopes = cfg.Scopes
	}
	// Otherwise each step-up would lose the scopes of the one before. A person who
	// signs in with scopes of their own choice may want fewer than before.
	if prior != nil && prior.Issuer == cfg.Issuer && (want.login == nil || !chosen) {
		scopes = union(scopes, prior.ScopesRequested)
		// A person who signs in anew may want a grant that ends with the browser's
		// session, and has to ask for offline_access again.
		offline = offline || want.login == nil && slices.Contains(prior.ScopesRequested, offlineAccess)
	}
	scopes = without(union(scopes, want.scopes), offlineAccess)
	if offline {
		scopes = append(scopes, offlineAccess)
	}
	return scopes
}

// union returns a and what of b is not in it. It looks once at each: a challenge
// may name a hundred thousand scopes.
func union(a, b []string) []string {
	u := slices.Clone(a)
	known := make(map[string]bool, len(a))
	for _, s := range a {
		known[s] = true
	}
	for _, s := range b {
		if !known[s] {
			known[s] = true
			u = append(u, s)
		}
	}
	return u
}

func without(scopes []string, scope string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == scope })
}

// authorize takes steps 2 and 4. It returns the pending sign-in, which is kept until
// the callback, and the authorization URL. The pending sign-in has all that finish
// needs, endpoints included: in a web application another process may finish, and
// metadata that is fetched again there could lead the code to another server.
func (f *flow) authorize(cfg *discovery.Configuration, cl *oauthClient, scopes []string) (*PendingLogin, string, error) {
	verifier, state := pkce.New(), authcode.NewState()
	r := authcode.Request{
		Endpoint:      cfg.AuthorizationServer.AuthorizationEndpoint,
		ClientID:      cl.auth.ID,
		RedirectURI:   cl.redirect,
		Scopes:        scopes,
		State:         state,
		CodeChallenge: verifier.Challenge(),
		Resource:      cfg.Resource,
		Prompt:        f.prompt(cl.consent || slices.Contains(scopes, offlineAccess)),
	}
	address, err := r.URL()
	if err != nil {
		return nil, "", at(StepAuthorize, err)
	}
	return &PendingLogin{v: &pendingLogin{
		ID: rand.Text(), Key: f.key, Started: clock.Now(),
		State: state, Verifier: verifier.Secret(),
		Issuer: cfg.Issuer, IssuerUnlisted: cfg.IssuerUnlisted, IssSupported: cfg.AuthorizationServer.AuthorizationResponseIssParameterSupported,
		TokenEndpoint: cfg.AuthorizationServer.TokenEndpoint, RevocationEndpoint: cfg.AuthorizationServer.RevocationEndpoint,
		ClientID: cl.auth.ID, AuthMethod: cl.auth.Method, Registration: cl.registration,
		RedirectURI: cl.redirect, Resource: cfg.Resource, Scopes: scopes, RequestHash: cl.requestHash,
	}}, address, nil
}

// prompt returns the prompt parameter (OpenID Connect Core §3.1.2.1). A user with
// more than one account chooses which one it is. The user is asked for consent
// where offline_access needs it (§11), and where the client serves other servers
// too.
func (f *flow) prompt(consent bool) string {
	switch {
	case consent && f.account != "":
		return "consent select_account"
	case consent:
		return "consent"
	case f.account != "":
		return "select_account"
	}
	return ""
}

// finish takes steps 5 and 6 with the client's secret and answer, the parameters of
// a callback: it checks them, exchanges the code and keeps the grant. Once the code
// is sent, the end of ctx no longer stops it: the tokens would be lost. The error of
// an answer that belongs to another sign-in wraps [authcode.ErrState], and p is still
// good then.
func (f *flow) finish(ctx context.Context, p *PendingLogin, secret tokenstore.Secret, answer url.Values) (*refresh.Access, error) {
	check := authcode.Check{State: p.v.State, Issuer: p.v.Issuer, IssSupported: p.v.IssSupported}
	code, err := check.Code(answer)
	if err != nil {
		if p.consentRefused(err) {
			if noteErr := f.noteRefusal(ctx, p); noteErr != nil {
				err = fmt.Errorf("%w; and remember the refusal: %w", err, noteErr)
			}
		}
		return nil, at(StepCallback, err)
	}
	ctx = context.WithoutCancel(ctx)
	g, err := f.exchange(ctx, p, secret, code)
	if err != nil {
		return nil, at(StepExchange, err)
	}
	start := time.Now()
	generation, err := f.save(ctx, g)
	f.audit(ctx, StepExchange, "save", p.v.ClientID, start, err)
	if err != nil {
		return nil, at(StepExchange, fmt.Errorf("%w: %w", ErrNotSaved, err))
	}
	f.source.Adopt(generation, g)
	access, err := f.source.Access(ctx)
	return access, at(StepRefresh, err)
}

// exchange exchanges the code for tokens.
func (f *flow) exchange(ctx context.Context, p *PendingLogin, secret, code tokenstore.Secret) (*tokenstore.Grant, error) {
	start := time.Now()
	t, err := authcode.Exchange{
		Endpoint:    p.v.TokenEndpoint,
		Client:      authcode.ClientAuth{ID: p.v.ClientID, Secret: secret, Method: p.v.AuthMethod},
		Code:        code,
		RedirectURI: p.v.RedirectURI,
		Verifier:    p.v.Verifier,
		Resource:    p.v.Resource,
		HTTPClient:  f.oauth,
	}.Token(ctx)
	f.audit(ctx, StepExchange, "exchange code", p.v.ClientID, start, err)
	if err != nil {
		// The server has forgotten the client: the next sign-in registers another.
		if te := new(authcode.TokenError); errors.As(err, &te) && te.Code == "invalid_client" && p.v.Registration != "" {
			if dropErr := tokenstore.DropRegistration(ctx, f.store, p.v.Registration, p.v.ClientID); dropErr != nil {
				err = fmt.Errorf("%w; and forget the client: %w", err, dropErr)
			}
		}
		return nil, err
	}
	g := &tokenstore.Grant{
		Server: f.serverURL, Account: f.account, SignIn: p.v.ID,
		Issuer: p.v.Issuer, IssuerUnlisted: p.v.IssuerUnlisted, TokenEndpoint: p.v.TokenEndpoint, RevocationEndpoint: p.v.RevocationEndpoint,
		ClientID: p.v.ClientID, ClientSecret: secret, AuthMethod: p.v.AuthMethod, Registration: p.v.Registration,
		Resource: p.v.Resource, ScopesRequested: p.v.Scopes, ScopesGranted: p.v.Scopes,
		// A token's life is counted from the request: its answer may have taken long.
		AccessToken: t.AccessToken, ObtainedAt: t.RequestedAt, ExpiresAt: t.ExpiresAt,
		RefreshToken: t.RefreshToken, RefreshExpiresAt: t.RefreshExpiresAt, RefreshForever: t.RefreshForever,
	}
	if t.ScopeStated { // otherwise they are those requested (RFC 6749 §5.1)
		g.ScopesGranted = t.Scopes
	}
	return g, nil
}

// save saves a grant over the older one, and returns the generation of the record.
// It tries again for saveTimeout.
func (f *flow) save(ctx context.Context, g *tokenstore.Grant) (generation string, err error) {
	err = retry.For(saveTimeout, func() error {
		return f.store.Update(ctx, f.key, func(ctx context.Context, l *tokenstore.Locked) error {
			saved, err := l.Save(ctx, tokenstore.Record{Grant: g})
			if err != nil {
				return err
			}
			generation = saved
			// The mark is about refreshes of the older grant. If it stays, that
			// does no harm: it names the older generation. NewIssuerAt in it is
			// about sign-ins, and stays: see [flow.mayMove].
			if mark, err := l.Mark(ctx); err == nil {
				_ = l.SetMark(ctx, tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt})
			}
			return nil
		})
	})
	return generation, err
}
