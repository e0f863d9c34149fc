package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/retry"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// lookTimeout bounds reading the record and waiting for the lock, beyond the
	// store's own limits: a keychain may be asking a person, who has a minute.
	lookTimeout = 2 * time.Minute
	// storeTimeout bounds each other step in the store while the lock is held.
	storeTimeout = 10 * time.Second

	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// maxWait is the longest back-off there is, a server's Retry-After. One that
	// seems longer was written under another clock.
	maxWait = time.Hour + maxBackoff
)

// What a flight came to, in the log.
const (
	refreshed = "refreshed"
	adopted   = "adopted"
	refused   = "refused"
	unknown   = "unknown"
	notSent   = "not-sent"
	notSaved  = "not-saved"
)

// A flight looks at the record and renews it if need be. Callers share it.
type flight struct {
	*Source
	began   time.Time // by the clock, which may jump
	started time.Time // for durations
	refused string    // the generation that the server has refused, "" if none
	seen    string    // the generation that was to be renewed before there was a lock
}

// run returns a token or why there is none. A caller who saw h asked for it.
func (f *flight) run(h *held) (*Access, error) {
	ctx, cancel := context.WithTimeout(f.quit, lookTimeout)
	defer cancel()
	if now := f.held.Load(); now != h && f.usable(now) {
		return now.access, nil // another flight has just landed
	}
	for {
		h := f.held.Load()
		next, err := f.merge(h, func() (tokenstore.Record, error) { return f.cfg.Store.Get(ctx, f.cfg.Key) })
		if err != nil {
			return f.unread(h, err)
		}
		now := clock.Now()
		usable := f.usable(next)
		newer := h.access != nil && next != h
		switch {
		case usable && next.unsaved == nil && (next.fresh(now) || next.waits(now) || newer):
			// One that another process has renewed is not renewed again by those
			// who wait, however little it has left. The next caller sees to that.
			if !f.held.CompareAndSwap(h, next.rest(now)) {
				continue // somebody signed in
			}
			if newer {
				f.report(next.grant, adopted, nil)
			}
			return next.access, nil
		case !usable && next.waits(now) && !next.retryAt.After(now.Add(maxWait)) && !(f.refused != "" && errors.Is(next.err, errPending)):
			return nil, next.failure()
		case !usable && next.grant.RefreshToken.IsZero():
			return nil, errNoRefreshToken
		case f.forces(next) && recent(now, *f.forced.Load()):
			return nil, refusedError(next)
		}
		f.seen = next.generation()
		return f.update(ctx, h, next)
	}
}

var errNoRefreshToken = fmt.Errorf("%w: the access token has ended and there is no refresh token", ErrLoginRequired)

func refusedError(h *held) error {
	return fmt.Errorf("%w (%s old)", ErrRefused, clock.Now().Sub(h.grant.ObtainedAt).Round(time.Second))
}

// recent reports whether t is less than forceEvery away from now.
func recent(now, t time.Time) bool { return now.Sub(t).Abs() < forceEvery }

// usable reports whether h has a token that this flight may yield.
func (f *flight) usable(h *held) bool {
	return h.live(clock.Now()) && h.access.Generation != f.refused
}

// forces reports whether this flight renews h only because the server refuses
// it. That the server refuses a token that has expired means nothing, and of
// one that expires within a second no more: servers count whole seconds, and a
// token may live for up to one less than they say.
func (f *flight) forces(h *held) bool {
	return f.refused != "" && h.live(clock.Now().Add(time.Second)) && h.access.Generation == f.refused
}

// merge returns what is held once the record is read: h itself if the record
// is what h came from, or is older.
func (s *Source) merge(h *held, read func() (tokenstore.Record, error)) (*held, error) {
	rec, err := read()
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, loginRequired(err)
	case err != nil:
		return nil, fmt.Errorf("refresh: read the grant: %w", err)
	case rec.Grant == nil:
		return nil, fmt.Errorf("refresh: read the grant: %w: it is no grant", tokenstore.ErrCorrupt)
	case s.cfg.Accepts != nil && !s.cfg.Accepts(rec.Grant):
		return nil, fmt.Errorf("%w: the stored grant, of issuer %s and client %s, is not the one to use", ErrLoginRequired, text.QuoteURL(rec.Grant.Issuer), text.Quote(rec.Grant.ClientID))
	case h.access != nil && h.access.Generation == rec.Generation,
		h.unsaved != nil && h.unsaved.replaces == rec.Generation:
		return h, nil
	}
	return newHeld(rec.Generation, rec.Grant), nil
}

