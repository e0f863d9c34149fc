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
	// lookTimeout bounds reading the record and waiting for the lock, in addition
	// to the store's own limits. It is long because a keychain may be asking a
	// person, who has a minute to answer.
	lookTimeout = 2 * time.Minute
	// storeTimeout bounds each other step in the store while the lock is held.
	storeTimeout = 10 * time.Second

	// forceEvery is how often a grant is renewed because a server refuses its
	// token. A server that refuses every token would otherwise cost a refresh for
	// each call.
	forceEvery = time.Minute

	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// maxWait is the longest back-off that this package writes: a server's
	// Retry-After, of which oauthhttp takes an hour at most. A longer one was
	// written before the clock was set back, and does not count.
	maxWait = time.Hour + maxBackoff
)

// The outcomes in the log.
const (
	outcomeRefreshed = "refreshed"
	outcomeAdopted   = "adopted"
	outcomeRefused   = "refused"
	outcomeUnknown   = "unknown"
	outcomeNotSent   = "not-sent"
	outcomeNotSaved  = "not-saved"
)

// A flight yields one token: it reads the record and, if that is due, renews it.
// All callers who wait share it. Its methods go down in this order, and each
// returns what the callers get:
//
//	look       reads the record without the lock; often nothing is left to do
//	withLock   waits for the lock
//	underLock  reads the record again, and the mark; decides whether to send
//	send       marks, sends the refresh token, saves the new tokens
//	noToken    what follows if the answer brought no token
//
// Each outcome goes into Source.held through settled, which also sets until when
// callers start no flight. Flights for different refused tokens may run in one
// process at a time, and a sign-in may end at any time. So held may change
// outside the lock while a flight works on what it has loaded.
//
// The points of crashpoint are where tests kill the process. They do nothing else.
type flight struct {
	*Source
	began   time.Time // by the clock, which may be set, as the marks are
	started time.Time // for durations
	refused string    // the generation that the server has refused, "" if none
}

// look returns a token that needs no refresh, or goes on to withLock. asked is
// what was held when a caller asked.
//
// The record is read twice, here and in underLock. This look takes no lock,
// since it mostly finds nothing to do: a process looks once a minute to notice
// a logout, or another process has renewed the grant. Nobody should wait for
// the lock for that, because another process may hold it as long as a request
// takes. But the record may be out of date as soon as it is read: another
// process may spend the refresh token. So look may hand out a token, and only
// underLock, which reads again, may send one.
func (f *flight) look(asked *held) (*Access, error) {
	ctx, cancel := context.WithTimeout(f.quit, lookTimeout)
	defer cancel()
	if landed := f.held.Load(); landed != asked && f.usable(landed) {
		return landed.access, nil // another flight ended between the caller's load and this one
	}
	for {
		h := f.held.Load()
		next, err := f.newest(h, func() (tokenstore.Record, error) { return f.cfg.Store.Get(ctx, f.cfg.Key) })
		if err != nil {
			return f.readFailed(h, err)
		}
		now := clock.Now()
		usable := f.usable(next)
		// The first token of a Source is newer than nothing: if it is due, the
		// callers wait for its refresh (see Access).
		newer := h.access != nil && next != h
		saved := next.unsaved == nil // only the holder of the lock can save it
		switch {
		case usable && saved && (newer || next.fresh(now) || next.backsOff(now)):
			// A newer token is taken even if it is due already, so that processes
			// that waited together do not renew it one after the other. The next
			// caller starts a refresh if it is needed.
			if !f.held.CompareAndSwap(h, next.settled(now)) {
				continue // a sign-in or another flight was first, and its grant counts
			}
			if newer {
				f.report(next.grant, outcomeAdopted, nil)
			}
			return next.access, nil
		case !usable && f.mustWait(next, now):
			return nil, next.failure()
		case !usable && next.grant.RefreshToken.IsZero():
			// RefreshExpiresAt is not asked: the server knows better than this clock
			// whether the refresh token still works.
			return nil, errNoRefreshToken
		case f.forces(next) && recent(now, *f.lastForced.Load()):
			return nil, refusedAgain(next) // this process forced it, or signed in, within the minute
		}
		return f.withLock(ctx, h, next)
	}
}

