package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// lookEvery is how long a logout or a sign-in by another process may stay
	// unnoticed while the access token lives.
	lookEvery = time.Minute
	// saveEvery is how often a grant that could not be saved is tried again.
	saveEvery = 5 * time.Second
	// maxEarly bounds how long before its end a token is renewed.
	maxEarly = time.Minute
	// forceEvery is how often a token may be renewed because a server refuses it.
	forceEvery = time.Minute
)

// Config says whose tokens a [Source] keeps fresh. Store and Key are required;
// the zero value of the rest is right.
type Config struct {
	Store tokenstore.Store
	Key   tokenstore.Key // of the grant

	// Accepts, if not nil, reports whether a stored grant is one to use. One
	// that is not counts as none, and is left as it is: it may be another
	// program's. Credentials belong to their issuer.
	Accepts func(*tokenstore.Grant) bool

	// HTTPClient talks to the token endpoint. If nil, a hardened one does.
	HTTPClient *http.Client

	// Logger gets one line for each refresh: step, outcome (refreshed, adopted,
	// refused, unknown, not-sent, not-saved), server, account, client_id,
	// duration. If nil, nothing is logged.
	Logger *slog.Logger

	// RequestTimeout bounds the request to the token endpoint. If 0, 30 s.
	RequestTimeout time.Duration

	// SaveTimeout bounds how long the lock is kept to try a failed save again.
	// If 0, 8 s. An attempt that has begun may take what the request left of its
	// time besides, so that a slow store is not a failing one. Together with
	// RequestTimeout it should stay below the time that others wait for the
	// store's lock (45 s unless set there).
	SaveTimeout time.Duration
}

// Access is a token to send to the server. It is shared by all callers and
// never changes.
type Access struct {
	Token           tokenstore.Secret
	Generation      string    // of the grant; what [Source.Refused] wants to know
	ExpiresAt       time.Time // zero: unknown, it is used until the server refuses it
	Scopes          []string  // granted
	ScopesRequested []string  // by all sign-ins of this grant
	Issuer          string
	Resource        string // RFC 8707; "" if the grant has none
}

// A Source yields the access token of one grant and renews it in time. All its
// methods are safe for concurrent use. Make one per process and grant with
// [New], and [Source.Close] it on every way out: a process that ends while a
// refresh is under way throws the session away.
type Source struct {
	cfg  Config
	log  *slog.Logger
	held atomic.Pointer[held] // never nil

	// forced is when this process last signed in or forced a refresh.
	forced atomic.Pointer[time.Time]

	flights singleflight.Group
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	finish  func() error

	// quit ends at Close. Flights look at the record and wait for its lock under
	// it; what they do with the lock goes on.
	quit context.Context
	stop context.CancelFunc
}

// New returns a Source. It reads nothing yet.
func New(cfg Config) *Source {
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 30 * time.Second
	}
	if cfg.SaveTimeout == 0 {
		cfg.SaveTimeout = 8 * time.Second
	}
	s := &Source{cfg: cfg, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.held.Store(&held{})
	s.forced.Store(&time.Time{})
	s.finish = sync.OnceValue(s.saveAtEnd)
	s.quit, s.stop = context.WithCancel(context.Background())
	return s
}

// Access returns a token that is not known to have expired. While there is a
// live one it does not wait: a refresh that has become due goes on in the
// background, and its failure is nobody's error. Only the first token of a
// Source is renewed before it is handed out if its end is near, since a short
// command may be gone before a refresh in the background is.
//
// Without a live token all callers wait for one refresh. When ctx ends, Access
// returns at once and the refresh goes on and is saved.
//
// Errors: those that wrap [ErrLoginRequired], which only a sign-in ends;
// [*RetryError]; [ErrClosed]; ctx's; those of the store, [tokenstore.ErrCorrupt]
// and [tokenstore.ErrUnavailable] among them.
func (s *Source) Access(ctx context.Context) (*Access, error) {
	h, now := s.held.Load(), clock.Now()
	if now.Before(h.until) && !now.Before(h.from) {
		return h.access, nil
	}
	return s.slowAccess(ctx, h, now)
}

func (s *Source) slowAccess(ctx context.Context, h *held, now time.Time) (*Access, error) {
	if !h.live(now) {
		return s.wait(ctx, h, "")
	}
	busy := *h
	busy.from, busy.until = now.Add(-lookEvery), earlier(now.Add(lookEvery), h.access.ExpiresAt)
	if s.held.CompareAndSwap(h, &busy) { // one caller starts it
		s.start(&busy, "")
	}
	return h.access, nil
}

// Refused says that the server answered 401 to the token of this generation
// (RFC 6750 §3.1, invalid_token), and asks for another one: a newer one, stored
// by whomever, or else one from a forced refresh. A grant is forced at most
// once a minute, a sign-in counted; sooner the error wraps [ErrRefused]. The
// other errors are those of [Source.Access].
func (s *Source) Refused(ctx context.Context, generation string) (*Access, error) {
	h := s.held.Load()
	if h.live(clock.Now()) && h.access.Generation != generation {
		return h.access, nil
	}
	return s.wait(ctx, h, generation)
}