// unread follows a record that is gone, which ends this process's session too,
// or one that cannot be read now, which ends nothing.
func (f *flight) unread(h *held, err error) (*Access, error) {
	if errors.Is(err, ErrLoginRequired) {
		f.held.CompareAndSwap(h, &held{})
		return nil, err
	}
	if f.usable(h) {
		return h.access, nil
	}
	return nil, err
}

// update renews next under the lock. h is what was held when it was read.
func (f *flight) update(ctx context.Context, h, next *held) (access *Access, err error) {
	ran := false
	lockErr := f.cfg.Store.Update(ctx, f.cfg.Key, func(ctx context.Context, l *tokenstore.Locked) error {
		ran = true
		// From here on the store's deadlines count, and ours: a request that was
		// sent is not given up because the wait for the lock was long.
		access, err = f.renew(context.WithoutCancel(ctx), l)
		return err
	})
	crashpoint.Hit("refresh.released")
	if ran {
		return access, err
	}
	f.report(next.grant, notSent, lockErr)
	return f.fails(h, next, clock.Now().Add(firstBackoff), fmt.Errorf("lock the grant: %w", lockErr))
}

// renew is what happens under the lock.
func (f *flight) renew(ctx context.Context, l *tokenstore.Locked) (*Access, error) {
	crashpoint.Hit("refresh.locked")
	reading, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	h, stored := f.held.Load(), ""
	next, err := f.merge(h, func() (tokenstore.Record, error) {
		rec, err := l.Get(reading)
		stored = rec.Generation
		return rec, err
	})
	if err != nil {
		return f.unread(h, err)
	}
	if next.unsaved != nil {
		if saved, err := f.saveAgain(ctx, l, next); err == nil {
			next, stored = saved, saved.generation()
		}
	}
	now := clock.Now()
	usable, moved, spendable := f.usable(next), next.generation() != f.seen, !next.grant.RefreshToken.IsZero()
	if usable && (moved || next.fresh(now) || !spendable) {
		if moved { // somebody else has renewed it while this flight waited
			f.report(next.grant, adopted, nil)
		}
		f.held.Store(next.rest(now))
		return next.access, nil
	}
	if !spendable {
		return nil, errNoRefreshToken
	}

	mark, err := l.Mark(reading)
	if err != nil {
		f.report(next.grant, notSent, err)
		return f.fails(h, next, now.Add(firstBackoff), fmt.Errorf("read the pending mark: %w", err))
	}
	if next.unsaved != nil || mark.Generation != stored && !(mark.Pending && mark.Generation == "") {
		mark = tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt} // of a token that is no longer the one to send
	}
	switch {
	case f.began.Before(mark.NotBefore) && mark.NotBefore.Before(now.Add(maxWait)):
		// What failed while this flight waited for the lock is its failure too:
		// otherwise all who wait would try in turn.
		cause := errElsewhere
		if !mark.Pending && !mark.At.IsZero() && !mark.At.Before(next.grant.ExpiresAt) {
			cause = ErrDeadOnArrival
		}
		return f.fails(h, next, mark.NotBefore, cause)
	case mark.Pending && usable:
		// A second send of a spent token ends the whole grant, this access token
		// included.
		return f.fails(h, next, next.grant.ExpiresAt, errPending)
	case f.forces(next) && !mark.Pending && recent(now, mark.At):
		return nil, refusedError(next) // another process has just forced this one
	}
	return f.send(ctx, l, h, next, stored, mark)
}