var errNoRefreshToken = fmt.Errorf("%w: the access token has expired and there is no refresh token", ErrLoginRequired)

func refusedAgain(h *held) error {
	return fmt.Errorf("%w (%s old)", ErrRefused, clock.Now().Sub(h.grant.ObtainedAt).Round(time.Second))
}

// recent reports whether t is less than forceEvery away from now. A time far in
// the future, from before the clock was set back, is not recent.
func recent(now, t time.Time) bool { return now.Sub(t).Abs() < forceEvery }

// usable reports whether this flight may yield the token of h.
func (f *flight) usable(h *held) bool {
	return h.live(clock.Now()) && h.access.Generation != f.refused
}

// forces reports whether this flight renews h for no other reason than that the
// server refuses its token. The refusal of an expired token does not count, nor
// that of a token with less than a second left: expiry times are in whole
// seconds, and a server may round down.
func (f *flight) forces(h *held) bool {
	return f.refused != "" && h.live(clock.Now().Add(time.Second)) && h.access.Generation == f.refused
}

// mustWait reports whether callers without a usable token get the last failure,
// since it is too soon for another try.
func (f *flight) mustWait(h *held, now time.Time) bool {
	clockSetBack := h.retryAt.After(now.Add(maxWait))
	// A refresh of unknown outcome is not repeated while the access token lives,
	// to keep that token alive. If the server refuses it there is nothing to keep.
	nothingToKeep := f.refused != "" && errors.Is(h.err, errPending)
	return h.backsOff(now) && !clockSetBack && !nothingToKeep
}

