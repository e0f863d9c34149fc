package mcpclient

import (
	"context"
	"errors"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Status is what is stored of a session. It holds no secret.
type Status struct {
	Server   string
	Account  string // "": the default account
	SignedIn bool   // the rest is empty otherwise

	Issuer string
	// IssuerUnlisted says that Issuer was that of [Client.Issuer] at the
	// sign-in, and that the server did not name it.
	IssuerUnlisted bool

	ClientID        string
	Resource        string   // the resource parameter (RFC 8707 §2); "": it was left out
	ScopesGranted   []string // by the last sign-in or refresh
	ScopesRequested []string // by all sign-ins

	ObtainedAt      time.Time // when the tokens were requested
	AccessExpiresAt time.Time // zero: the server did not say
	// Refreshable says that there is a refresh token. Without one the session
	// ends with its access token.
	Refreshable      bool
	RefreshExpiresAt time.Time // zero: unknown, or never if RefreshForever
	RefreshForever   bool
}

// Status reads the store and sends nothing: a session that the server has ended
// still counts. A session whose tokens have all expired does not. Its error is about
// the store.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	a, err := c.init()
	if err != nil {
		return nil, err
	}
	st := &Status{Server: a.serverURL, Account: a.account}
	r, err := a.store.Get(ctx, a.key)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return st, nil
	}
	if err != nil {
		return nil, at(StepExchange, err)
	}
	g := r.Grant
	if g == nil || !a.accepts(g) {
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