// send spends the refresh token of next, which is stored under a generation
// that may be older. prior is the mark found.
func (f *flight) send(ctx context.Context, l *tokenstore.Locked, h, next *held, stored string, prior tokenstore.Mark) (*Access, error) {
	g, forced := next.grant, f.forces(next)
	began := time.Now()
	sent := tokenstore.Mark{Pending: true, Generation: stored, At: clock.Now(), Tries: prior.Tries + 1, Failures: prior.Failures, NewIssuerAt: prior.NewIssuerAt}
	if err := setMark(ctx, l, sent); err != nil {
		f.report(g, notSent, err)
		return f.fails(h, next, clock.Now().Add(firstBackoff), fmt.Errorf("set the pending mark: %w", err))
	}
	crashpoint.Hit("refresh.marked")

	// Exactly what this grant's exchange sent, or nothing: Keycloak answers
	// invalid_target to a resource that the code exchange did not name.
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken.Reveal()}}
	if g.Resource != "" {
		form.Set("resource", g.Resource)
	}
	// The time for it began with the mark: a database takes the lock away from
	// who is silent for longer than a request may take, as a process is that was
	// stopped here, and then the token is another's to send.
	left := f.cfg.RequestTimeout - max(clock.Now().Sub(sent.At), 0)
	if left <= 0 {
		return f.rejected(ctx, l, h, next, prior, sent, errStoodStill)
	}
	request, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	token, err := oauthhttp.RequestToken(request, f.cfg.HTTPClient, g.TokenEndpoint, form,
		oauthhttp.ClientAuth{ID: g.ClientID, Secret: g.ClientSecret, Method: g.AuthMethod})
	crashpoint.Hit("refresh.answered")
	if err != nil {
		return f.rejected(ctx, l, h, next, prior, sent, err)
	}

	g = renewed(g, token)
	generation, saveErr := f.save(ctx, l, g, f.cfg.RequestTimeout-time.Since(began))
	crashpoint.Hit("refresh.saved")
	now := clock.Now()
	next = newHeld(generation, g)

	var after tokenstore.Mark
	switch {
	case !next.live(now):
		next.err, next.retryAt = ErrDeadOnArrival, now.Add(backoff(prior.Failures+1))
		if jump := now.Sub(sent.At) - time.Since(began); next.live(now.Add(-jump)) {
			next.err = fmt.Errorf("%w: %w (by %s)", ErrDeadOnArrival, ErrClockMoved, jump.Round(time.Second))
		}
		after = tokenstore.Mark{Generation: generation, At: now, Failures: prior.Failures + 1, NotBefore: next.retryAt}
	case forced:
		after = tokenstore.Mark{Generation: generation, At: now}
	case !prior.Pending && recent(now, prior.At):
		after = tokenstore.Mark{Generation: generation, At: prior.At}
	}
	after.NewIssuerAt = prior.NewIssuerAt
	if forced {
		f.forced.Store(&now)
	}
	if saveErr != nil {
		// The mark stays: what is stored is spent. The token is good all the same.
		next.unsaved = &unsaved{stored, saveErr}
		f.report(g, notSaved, saveErr)
	} else {
		// If this fails the mark is that of an older generation, which is void.
		_ = setMark(ctx, l, after)
		f.report(g, refreshed, next.err)
	}
	crashpoint.Hit("refresh.cleared")
	f.held.Store(next.rest(now))
	if next.err != nil {
		return nil, next.failure()
	}
	return next.access, nil
}

var errStoodStill = &oauthhttp.TokenError{Outcome: oauthhttp.NotSent, Err: errors.New("this process stood still, and the lock may be gone")}

// rejected follows a request that brought no token.
func (f *flight) rejected(ctx context.Context, l *tokenstore.Locked, h, next *held, prior, sent tokenstore.Mark, err error) (*Access, error) {
	var te *oauthhttp.TokenError
	if !errors.As(err, &te) {
		te = &oauthhttp.TokenError{Outcome: oauthhttp.Unknown}
	}
	mark := prior // an older send of unknown outcome stays one
	switch te.Outcome {
	case oauthhttp.NotSent:
		f.report(next.grant, notSent, err)
	case oauthhttp.Unknown:
		f.report(next.grant, unknown, err)
		mark = sent
	case oauthhttp.Refused:
		f.report(next.grant, refused, err)
		switch te.Code {
		case "invalid_grant", "invalid_target":
			if prior.Pending {
				return f.ends(ctx, l, next, prior, fmt.Errorf("%w: %w", ErrAnswerLost, err))
			}
			return f.ends(ctx, l, next, prior, loginRequired(err))
		case "invalid_client":
			if next.grant.Registration == "" {
				err = &ClientError{ClientID: next.grant.ClientID, Err: err}
				break
			}
			if dropErr := f.dropRegistration(ctx, next.grant); dropErr != nil {
				err = fmt.Errorf("forget client %s, which the server no longer knows: %w", text.Quote(next.grant.ClientID), dropErr)
				break
			}
			return f.ends(ctx, l, next, prior, loginRequired(err))
		}
	}
	mark.Generation, mark.Failures = sent.Generation, prior.Failures+1
	mark.NotBefore = clock.Now().Add(max(backoff(mark.Failures), te.RetryAfter))
	_ = setMark(ctx, l, mark) // if not, the pending one stays, which is the careful reading
	until := mark.NotBefore
	if te.Outcome == oauthhttp.Unknown && f.usable(next) {
		err, until = fmt.Errorf("%w: %w", errPending, err), later(until, next.grant.ExpiresAt)
	}
	return f.fails(h, next, until, err)
}

// ends follows a refresh token that the server will never take again. It is
// removed from the record, so that no other process sends it, and the access
// token is used as long as it lives.
func (f *flight) ends(ctx context.Context, l *tokenstore.Locked, h *held, prior tokenstore.Mark, cause error) (*Access, error) {
	saving, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	g := *h.grant
	g.RefreshToken, g.RefreshExpiresAt, g.RefreshForever = tokenstore.Secret{}, time.Time{}, false
	generation, err := l.Save(saving, tokenstore.Record{Grant: &g})
	if err != nil {
		generation = h.generation() // others will ask in vain, no more
	}
	_ = setMark(ctx, l, tokenstore.Mark{NewIssuerAt: prior.NewIssuerAt})
	next, now := newHeld(generation, &g), clock.Now()
	next.err = cause
	f.held.Store(next.rest(now))
	if f.usable(h) {
		return next.access, nil
	}
	return nil, cause
}