// Adopt takes over the grant of a sign-in that this process has just saved
// under this generation, so that it need not be read again. The caller does
// not change g afterwards.
func (s *Source) Adopt(generation string, g *tokenstore.Grant) {
	now := clock.Now()
	s.forced.Store(&now)
	s.held.Store(newHeld(generation, g).rest(now))
}

// Held returns the token that is held, which may have expired long ago, or nil.
// It neither waits nor reads the store.
func (s *Source) Held() *Access { return s.held.Load().access }

// Forget drops what is held, after a logout in this process. The next Access
// reads the store.
func (s *Source) Forget() { s.held.Store(&held{}) }

// OAuth2 returns the Source for code that wants an [oauth2.TokenSource]. Its
// Token waits as long as ctx lasts and returns the errors of [Source.Access].
// It needs no [oauth2.ReuseTokenSource] around it.
func (s *Source) OAuth2(ctx context.Context) oauth2.TokenSource { return oauth2Source{ctx, s} }

type oauth2Source struct {
	ctx context.Context // TokenSource has no other way to be given one
	s   *Source
}

func (o oauth2Source) Token() (*oauth2.Token, error) {
	a, err := o.s.Access(o.ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: a.Token.Reveal(), TokenType: "Bearer", Expiry: a.ExpiresAt}, nil
}

// Close waits for a refresh under way, which its own deadlines bound, but not
// for the lock of one that has sent nothing yet, and tries once more to save
// what could not be saved. It returns an error that wraps [ErrNotSaved] if that
// fails, and the same one when it is called again. Afterwards Access yields the
// token that is held as long as it lives, and then [ErrClosed].
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	return s.finish()
}

// wait joins the flight for h, or starts one, and waits for what it yields,
// whatever its age says then: who asked for a token that lives three seconds
// and was served last must not start all over.
func (s *Source) wait(ctx context.Context, h *held, refused string) (*Access, error) {
	if err := ctx.Err(); err != nil {
		return nil, waitError(err)
	}
	select {
	case r := <-s.start(h, refused):
		a, _ := r.Val.(*Access)
		return a, r.Err
	case <-ctx.Done():
		return nil, waitError(ctx.Err())
	}
}

func waitError(err error) error { return fmt.Errorf("refresh: wait for an access token: %w", err) }

// start starts a flight unless one is under way for the same reason. It runs on
// a goroutine and a context of its own: whoever stops waiting takes nobody
// along, least of all a rotated token that is not saved yet.
func (s *Source) start(h *held, refused string) <-chan singleflight.Result {
	return s.flights.DoChan(refused, func() (any, error) {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrClosed
		}
		s.running.Add(1)
		s.mu.Unlock()
		defer s.running.Done()
		// Whoever comes when it has ended must not be served what was true then:
		// that may be long ago for a process that was stopped or a laptop that
		// slept.
		defer s.flights.Forget(refused)
		a, err := (&flight{Source: s, began: clock.Now(), started: time.Now(), refused: refused}).run(h)
		if errors.Is(err, context.Canceled) {
			err = ErrClosed // nothing else cancels a flight
		}
		return a, err
	})
}

// held is what a process knows of its grant. It is never changed, only
// replaced, so that one atomic load shows all of it. The zero value knows
// nothing.
type held struct {
	access *Access // nil: no grant
	grant  *tokenstore.Grant

	// Between from and until there is nothing to do but to use the token. The
	// lower end is for clocks that are set back.
	from, until time.Time

	// err is why the last refresh failed. Until retryAt it is not tried again;
	// if retryAt is zero, it is not tried again for this generation.
	err     error
	retryAt time.Time

	unsaved *unsaved // nil: this is what is stored
}

// unsaved says that a grant is newer than the stored one.
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

// live reports whether there is a token that is not known to have expired.
func (h *held) live(now time.Time) bool {
	return h.access != nil && (h.grant.ExpiresAt.IsZero() || now.Before(h.grant.ExpiresAt))
}

// due is when the token should be renewed: in the last quarter of its life, at
// most maxEarly before its end. It is zero for a token of unknown life.
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

// waits reports whether the last failure forbids to try again now.
func (h *held) waits(now time.Time) bool {
	return h.err != nil && (h.retryAt.IsZero() || now.Before(h.retryAt))
}

// failure is the error of a caller whom no live token helps.
func (h *held) failure() error {
	if h.retryAt.IsZero() {
		return h.err
	}
	return &RetryError{At: h.retryAt, Err: h.err}
}

// rest returns h with the time in which nothing needs to be done, from now.
func (h *held) rest(now time.Time) *held {
	next := *h
	next.from, next.until = now.Add(-lookEvery), now.Add(lookEvery)
	if h.unsaved != nil {
		next.until = now.Add(saveEvery)
	}
	due := h.due()
	if h.waits(now) {
		due = earlier(h.grant.ExpiresAt, later(due, h.retryAt))
		if h.retryAt.IsZero() {
			due = h.grant.ExpiresAt
		}
	}
	next.until = earlier(next.until, due)
	return &next
}

// earlier returns the earlier of two times, of which a zero one is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