// newest returns h or the stored grant, whichever is newer. It returns h itself
// if the record is the one that h came from, or the one that h replaces and that
// could not be overwritten. Any other stored grant is newer, though generations
// have no order: the grant of h was stored before h was loaded, and h is loaded
// before the record is read.
func (s *Source) newest(h *held, read func() (tokenstore.Record, error)) (*held, error) {
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

// readFailed follows a record that is gone or that cannot be read. If no grant is
// there to use, somebody has logged out, and that ends the session in this
// process too, unless a sign-in has ended meanwhile (CompareAndSwap). A store that
// fails ends nothing while the token in memory lives.
func (f *flight) readFailed(h *held, err error) (*Access, error) {
	if errors.Is(err, ErrLoginRequired) {
		f.held.CompareAndSwap(h, &held{})
		return nil, err
	}
	if f.usable(h) {
		return h.access, nil
	}
	return nil, err
}

// withLock waits for the lock of the grant and calls underLock. next is what look
// found, and h what was held then.
func (f *flight) withLock(ctx context.Context, h, next *held) (access *Access, err error) {
	ran := false
	lockErr := f.cfg.Store.Update(ctx, f.cfg.Key, func(ctx context.Context, l *tokenstore.Locked) error {
		ran = true
		// ctx ends with lookTimeout or with Close. From here on neither counts, and
		// each step has a limit of its own: if a request that was sent were given
		// up, its answer would be lost.
		access, err = f.underLock(context.WithoutCancel(ctx), l, next.generation())
		return err
	})
	crashpoint.Hit("refresh.released")
	// Update returns the callback's error too, so lockErr alone does not tell
	// whether the lock was taken.
	if ran {
		return access, err
	}
	f.report(next.grant, outcomeNotSent, lockErr)
	return f.retryLater(h, next, clock.Now().Add(firstBackoff), fmt.Errorf("lock the grant: %w", lockErr))
}

// underLock reads the record again and, unless somebody has renewed the grant
// meanwhile, calls send. seen is the generation that look wanted to renew.
func (f *flight) underLock(ctx context.Context, l *tokenstore.Locked, seen string) (*Access, error) {
	crashpoint.Hit("refresh.locked")
	reading, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	// The second reading decides: nobody else can spend the refresh token now.
	h, stored := f.held.Load(), ""
	next, err := f.newest(h, func() (tokenstore.Record, error) {
		rec, err := l.Get(reading)
		stored = rec.Generation
		return rec, err
	})
	if err != nil {
		return f.readFailed(h, err)
	}
	// An unsaved grant is saved before anything else is done with it. If that
	// fails again it is renewed from memory; the stored token is spent anyway.
	if next.unsaved != nil {
		if saved, err := f.saveUnsaved(ctx, l, next); err == nil {
			next, stored = saved, saved.generation()
		}
	}
	now := clock.Now()
	usable, renewable := f.usable(next), !next.grant.RefreshToken.IsZero()
	// A fresh grant that has not moved is one that could not be saved again. It is
	// not renewed for that.
	moved := next.generation() != seen // somebody else has renewed it, or it has just been saved
	if usable && (moved || next.fresh(now) || !renewable) {
		if moved {
			f.report(next.grant, outcomeAdopted, nil)
		}
		// No CompareAndSwap: a grant that this process adopts meanwhile was saved
		// before this flight had the lock, so the second reading has seen it.
		f.held.Store(next.settled(now))
		return next.access, nil
	}
	if !renewable {
		return nil, errNoRefreshToken
	}

	// The mark says what other processes, or this one before a crash, have tried.
	mark, err := l.Mark(reading)
	if err != nil {
		f.report(next.grant, outcomeNotSent, err)
		return f.retryLater(h, next, now.Add(firstBackoff), fmt.Errorf("read the pending mark: %w", err))
	}
	if !concerns(mark, next, stored) {
		// NewIssuerAt is about sign-ins. All marks that a refresh writes carry it on.
		mark = tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt}
	}
	switch {
	case f.sharesBackoff(mark, now):
		cause := errElsewhere // a mark keeps no reason, with one exception
		if wasDeadOnArrival(mark, next.grant) {
			cause = ErrDeadOnArrival
		}
		return f.retryLater(h, next, mark.NotBefore, cause)
	case mark.Pending && usable:
		// The token may be spent. A server that sees a spent token again ends the
		// whole grant, and this access token with it. So the second try waits until
		// the access token has expired and there is nothing left to lose.
		return f.retryLater(h, next, next.grant.ExpiresAt, errPending)
	case f.forces(next) && !mark.Pending && recent(now, mark.At):
		return nil, refusedAgain(next) // another process forced it within the minute
	}
	return f.send(ctx, l, h, next, stored, mark)
}

// concerns reports whether the mark m is about the refresh token of next, where
// stored is the generation in the store. A mark that could not be decoded
// (pending, of no generation) may be about any token, so it counts. No mark is
// about the token of an unsaved grant: nobody else has that token.
func concerns(m tokenstore.Mark, next *held, stored string) bool {
	undecoded := m.Pending && m.Generation == ""
	return next.unsaved == nil && (m.Generation == stored || undecoded)
}

// sharesBackoff reports whether the back-off in m was not over when this flight
// began. The failure of another process is then this flight's failure too, even
// if the back-off has ended while this flight waited for the lock: all who wait
// would otherwise try one after the other.
func (f *flight) sharesBackoff(m tokenstore.Mark, now time.Time) bool {
	return f.began.Before(m.NotBefore) && m.NotBefore.Before(now.Add(maxWait))
}

// wasDeadOnArrival reports whether m was written by send for a token that had
// expired when it arrived: At is the time of the arrival.
func wasDeadOnArrival(m tokenstore.Mark, g *tokenstore.Grant) bool {
	return !m.Pending && !m.At.IsZero() && !m.At.Before(g.ExpiresAt)
}