// fails keeps the grant and remembers until when it is not tried again, and
// why. The cause is nobody's error while the token lives.
func (f *flight) fails(h, next *held, until time.Time, cause error) (*Access, error) {
	failed := *next
	failed.err, failed.retryAt = cause, until
	f.held.CompareAndSwap(h, failed.rest(clock.Now())) // unless somebody has signed in
	if f.usable(next) {
		return next.access, nil
	}
	return nil, failed.failure()
}

// dropRegistration forgets the client of g, which the server no longer knows.
func (f *flight) dropRegistration(ctx context.Context, g *tokenstore.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return tokenstore.DropRegistration(ctx, f.cfg.Store, g.Registration, g.ClientID)
}

// save saves g. The refresh token that is stored is spent, so it does not give
// up at once, nor an attempt that gets on: what bounds that is the store's own
// limit for each call, and all the time that a refresh has.
func (f *flight) save(ctx context.Context, l *tokenstore.Locked, g *tokenstore.Grant, left time.Duration) (generation string, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.SaveTimeout+max(left, 0))
	defer cancel()
	err = retry.For(f.cfg.SaveTimeout, func() error {
		generation, err = l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	return generation, err
}

// saveAgain saves what is held and could not be saved before, in the time that
// a refresh has.
func (s *Source) saveAgain(ctx context.Context, l *tokenstore.Locked, h *held) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout+s.cfg.SaveTimeout)
	defer cancel()
	generation, err := l.Save(ctx, tokenstore.Record{Grant: h.grant})
	if err != nil {
		return nil, err
	}
	if mark, err := l.Mark(ctx); err == nil {
		_ = setMark(ctx, l, tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt}) // the rest is of a generation that is gone
	}
	next := newHeld(generation, h.grant)
	next.err, next.retryAt = h.err, h.retryAt
	return next, nil
}

// saveAtEnd is the last try, when the Source is closed.
func (s *Source) saveAtEnd() error {
	if s.held.Load().unsaved == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	err := s.cfg.Store.Update(ctx, s.cfg.Key, func(ctx context.Context, l *tokenstore.Locked) error {
		reading, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		h := s.held.Load()
		next, err := s.merge(h, func() (tokenstore.Record, error) { return l.Get(reading) })
		switch {
		case errors.Is(err, ErrLoginRequired):
			return nil // a logout meanwhile wins
		case err != nil:
			return err
		case next != h:
			return nil // somebody has signed in meanwhile, or a save that seemed to fail did not
		}
		saved, err := s.saveAgain(ctx, l, h)
		if err == nil {
			s.held.Store(saved.rest(clock.Now()))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSaved, err)
	}
	return nil
}

// setMark writes the mark within a time of its own: some follow a request that
// took all there was.
func setMark(ctx context.Context, l *tokenstore.Locked, m tokenstore.Mark) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return l.SetMark(ctx, m)
}

// renewed returns g with what the answer brought. What it does not mention
// stays as it was (RFC 6749 §5.1, §6).
func renewed(g *tokenstore.Grant, t *oauthhttp.Token) *tokenstore.Grant {
	n := *g
	n.AccessToken, n.ObtainedAt, n.ExpiresAt = t.AccessToken, t.RequestedAt, t.ExpiresAt
	if !t.RefreshToken.IsZero() {
		n.RefreshToken, n.RefreshExpiresAt, n.RefreshForever = t.RefreshToken, t.RefreshExpiresAt, t.RefreshForever
	}
	if t.ScopeStated {
		n.ScopesGranted = t.Scopes
	}
	return &n
}

// backoff is how long to wait after so many failures in a row: doubling, with
// up to a quarter taken off so that many users of one server do not come back
// all at once.
func backoff(failures int) time.Duration {
	d := min(firstBackoff<<min(max(failures-1, 0), 10), maxBackoff)
	return d - rand.N(d/4)
}

func (f *flight) report(g *tokenstore.Grant, outcome string, err error) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("step", "refresh"),
		slog.String("outcome", outcome),
		slog.String("server", g.Server),
		slog.String("account", g.Account),
		slog.String("client_id", g.ClientID),
		slog.Duration("duration", time.Since(f.started)),
	}
	if err != nil {
		level, attrs = slog.LevelWarn, append(attrs, slog.String("error", err.Error()))
	}
	f.log.LogAttrs(context.Background(), level, "refresh", attrs...)
}
