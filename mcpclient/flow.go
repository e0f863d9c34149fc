package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A flow takes the steps 1 to 6 of the documented flow. It keeps nothing between
// two sign-ins but what is in the store. So any number of sign-ins may use it at
// once, and the locks in the store keep them apart.
type flow struct {
	*settings
	source *refresh.Source // takes over the new grant
}

// A signInRequest says what a sign-in is for. It comes from a refused request, or
// from Login.
type signInRequest struct {
	challenge    discovery.Challenge
	cfg          *discovery.Configuration // nil: to be discovered
	scopes       []string                 // to ask for in addition to those of scopesFor
	refusedToken *refresh.Access          // the token that does not serve; nil if there was none

	login  *LoginOptions // not nil: a person asked for it
	before string        // with login: SignIn of the grant that was stored then; "": there was none
}

// LoginOptions are for programs with a terminal. nil is right for all others. A
// Login that takes the result of another sign-in does not use them. The functions are
// called one at a time, from a goroutine of the sign-in's own.
type LoginOptions struct {
	// Pasted yields addresses that a person pastes: where a browser on another
	// computer, or a private window, ended up. They are raced with the callback.
	// If nil or closed, nothing can be pasted.
	Pasted <-chan string
	// OnIgnored, if not nil, is told of each pasted address that could not
	// be used; the wait goes on.
	OnIgnored func(error)
	// OnWarning, if not nil, is given each error that does not end the sign-in.
	// It wraps [ErrConsentNotAsked] or [ErrNotListed].
	OnWarning func(error)
}

// underLock signs in under the lock that makes it one sign-in per account, or
// takes what another process has got while this one waited for the lock. shown
// says that a page was shown to a person.
//
// The lock is not that of the grant. So calls in other processes go on, and refresh,
// while a person takes five minutes.
func (f *flow) underLock(ctx context.Context, want signInRequest) (access *refresh.Access, shown bool, err error) {
	err = f.store.Update(ctx, f.key.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
		stored, err := f.stored(ctx)
		if err != nil {
			return err
		}
		if stored.Grant != nil && f.suffices(stored.Grant, want) {
			f.source.Adopt(stored.Generation, stored.Grant)
			if access, err = f.source.Access(ctx); !errors.Is(err, ErrLoginRequired) {
				return err
			}
			// It had expired, and its refresh was refused.
		}
		access, shown, err = f.throughBrowser(ctx, want, stored.Grant)
		return err
	})
	// A timeout of this very Update comes as it is, and means that another process
	// signs in. One from within, such as that of the registration's lock, comes
	// wrapped, and is another matter. So errors.As would not do here.
	if _, outer := err.(*tokenstore.LockTimeoutError); outer {
		err = at(StepCallback, fmt.Errorf("wait for a sign-in to the same account: %w", err))
	}
	return access, shown, at(StepExchange, err)
}

// suffices reports whether g, a grant found under the sign-in lock, makes the
// sign-in unnecessary.
func (f *flow) suffices(g *tokenstore.Grant, want signInRequest) bool {
	if !f.accepts(g) {
		return false
	}
	if want.login != nil {
		return g.SignIn != want.before // somebody has signed in since
	}
	// A server may grant less than was requested. To request it once more would
	// yield no more, so the scopes granted do not matter.
	for _, scope := range want.scopes {
		if !slices.Contains(g.ScopesRequested, scope) {
			return false
		}
	}
	// The refresh token may be dead: underLock finds that out.
	alive := !g.RefreshToken.IsZero() || g.ExpiresAt.IsZero() || clock.Now().Before(g.ExpiresAt)
	return alive && (want.refusedToken == nil || !want.refusedToken.Token.Equal(g.AccessToken))
}

// throughBrowser takes steps 1 to 6 through a browser. prior is the stored grant,
// if there is one.
func (f *flow) throughBrowser(ctx context.Context, want signInRequest, prior *tokenstore.Grant) (access *refresh.Access, shown bool, err error) {
	cfg := want.cfg
	if cfg == nil {
		if cfg, err = f.discover(ctx, want.challenge); err != nil {
			return nil, false, err
		}
	}
	// When nobody asked for the sign-in, the server alone decides where the person
	// is sent. A person who asked may go anywhere.
	if want.login == nil && prior != nil {
		if err := f.mayMove(ctx, prior.Issuer, cfg.Issuer); err != nil {
			return nil, false, at(StepAuthorize, err)
		}
	}
	f.warnUnlisted(cfg, want.login)
	for again := false; ; again = true {
		cl, p, address, err := f.begin(ctx, cfg, f.scopesFor(cfg, want, prior), prior, want.login, func() (*oauthClient, error) {
			return f.loopbackClient(ctx, cfg, want.login)
		})
		if err != nil {
			return nil, shown, err
		}
		shown = true
		access, err := f.browse(ctx, cl, p, address, want.login)
		if again || !p.consentRefused(err) {
			return access, shown, err
		}
		// finish has remembered the refusal. So the second request goes without
		// prompt=consent.
	}
}