// send spends the refresh token of next and saves the tokens of the answer. h is
// what was held when the record was read, stored the generation in the store,
// which is older than next if next is unsaved, and prior the mark that was found.
//
// The order of the steps is the rule against a lost session. The mark is durable
// before the request leaves, so that a crash at any later step leaves word that
// the token may be spent. The new tokens are durable before the mark is removed
// and before a caller gets one.
func (f *flight) send(ctx context.Context, l *tokenstore.Locked, h, next *held, stored string, prior tokenstore.Mark) (*Access, error) {
	g, forced := next.grant, f.forces(next) // asked now: the token may expire while the request is under way
	// Two clocks: clock.Now goes on while the computer sleeps, and may be set.
	// time.Since(began) does not show either.
	began := time.Now()
	// The mark names the stored generation. Other processes compare it with the
	// record that they read, and an unsaved grant is in no record.
	sent := tokenstore.Mark{Pending: true, Generation: stored, At: clock.Now(), Tries: prior.Tries + 1, Failures: prior.Failures, NewIssuerAt: prior.NewIssuerAt}
	if err := setMark(ctx, l, sent); err != nil {
		f.report(g, outcomeNotSent, err)
		return f.retryLater(h, next, clock.Now().Add(firstBackoff), fmt.Errorf("set the pending mark: %w", err))
	}
	crashpoint.Hit("refresh.marked")

	// The resource (RFC 8707 §2.2) is exactly the one of this grant's code
	// exchange, or none: Keycloak answers invalid_target to a resource that the
	// exchange did not name. A scope is not sent: without one the server keeps what
	// it has granted (RFC 6749 §6).
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken.Reveal()}}
	if g.Resource != "" {
		form.Set("resource", g.Resource)
	}
	// The time for the request began with the mark. A database takes the lock away
	// from a process that is silent for longer than a request may take, and then
	// another process may send the token. If this process was stopped here for
	// that long, it must not send the token too.
	left := f.cfg.RequestTimeout - max(clock.Now().Sub(sent.At), 0)
	if left <= 0 {
		return f.noToken(ctx, l, h, next, prior, sent, errSuspended)
	}
	request, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	token, err := oauthhttp.RequestToken(request, f.cfg.HTTPClient, g.TokenEndpoint, form,
		oauthhttp.ClientAuth{ID: g.ClientID, Secret: g.ClientSecret, Method: g.AuthMethod})
	crashpoint.Hit("refresh.answered")
	if err != nil {
		return f.noToken(ctx, l, h, next, prior, sent, err)
	}

	g = withAnswer(g, token)
	generation, saveErr := f.save(ctx, l, g, f.cfg.RequestTimeout-time.Since(began))
	crashpoint.Hit("refresh.saved")
	now := clock.Now()
	// A save that failed may have got through. Its generation is kept, so that
	// newest then knows the record as this grant.
	next = newHeld(generation, g)

	// after is the mark for the new tokens, mostly none. It is kept where other
	// processes must not spend them at once: they would get another dead token,
	// or force the grant again.
	var after tokenstore.Mark
	switch {
	case !next.live(now):
		next.err, next.retryAt = ErrDeadOnArrival, now.Add(backoff(prior.Failures+1))
		// Say so if only the clock made it expire: the clock shows the time in
		// which the computer slept or by which it was set, and time.Since does not.
		if jump := now.Sub(sent.At) - time.Since(began); next.live(now.Add(-jump)) {
			next.err = fmt.Errorf("%w: %w (by %s)", ErrDeadOnArrival, ErrClockMoved, jump.Round(time.Second))
		}
		after = tokenstore.Mark{Generation: generation, At: now, Failures: prior.Failures + 1, NotBefore: next.retryAt}
	case forced:
		after = tokenstore.Mark{Generation: generation, At: now}
	case !prior.Pending && recent(now, prior.At):
		// The token that was forced within the last minute had a short life. The
		// minute goes on for the one that replaces it.
		after = tokenstore.Mark{Generation: generation, At: prior.At}
	}
	after.NewIssuerAt = prior.NewIssuerAt
	if forced {
		f.lastForced.Store(&now)
	}
	if saveErr != nil {
		// The pending mark stays, since the stored refresh token is spent. The new
		// token is good, so callers get it.
		next.unsaved = &unsaved{stored, saveErr}
		f.report(g, outcomeNotSaved, saveErr)
	} else {
		// If this fails, the pending mark stays. It names the generation that has
		// just been replaced, so nobody heeds it.
		_ = setMark(ctx, l, after)
		f.report(g, outcomeRefreshed, next.err)
	}
	crashpoint.Hit("refresh.cleared")
	f.held.Store(next.settled(now)) // no CompareAndSwap, as in underLock
	if next.err != nil {
		return nil, next.failure()
	}
	return next.access, nil
}

