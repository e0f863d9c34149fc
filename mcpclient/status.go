package mcpclient

import (
	"context"
	"errors"
	"time"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Status is what is stored of a session. It holds no secret.
type Status struct {
	Server   string
	Account  string
	SignedIn bool // the rest is empty otherwise

	Issuer string
	// IssuerUnlisted says that Issuer was that of [Client.Issuer] at the
	// sign-in, and that the server did not name it.
	IssuerUnlisted bool

	ClientID        string
	Resource        string
	ScopesGranted   []string
	ScopesRequested []string

	ObtainedAt      time.Time
	AccessExpiresAt time.Time // zero: the server did not say
	// Refreshable says that there is a refresh token. Without one the session
	// ends with its access token.
	Refreshable      bool
	RefreshExpiresAt time.Time // zero: unknown, or never where RefreshForever
	RefreshForever   bool
}

// Status reads the store and sends nothing. A session whose tokens have all
// expired counts as none.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	s, err := c.init()
	if err != nil {
		return nil, err
	}
	st := &Status{Server: s.serverURL, Account: s.account}
	r, err := s.store.Get(ctx, s.key)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return st, nil
	}
	if err != nil {
		return nil, at(StepExchange, err)
	}
	g := r.Grant
	if g == nil || !s.accepts(g) {
		return st, nil
	}
	now := clock.Now()
	refreshable := !g.RefreshToken.IsZero() && (g.RefreshExpiresAt.IsZero() || now.Before(g.RefreshExpiresAt))
	if !refreshable && !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt) {
		return st, nil
	}
	st.SignedIn = true
	st.Issuer, st.IssuerUnlisted, st.ClientID, st.Resource = g.Issuer, g.IssuerUnlisted, g.ClientID, g.Resource
	st.ScopesGranted, st.ScopesRequested = g.ScopesGranted, g.ScopesRequested
	st.ObtainedAt, st.AccessExpiresAt = g.ObtainedAt, g.ExpiresAt
	st.Refreshable, st.RefreshExpiresAt, st.RefreshForever = refreshable, g.RefreshExpiresAt, g.RefreshForever
	return st, nil
}

// A Revocation says what became of the tokens at the server.
type Revocation string

const (
	Revoked             Revocation = "revoked"     // the server has forgotten them
	RevocationNotNeeded Revocation = "not needed"  // there were none
	RevocationMissing   Revocation = "not offered" // the server has no revocation endpoint
	RevocationFailed    Revocation = "failed"      // see LogoutResult.Err
)

// elsewhere bounds how long another process goes on with a grant that is gone:
// it looks at its record again once a minute.
const elsewhere = time.Minute

// A LogoutResult says what a logout achieved. Nothing is stored any more.
type LogoutResult struct {
	Revocation Revocation
	Err        error // why revocation failed
	// AccessUntil is how long the access token may still be good at the
	// server: a revoked one too, where the server checks only its signature.
	// Zero: it is dead, or its life is not known.
	AccessUntil time.Time
	// Elsewhere is how long other processes may go on with what they hold,
	// before they look at the store again. One that was idle for longer looks
	// while it makes its next call, which may be the last one to get through.
	Elsewhere time.Duration
}

// Logout revokes the refresh token and the access token (RFC 7009) where the
// server offers it, and forgets them in any case. The registration stays: it
// is shared by accounts. Its error says that the store did not forget.
func (c *Client) Logout(ctx context.Context) (*LogoutResult, error) {
	s, err := c.init()
	if err != nil {
		return nil, err
	}
	res := &LogoutResult{Revocation: RevocationNotNeeded, Elsewhere: elsewhere}
	err = s.store.Update(ctx, s.key, func(ctx context.Context, l *tokenstore.Locked) error {
		r, err := l.Get(ctx)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil
		case errors.Is(err, tokenstore.ErrCorrupt):
			return l.Delete(ctx)
		case err != nil:
			return err
		}
		if r.Grant != nil {
			s.revoke(ctx, r.Grant, res)
		}
		return l.Delete(context.WithoutCancel(ctx)) // in any case, and revoked or not by then
	})
	s.source.Forget()
	if err != nil {
		return res, at(StepExchange, err)
	}
	return res, nil
}

func (s *state) revoke(ctx context.Context, g *tokenstore.Grant, res *LogoutResult) {
	if clock.Now().Before(g.ExpiresAt) {
		res.AccessUntil = g.ExpiresAt
	}
	if g.RevocationEndpoint == "" {
		res.Revocation = RevocationMissing
		return
	}
	res.Revocation = Revoked
	ctx, cancel := context.WithTimeout(ctx, s.requestTimeout) // for both: others wait for the lock
	defer cancel()
	auth := oauthhttp.ClientAuth{ID: g.ClientID, Secret: g.ClientSecret, Method: g.AuthMethod}
	for _, t := range []struct {
		token tokenstore.Secret
		hint  string
	}{{g.RefreshToken, "refresh_token"}, {g.AccessToken, "access_token"}} {
		if t.token.IsZero() {
			continue
		}
		start := time.Now()
		err := oauthhttp.Revoke(ctx, s.oauth, g.RevocationEndpoint, t.token.Reveal(), t.hint, auth)
		s.audit(ctx, StepConnect, "revoke "+t.hint, g.ClientID, start, err)
		if te := new(oauthhttp.TokenError); errors.As(err, &te) && te.Code == "unsupported_token_type" && t.hint == "access_token" {
			continue // a self-contained token ends by itself
		}
		if err != nil && res.Err == nil {
			res.Revocation, res.Err = RevocationFailed, err
		}
	}
}

// Discovered is what [Client.Discover] found.
type Discovered struct {
	SignIn        bool // the server wants a token for a ping
	Configuration *discovery.Configuration
}

// Discover takes the first step alone: it asks the server whether it wants a
// sign-in, and fetches and checks its OAuth configuration. Nothing is stored.
// Errors are a [*StepError].
func (c *Client) Discover(ctx context.Context) (*Discovered, error) {
	s, err := c.init()
	if err != nil {
		return nil, err
	}
	challenge, needed, err := s.challenge(ctx)
	if err != nil {
		return nil, err
	}
	cfg, err := s.discover(ctx, challenge)
	if err != nil {
		return nil, err
	}
	return &Discovered{needed, cfg}, nil
}