// begin takes steps 2 to 4. It gets a client from the function client: a browser on
// this computer and a web application differ in that alone. It returns the client,
// the pending sign-in, and the authorization URL. If the server no longer knows a
// client of an earlier sign-in, it is replaced, once.
func (f *flow) begin(ctx context.Context, cfg *discovery.Configuration, scopes []string, prior *tokenstore.Grant, opts *LoginOptions, client func() (*oauthClient, error)) (*oauthClient, *PendingLogin, string, error) {
	for anew := false; ; anew = true {
		cl, err := client()
		if err != nil {
			return nil, nil, "", err
		}
		var p *PendingLogin
		var address string
		if err = f.decideConsent(ctx, cfg, cl, scopes, prior, opts); err == nil {
			p, address, err = f.authorize(cfg, cl, scopes)
		}
		if err == nil && (anew || !cl.reused || !f.turnsAway(ctx, address)) {
			return cl, p, address, nil
		}
		// It failed, or the server does not know the client. The next client binds
		// the callback address anew.
		if cl.listener != nil {
			_ = cl.listener.Close()
		}
		if err != nil {
			return nil, nil, "", err
		}
		if err := tokenstore.DropRegistration(ctx, f.store, cl.registration, cl.auth.ID); err != nil {
			return nil, nil, "", at(StepRegistration, err)
		}
	}
}

// browse opens the browser and waits for the callback, which it takes through
// steps 5 and 6.
func (f *flow) browse(ctx context.Context, cl *oauthClient, p *PendingLogin, address string, opts *LoginOptions) (*refresh.Access, error) {
	defer cl.listener.Close()
	start := time.Now()
	opening, cancel := context.WithCancel(ctx)
	defer cancel() // the sign-in is over: a late error of the browser is no news
	page := cl.listener.Start(address)
	go f.open(opening, address, page, p.v.State)
	var pasted <-chan string
	if opts != nil {
		pasted = opts.Pasted
	}
	var access *refresh.Access
	answered := false
	// Wait gives each callback to this function and shows in the browser what it
	// returns. So the code is exchanged and the grant is saved in here, while the
	// browser waits: the page must not say that a sign-in succeeded which was lost
	// a moment later.
	err := cl.listener.Wait(ctx, func(ctx context.Context, v url.Values) error {
		got, err := f.finish(ctx, p, cl.auth.Secret, v)
		var ae *authcode.AuthorizationError
		switch {
		case errors.Is(err, authcode.ErrState):
			// The parameters belong to another sign-in, or somebody has guessed.
			// ErrState is step 4's word for that; to step 5 the callback counts for
			// nothing, and Wait goes on waiting for the right one.
			return fmt.Errorf("%w: %w", callback.ErrIgnored, err)
		case errors.As(err, &ae) && ae.Denied():
			err = fmt.Errorf("%w: %w", callback.ErrDenied, err)
		}
		access, answered = got, true
		return err
	}, pasted)
	if !answered && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("nobody came back from the browser within %s: %w", f.signInTimeout, err)
	}
	f.audit(ctx, StepCallback, "sign in", p.v.ClientID, start, err)
	if err != nil {
		return nil, at(StepCallback, err)
	}
	return access, nil
}

// open shows the authorization URL and opens the browser at page, the listener's
// own, which gives the browser a cookie and leads there. Neither error ends the
// sign-in: a person may still open the URL.
func (f *flow) open(ctx context.Context, address, page string, state tokenstore.Secret) {
	report := func(err error) {
		if err == nil || ctx.Err() != nil {
			return
		}
		// The error may repeat an address. Both addresses are as secret as the
		// state, and are taken out: whole, and in the parts that matter.
		if ue := new(url.Error); errors.As(err, &ue) {
			err = ue.Err
		}
		why := strings.NewReplacer(address, "…", page, "…").Replace(err.Error())
		why = text.Without(why, state.Reveal(), path.Base(page))
		f.log.Warn("no browser could be opened", "step", StepAuthorize.String(), "error", why)
	}
	if f.showURL != nil {
		report(f.showURL(ctx, address))
	}
	if f.openBrowser != nil {
		report(f.openBrowser(ctx, page))
	}
}