var errSuspended = &oauthhttp.TokenError{Outcome: oauthhttp.NotSent, Err: errors.New("the process was suspended for longer than the request timeout; nothing was sent")}

// noToken follows a request that brought no token. What it does depends on how
// far the request came: not sent, refused, or of unknown outcome. prior is the
// mark that was found, sent the one that send wrote.
func (f *flight) noToken(ctx context.Context, l *tokenstore.Locked, h, next *held, prior, sent tokenstore.Mark, err error) (*Access, error) {
	var te *oauthhttp.TokenError
	if !errors.As(err, &te) {
		te = &oauthhttp.TokenError{Outcome: oauthhttp.Unknown} // the careful reading
	}
	// If this token was not taken, the state before it holds again. That includes
	// an older send of unknown outcome: a second try that the server did not carry
	// out says nothing about the first.
	mark := prior
	switch te.Outcome {
	case oauthhttp.NotSent:
		f.report(next.grant, outcomeNotSent, err)
	case oauthhttp.Unknown:
		f.report(next.grant, outcomeUnknown, err)
		mark = sent
	case oauthhttp.Refused:
		f.report(next.grant, outcomeRefused, err)
		// Only these answers are about the refresh token or its client (RFC 6749
		// §5.2, RFC 8707 §2). Any other refusal costs nothing but time.
		switch te.Code {
		case "invalid_grant", "invalid_target":
			// An earlier send was probably answered with tokens that nobody saved. The
			// error tells that to the person who has to sign in.
			if prior.Pending {
				return f.dropRefreshToken(ctx, l, next, prior, fmt.Errorf("%w: %w", ErrAnswerLost, err))
			}
			return f.dropRefreshToken(ctx, l, next, prior, loginRequired(err))
		case "invalid_client":
			// A client that was registered by hand is for its owner to put right. A
			// client that we registered is gone, and its refresh tokens with it.
			if next.grant.Registration == "" {
				err = &ClientError{ClientID: next.grant.ClientID, Err: err}
				break // and back off: the owner may put it right
			}
			if dropErr := f.dropRegistration(ctx, next.grant); dropErr != nil {
				err = fmt.Errorf("forget client %s, which the server no longer knows: %w", text.Quote(next.grant.ClientID), dropErr)
				break
			}
			return f.dropRefreshToken(ctx, l, next, prior, loginRequired(err))
		}
	}
	mark.Generation, mark.Failures = sent.Generation, prior.Failures+1
	mark.NotBefore = clock.Now().Add(max(backoff(mark.Failures), te.RetryAfter))
	_ = setMark(ctx, l, mark) // if this fails, the pending mark stays, which is the careful reading
	until := mark.NotBefore
	if te.Outcome == oauthhttp.Unknown && f.usable(next) { // as underLock does for a pending mark
		err, until = fmt.Errorf("%w: %w", errPending, err), later(until, next.grant.ExpiresAt)
	}
	return f.retryLater(h, next, until, err)
}

