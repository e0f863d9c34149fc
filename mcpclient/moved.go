package mcpclient

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/refresh"
)

// A server may move to another authorization server, and then refuses the tokens
// of the old one (MCP specification, "Authorization Server Binding"). So the server
// is asked which one it announces when it refuses a fresh token, and when a refresh
// gets no answer.

// announced returns the issuer that the server announces now, if that is another
// one than issuer, and the configuration for a sign-in there. The configuration
// is nil if a person has pinned issuer: then nobody signs in elsewhere.
func (a *authorizer) announced(ctx context.Context, c discovery.Challenge, issuer string) (named string, to *discovery.Configuration) {
	pin := a.issuer
	if stored, err := a.stored(ctx); err == nil && stored.Grant != nil && stored.Grant.IssuerUnlisted && stored.Grant.Issuer == issuer {
		// A sign-in at an issuer that the server does not name was pinned, perhaps by
		// another Client than this one.
		pin = issuer
	}
	cfg, err := a.discoverAt(ctx, c, pin)
	switch {
	case err != nil:
		return "", nil // nothing is known: no reason to sign in elsewhere
	case cfg.IssuerUnlisted && cfg.ProtectedResource != nil && len(cfg.ProtectedResource.AuthorizationServers) > 0:
		return cfg.ProtectedResource.AuthorizationServers[0], nil
	case pin != "" || cfg.Issuer == issuer:
		return "", nil
	}
	return cfg.Issuer, cfg
}

const (
	searchEvery   = time.Minute
	searchTimeout = 10 * time.Second // a caller waits, and gets its own error otherwise
)

// moves remembers the last search for another authorization server, so that
// requests that fail together, or one after the other, do not search each.
type moves struct {
	mu   sync.Mutex // guards last
	last search
}

// A search is what the server announced in place of one issuer.
type search struct {
	issuer string
	at     time.Time
	to     *discovery.Configuration // nil: no other one, or the search is under way
}

// begin returns what was found within the last minute. Otherwise it begins a search,
// and fresh is true: the caller searches and calls end. A request that comes
// meanwhile is told that there is no other server, and does not wait: a search is worth
// the time of one request, and not of all.
func (m *moves) begin(issuer string, now time.Time) (to *discovery.Configuration, fresh bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.issuer == issuer && now.Sub(m.last.at).Abs() < searchEvery {
		return m.last.to, false
	}
	m.last = search{issuer: issuer, at: now}
	return nil, true
}

// end keeps what a search has found. One that was given up counts as none.
func (m *moves) end(s search, givenUp bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case s.to != nil:
		m.last = s
	case givenUp:
		m.last = search{}
	}
}

// movedFrom returns the configuration of the authorization server that the
// server announces in place of issuer; nil if it announces that one still, or was
// asked within the last minute. A nil challenge has the server asked for one.
func (a *authorizer) movedFrom(ctx context.Context, issuer string, c *discovery.Challenge) *discovery.Configuration {
	now := clock.Now()
	if to, fresh := a.moves.begin(issuer, now); !fresh {
		return to
	}
	searching, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	to := a.otherServer(searching, issuer, c)
	a.moves.end(search{issuer, now, to}, ctx.Err() != nil)
	return to
}

// otherServer returns the authorization server that the server announces in place
// of issuer, or nil.
func (a *authorizer) otherServer(ctx context.Context, issuer string, c *discovery.Challenge) *discovery.Configuration {
	if c == nil {
		probed, _, err := a.probe(ctx)
		if err != nil {
			return nil
		}
		c = &probed
	}
	_, to := a.announced(ctx, *c, issuer)
	return to
}

// abandoned returns the expired token of a grant whose authorization server is
// unreachable, and the one that the MCP server announces now: the grant can never
// be renewed then. It returns nil if the MCP server announces no other one, and for
// a request for which nobody waits.
func (a *authorizer) abandoned(ctx context.Context, t *trip) (*refresh.Access, *discovery.Configuration) {
	if c := t.call(); !errors.As(t.why, new(*refresh.RetryError)) || c.mcp && !c.awaited(ctx) || !resendable(t.req) {
		return nil, nil
	}
	held := a.source.Held()
	if held == nil {
		return nil, nil
	}
	to := a.movedFrom(ctx, held.Issuer, nil)
	if to == nil {
		return nil, nil
	}
	return held, to
}
