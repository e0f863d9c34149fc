package mcpclient

import (
	"context"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// moveEvery is how often a sign-in that nobody asked for may go to another issuer
// than the grant's. A server may move once. One that names a new issuer each time
// would have the user look at whatever pages it likes.
const moveEvery = 24 * time.Hour

// mayMove returns an [IssuerChangedError] if a sign-in at the issuer to, in place
// of the grant's issuer from, has to wait until somebody asks for it. Otherwise
// it remembers the sign-in in the store, for other processes too. It does so
// before a browser opens: the page that the browser shows may never end.
func (f *flow) mayMove(ctx context.Context, from, to string) error {
	if from == to || f.issuer != "" {
		return nil // the server has not led the user anywhere
	}
	return f.store.Update(ctx, f.key, func(ctx context.Context, l *tokenstore.Locked) error {
		mark, err := l.Mark(ctx)
		if err != nil {
			return err
		}
		now := clock.Now()
		if now.Sub(mark.NewIssuerAt).Abs() < moveEvery { // Abs: the clock may have been set back
			return &IssuerChangedError{Issuer: from, Named: to}
		}
		mark.NewIssuerAt = now
		return l.SetMark(ctx, mark)
	})
}

// forgetMove allows the next such sign-in, after one that somebody asked for. If
// it cannot, somebody has to ask for the next one too, which does no harm.
func (f *flow) forgetMove(ctx context.Context) {
	_ = f.store.Update(ctx, f.key, func(ctx context.Context, l *tokenstore.Locked) error {
		mark, err := l.Mark(ctx)
		if err != nil || mark.NewIssuerAt.IsZero() {
			return err
		}
		mark.NewIssuerAt = time.Time{}
		return l.SetMark(ctx, mark)
	})
}