// dropRefreshToken follows a refresh token that the server will never take
// again. The token is removed from the record, so that no other process sends
// it. The access token is used as long as it lives.
func (f *flight) dropRefreshToken(ctx context.Context, l *tokenstore.Locked, h *held, prior tokenstore.Mark, cause error) (*Access, error) {
	saving, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	g := *h.grant
	g.RefreshToken, g.RefreshExpiresAt, g.RefreshForever = tokenstore.Secret{}, time.Time{}, false
	generation, err := l.Save(saving, tokenstore.Record{Grant: &g})
	if err != nil {
		generation = h.generation() // other processes will be refused too, and nothing worse
	}
	// No refresh token is left that a mark could be about.
	_ = setMark(ctx, l, tokenstore.Mark{NewIssuerAt: prior.NewIssuerAt})
	next, now := newHeld(generation, &g), clock.Now()
	next.err, next.final = cause, true
	f.held.Store(next.settled(now))
	if f.usable(h) {
		return next.access, nil
	}
	return nil, cause
}

// retryLater keeps the grant and remembers why it could not be renewed, and until
// when it is not tried again. While the token lives no caller gets the cause.
func (f *flight) retryLater(h, next *held, until time.Time, cause error) (*Access, error) {
	failed := *next
	failed.err, failed.retryAt, failed.final = cause, until, false
	f.held.CompareAndSwap(h, failed.settled(clock.Now())) // what a sign-in or another flight has put there stays
	if f.usable(next) {
		return next.access, nil
	}
	return nil, failed.failure()
}

// dropRegistration forgets the client of g, which the server no longer knows. It
// takes the registration's lock inside the grant's. Nobody takes them in the
// other order.
func (f *flight) dropRegistration(ctx context.Context, g *tokenstore.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return tokenstore.DropRegistration(ctx, f.cfg.Store, g.Registration, g.ClientID)
}

// save saves g, and tries again for SaveTimeout: the stored refresh token is
// spent, so g is the only copy of the session. left is the time that the request
// has not used. An attempt that is under way when SaveTimeout ends may use that
// too; the store's own limits bound each attempt besides.
func (f *flight) save(ctx context.Context, l *tokenstore.Locked, g *tokenstore.Grant, left time.Duration) (generation string, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.SaveTimeout+max(left, 0))
	defer cancel()
	err = retry.For(f.cfg.SaveTimeout, func() error {
		generation, err = l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	return generation, err
}

// saveUnsaved saves a grant that could not be saved before. It tries once, in
// the time that a refresh has.
func (s *Source) saveUnsaved(ctx context.Context, l *tokenstore.Locked, h *held) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout+s.cfg.SaveTimeout)
	defer cancel()
	generation, err := l.Save(ctx, tokenstore.Record{Grant: h.grant})
	if err != nil {
		return nil, err
	}
	if mark, err := l.Mark(ctx); err == nil {
		// NewIssuerAt is of no generation. The rest is about the one just replaced.
		_ = setMark(ctx, l, tokenstore.Mark{NewIssuerAt: mark.NewIssuerAt})
	}
	next := newHeld(generation, h.grant)
	next.err, next.retryAt, next.final = h.err, h.retryAt, h.final
	return next, nil
}

// setMark writes the mark. It has a limit of its own, since some marks follow a
// request that used up all the time it had.
func setMark(ctx context.Context, l *tokenstore.Locked, m tokenstore.Mark) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return l.SetMark(ctx, m)
}

// withAnswer returns g with the members of the answer. Members that the answer
// does not have stay as they were: a server need not rotate the refresh token,
// and states the scope only where it changes (RFC 6749 §5.1, §6).
func withAnswer(g *tokenstore.Grant, t *oauthhttp.Token) *tokenstore.Grant {
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

// backoff returns how long to wait after so many failures in a row: 1 s, doubled
// for each further one up to a minute, less a random part of up to a quarter, so
// that the users of one server do not all come back at once.
func backoff(failures int) time.Duration {
	d := min(firstBackoff<<min(max(failures-1, 0), 10), maxBackoff)
	return d - rand.N(d/4)
}

// report logs what became of g.
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
