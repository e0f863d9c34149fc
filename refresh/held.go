package refresh

import (
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// lookEvery is how long a logout or a sign-in by another process may stay
	// unnoticed while the access token lives.
	lookEvery = time.Minute
	// saveEvery is how often a grant that could not be saved is tried again.
	saveEvery = 5 * time.Second
	// maxEarly bounds how long before its expiry a token is renewed.
	maxEarly = time.Minute
)

// held is what a process knows of its grant. A held is never changed after it
// is stored in Source.held, only replaced, so that one atomic load yields
// values that fit together. The zero held knows nothing.
type held struct {
	access *Access // nil: no grant
	grant  *tokenstore.Grant

	// From quietFrom until quietUntil, callers use the token and nothing else
	// has to be done. The lower end is for clocks that are set back: without it
	// nobody would look at the record until the clock has caught up.
	quietFrom, quietUntil time.Time

	// err is why the last refresh failed, nil if it did not fail. Nothing is
	// tried again before retryAt, or ever for this generation if final.
	err     error
	retryAt time.Time
	final   bool

	unsaved *unsaved // nil: the store has this grant
}

// unsaved says that a grant is newer than the stored one, because saving it
// failed.
type unsaved struct {
	replaces string // the stored generation, whose refresh token is spent
	err      error
}

func newHeld(generation string, g *tokenstore.Grant) *held {
	return &held{
		access: &Access{
			Token:           g.AccessToken,
			Generation:      generation,
			ExpiresAt:       g.ExpiresAt,
			Scopes:          g.ScopesGranted,
			ScopesRequested: g.ScopesRequested,
			Issuer:          g.Issuer,
			Resource:        g.Resource,
		},
		grant: g,
	}
}

func (h *held) generation() string {
	if h.access == nil {
		return ""
	}
	return h.access.Generation
}

// quiet reports whether callers use the token now and nothing else has to be
// done. It is all that a call with a fresh token costs.
func (h *held) quiet(now time.Time) bool {
	return now.Before(h.quietUntil) && !now.Before(h.quietFrom)
}

// live reports whether there is a token that is not known to have expired.
func (h *held) live(now time.Time) bool {
	return h.access != nil && (h.grant.ExpiresAt.IsZero() || now.Before(h.grant.ExpiresAt))
}

// due is when the token should be renewed: in the last quarter of its life, at
// most maxEarly before its expiry. It is zero, which is never, for a token of
// unknown life, and the expiry for one that cannot be renewed.
func (h *held) due() time.Time {
	g := h.grant
	if g.ExpiresAt.IsZero() || g.RefreshToken.IsZero() {
		return g.ExpiresAt
	}
	return g.ExpiresAt.Add(-min(max(g.ExpiresAt.Sub(g.ObtainedAt), 0)/4, maxEarly))
}

// fresh reports whether there is a live token that is not due.
func (h *held) fresh(now time.Time) bool {
	return h.live(now) && (h.grant.ExpiresAt.IsZero() || now.Before(h.due()))
}

// backsOff reports whether the last failure forbids another try now.
func (h *held) backsOff(now time.Time) bool {
	return h.err != nil && (h.final || now.Before(h.retryAt))
}

// failure is the error of a caller for whom there is no live token.
func (h *held) failure() error {
	if h.final {
		return h.err
	}
	return &RetryError{At: h.retryAt, Err: h.err}
}

// settled returns a copy of h whose quiet time begins now. It ends when the
// record is to be looked at again, an unsaved grant is to be saved again, or a
// refresh is due and not forbidden by the last failure; at the latest when the
// token expires.
func (h *held) settled(now time.Time) *held {
	next := *h
	next.quietFrom, next.quietUntil = now.Add(-lookEvery), now.Add(lookEvery)
	if h.unsaved != nil {
		next.quietUntil = now.Add(saveEvery)
	}
	due := h.due()
	switch {
	case h.err != nil && h.final:
		due = h.grant.ExpiresAt
	case h.backsOff(now):
		due = earlier(h.grant.ExpiresAt, later(due, h.retryAt))
	}
	next.quietUntil = earlier(next.quietUntil, due)
	return &next
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// later returns the later of two times, of which a zero one is always past.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
