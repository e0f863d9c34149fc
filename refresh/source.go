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

// Config says which grant a [Source] keeps fresh. Store and Key are required;
// the other fields may be zero.
type Config struct {
	Store tokenstore.Store
	Key   tokenstore.Key // of the grant

	// Accepts reports whether to use a stored grant, for example because its
	// issuer is the right one. A grant that is not accepted counts as missing. It
	// stays in the store, since another program may use it. If nil, every grant
	// is used.
	Accepts func(*tokenstore.Grant) bool

	// HTTPClient sends the requests to the token endpoint. If nil, a client with
	// limits for time, size and redirects does.
	HTTPClient *http.Client

	// Logger gets one line for each refresh, with the attributes step, outcome
	// (refreshed, adopted, refused, unknown, not-sent, not-saved), server,
	// account, client_id and duration, and error if there is one. If nil, nothing
	// is logged.
	Logger *slog.Logger

	// RequestTimeout bounds the request to the token endpoint. If 0, 30 s.
	RequestTimeout time.Duration

	// SaveTimeout is how long a failed save is tried again, with the lock held.
	// If 0, 8 s. An attempt that has begun may also use the time that the request
	// has left, so that a slow store is not taken for a failing one.
	// RequestTimeout and SaveTimeout together should stay below the time that
	// others wait for the store's lock ([tokenstore.DefaultLockTimeout]).
	SaveTimeout time.Duration
}

// Access is an access token to send to the server, and what is known of it. All
// callers share one Access; nobody changes it.
type Access struct {
	Token           tokenstore.Secret
	Generation      string    // of the stored grant; the argument of [Source.Refused]
	ExpiresAt       time.Time // zero: unknown, and the token is used until the server refuses it
	Scopes          []string  // granted
	ScopesRequested []string  // by all sign-ins of this grant
	Issuer          string
	Resource        string // of the token requests (RFC 8707 §2); "" if they had none
}

// A Source yields the access token of one grant and renews it in time. All its
// methods are safe for concurrent use. Make one for each grant in a process,
// with [New]. Call [Source.Close] on every way out: if the process ends while a
// refresh is under way, the session is lost.
type Source struct {
	cfg  Config
	log  *slog.Logger
	held atomic.Pointer[held] // never nil

	// lastForced is when this process last signed in or forced a refresh.
	lastForced atomic.Pointer[time.Time]

	// flights holds at most one flight without a reason and one for each
	// generation that the server has refused.
	flights singleflight.Group

	mu     sync.Mutex
	closed bool // guarded by mu: a flight that starts is counted in running or sees that it is too late

	running sync.WaitGroup
	finish  func() error // saveAtEnd, once

	// quit ends at Close. Flights read the record and wait for its lock under
	// it. A flight that has the lock goes on.
	quit context.Context
	stop context.CancelFunc
}

// New returns a Source for the grant that cfg names. It neither reads the store
// nor sends anything.
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
	s.lastForced.Store(&time.Time{})
	s.finish = sync.OnceValue(s.saveAtEnd)
	s.quit, s.stop = context.WithCancel(context.Background())
	return s
}

// Access returns a token that is not known to have expired. While it holds such
// a token it does not wait: a refresh that is due runs in the background, and if
// it fails no caller gets the error. The first token of a Source is an
// exception. If that one is due, callers wait for the refresh, since a short
// command may end before a refresh in the background does.
//
// Without such a token all callers wait for one refresh. When ctx ends, Access
// returns at once; the refresh goes on and is saved.
//
// Access returns an error that wraps [ErrLoginRequired] if only a sign-in helps,
// a [*RetryError] if a later call may succeed, [ErrClosed] after Close, the
// error of ctx, or one of the store, which may wrap [tokenstore.ErrCorrupt] or
// [tokenstore.ErrUnavailable].
func (s *Source) Access(ctx context.Context) (*Access, error) {
	h, now := s.held.Load(), clock.Now()
	if h.quiet(now) {
		return h.access, nil
	}
	return s.slowAccess(ctx, h, now)
}

// slowAccess is Access where something has to be done. Access is the path of
// every call and stays small.
func (s *Source) slowAccess(ctx context.Context, h *held, now time.Time) (*Access, error) {
	if !h.live(now) {
		return s.wait(ctx, h, "")
	}
	// The caller who swaps h for a quiet copy starts the flight. The others find
	// the copy and go on with the live token, as does everybody for a minute if
	// the flight takes long.
	busy := *h
	busy.quietFrom, busy.quietUntil = now.Add(-lookEvery), earlier(now.Add(lookEvery), h.access.ExpiresAt)
	if s.held.CompareAndSwap(h, &busy) {
		s.start(&busy, "")
	}
	return h.access, nil
}

// Refused reports that the server answered 401 (RFC 6750 §3.1, invalid_token) to
// the token of this generation, and returns another token: one that is stored
// already, or else one from a forced refresh. A grant is forced at most once a
// minute, and not in the first minute after a sign-in of this process; until
// then the error wraps [ErrRefused]. The other errors are those of
// [Source.Access].
func (s *Source) Refused(ctx context.Context, generation string) (*Access, error) {
	h := s.held.Load()
	if h.live(clock.Now()) && h.access.Generation != generation {
		return h.access, nil
	}
	return s.wait(ctx, h, generation)
}

// Adopt takes over the grant that a sign-in of this process has just saved under
// this generation, so that the store need not be read. The caller must not
// change g afterwards.
func (s *Source) Adopt(generation string, g *tokenstore.Grant) {
	now := clock.Now()
	s.lastForced.Store(&now)
	s.held.Store(newHeld(generation, g).settled(now))
}

// Held returns the token in memory, which may have expired long ago, or nil if
// there is none. It neither waits nor reads the store.
func (s *Source) Held() *Access { return s.held.Load().access }

// Forget drops the token in memory, after a logout in this process. The next
// Access reads the store.
func (s *Source) Forget() { s.held.Store(&held{}) }

// OAuth2 returns the Source as an [oauth2.TokenSource]. Its Token calls
// [Source.Access] with ctx. It needs no [oauth2.ReuseTokenSource] around it.
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

// wait joins the flight for h, or starts one, and returns its token even if that
// has expired meanwhile. If tokens live three seconds, the caller who is served
// last would otherwise ask for another one, and another one.
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

// start starts a flight unless one is under way for this refused generation, or
// for "". The flight has a goroutine and a context of its own, since it must not
// end with one of its callers: other callers wait for it, and the server may
// have rotated the token already.
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
		// The group would keep the result until this goroutine has ended, and hand
		// it to callers who come meanwhile. If the process was stopped or the
		// laptop slept at this point, that result is old.
		defer s.flights.Forget(refused)
		a, err := (&flight{Source: s, began: clock.Now(), started: time.Now(), refused: refused}).look(h)
		if errors.Is(err, context.Canceled) {
			err = ErrClosed // nothing else cancels a flight
		}
		return a, err
	})
}
