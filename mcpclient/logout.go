package mcpclient

import (
	"context"
	"errors"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/tokenstore"
)

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

// A LogoutResult says what a logout achieved at the server. Unless an error came with
// it, nothing is stored any more.
type LogoutResult struct {
	Revocation Revocation
	Err        error // why the revocation failed
	// AccessUntil is until when the access token may still be good at the server.
	// A revoked one may be too, where the server checks only its signature. Zero:
	// it is dead, or its life is not known.
	AccessUntil time.Time
	// Elsewhere is how long other processes may go on with their tokens. A
	// process notices at most this long after the logout, or, if it was idle, at
	// its next call, which may still succeed.
	Elsewhere time.Duration
}

// Logout revokes the refresh token and the access token (RFC 7009) where the
// server offers it, and forgets them in any case. The registration stays:
// accounts share it. If the store did not forget, it returns both an error and a
// result, which says what was revoked. A logout without a session is no error.
func (c *Client) Logout(ctx context.Context) (*LogoutResult, error) {
	a, err := c.init()
	if err != nil {
		return nil, err
	}
	res := &LogoutResult{Revocation: RevocationNotNeeded, Elsewhere: elsewhere}
	err = a.store.Update(ctx, a.key, func(ctx context.Context, l *tokenstore.Locked) error {
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
			res.revoke(ctx, a.settings, r.Grant)
		}
		// The tokens may be revoked by now, and the caller gone: a record of dead
		// tokens must not stay.
		return l.Delete(context.WithoutCancel(ctx))
	})
	a.source.Forget()
	if err != nil {
		return res, at(StepExchange, err)
	}
	return res, nil
}

// revoke revokes the tokens of g and says what became of them.
func (res *LogoutResult) revoke(ctx context.Context, s *settings, g *tokenstore.Grant) {
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
