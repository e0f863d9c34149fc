package mcpclient

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// ErrNoSignIn says that the server asks for no sign-in and publishes nothing
// that one could be made with.
var ErrNoSignIn = errors.New("the server asks for no sign-in")

// LoginOptions are for programs with a terminal. nil is right for all others.
type LoginOptions struct {
	// Pasted yields what a person pastes: the address at which a browser on
	// another computer ended up, or another one than was opened, such as a
	// private window. It is raced with the callback.
	Pasted <-chan string
	// OnIgnored, if not nil, is told of each pasted address that could not
	// be used; the wait goes on.
	OnIgnored func(error)
	// OnWarning, if not nil, is told what the sign-in goes on in spite of: of
	// an error that wraps [ErrConsentNotAsked] or [ErrNotListed].
	OnWarning func(error)
}

// Login signs in through the browser, also where a session is there already,
// and keeps the new one. It waits for a sign-in to the same account that is
// under way elsewhere, and takes its result.
//
// Errors are a [*StepError]; within, an [*authcode.AuthorizationError] is a
// refusal by the user or the server, [ErrNoSignIn] a server without one, a
// [*RegistrationLimitError] one too many for a client to be registered, and
// [callback.ErrOpenedTwice] a browser besides the person's own.
func (c *Client) Login(ctx context.Context, opts *LoginOptions) error {
	s, err := c.init()
	if err != nil {
		return err
	}
	if opts == nil {
		opts = &LoginOptions{}
	}
	held, err := s.held(ctx)
	if err != nil {
		return at(StepExchange, err)
	}
	want := signIn{login: opts}
	if held.Grant != nil {
		want.before = held.Grant.SignIn
	}
	if want.challenge, want.cfg, err = s.prepare(ctx); err != nil {
		return err
	}
	for {
		_, err = s.signIn(ctx, want)
		if err == nil {
			s.asked(ctx)
		}
		if !errors.As(err, new(*IssuerChangedError)) {
			return err
		}
		// It has joined one that nobody asked for.
	}
}

// challenge asks the server whether it wants a sign-in, and what for.
func (s *state) challenge(ctx context.Context) (c discovery.Challenge, needed bool, err error) {
	start := time.Now()
	c, needed, err = discovery.Probe(ctx, s.oauth, s.serverURL)
	s.audit(ctx, StepDiscovery, "probe", "", start, err)
	return c, needed, at(StepDiscovery, err)
}

// prepare begins step 1 for a sign-in that somebody asked for. It ends it, and
// returns a configuration, where the server does not ask for one: it may still
// want one for more than a ping.
func (s *state) prepare(ctx context.Context) (discovery.Challenge, *discovery.Configuration, error) {
	c, needed, err := s.challenge(ctx)
	if err != nil || needed {
		return c, nil, err
	}
	cfg, err := s.discover(ctx, c)
	if missing := new(discovery.NotFoundError); errors.As(err, &missing) && missing.What == discovery.ResourceMetadata && absent(missing) {
		err = at(StepDiscovery, fmt.Errorf("%w: %w", ErrNoSignIn, missing))
	}
	return c, cfg, err
}

// absent reports whether the server has said that there is no such document,
// and is not just out of order.
func absent(missing *discovery.NotFoundError) bool {
	for _, a := range missing.Tried {
		var se *oauthhttp.StatusError
		switch {
		case errors.As(a.Err, &se) && se.Status < 500 && se.Status != http.StatusTooManyRequests:
		case errors.Is(a.Err, oauthhttp.ErrNotJSON): // a page that is there for every address
		default:
			return false
		}
	}
	return true
}

// pendingLife is how long a web application's user may take.
const pendingLife = 10 * time.Minute

// A PendingLogin is a sign-in that was begun and waits for its callback. It
// holds the state and the code verifier: it leaves the process sealed only
// ([PendingLogin.Seal]), and no fmt verb shows what is in it. It serves once.
type PendingLogin struct {
	v    *pendingLogin
	used atomic.Bool
}

type pendingLogin struct {
	ID                 string         `json:"id"`
	Key                tokenstore.Key `json:"key"` // whose sign-in it is
	Started            time.Time      `json:"started"`
	Issuer             string         `json:"issuer"`
	IssuerUnlisted     bool           `json:"issuer_unlisted,omitempty"`
	IssSupported       bool           `json:"iss_supported,omitempty"`
	TokenEndpoint      string         `json:"token_endpoint"`
	RevocationEndpoint string         `json:"revocation_endpoint,omitempty"`
	ClientID           string         `json:"client_id"`
	AuthMethod         string         `json:"auth_method"`
	Registration       tokenstore.Key `json:"registration,omitempty"`
	RedirectURI        string         `json:"redirect_uri"`
	Resource           string         `json:"resource,omitempty"`
	Scopes             []string       `json:"scopes,omitempty"`
	Request            string         `json:"request,omitempty"` // it asks for consent, and is known by this without

	State    tokenstore.Secret `json:"-"`
	Verifier tokenstore.Secret `json:"-"`
}

// A sealedLogin is what is sealed: a pendingLogin with its secrets.
type sealedLogin struct {
	*pendingLogin
	State    string `json:"state"`
	Verifier string `json:"verifier"`
}

// Format implements [fmt.Formatter]: it shows nothing of p.
func (p *PendingLogin) Format(f fmt.State, _ rune) { fmt.Fprint(f, "PendingLogin") }

// BeginLogin begins the sign-in of a web application's user, whose browser is
// to be redirected to authorizationURL; the callback at
// Registration.RedirectURL is then given to [Client.FinishLogin] with pending,
// within ten minutes. Account says whose sign-in it is.
func (c *Client) BeginLogin(ctx context.Context) (authorizationURL string, pending *PendingLogin, err error) {
	s, err := c.init()
	if err != nil {
		return "", nil, err
	}
	redirect := s.registration.RedirectURL
	if redirect == "" {
		return "", nil, at(StepAuthorize, errors.New("Registration.RedirectURL, the application's callback address, is not set"))
	}
	held, err := s.held(ctx)
	if err != nil {
		return "", nil, at(StepExchange, err)
	}
	challenge, cfg, err := s.prepare(ctx)
	if err == nil && cfg == nil {
		cfg, err = s.discover(ctx, challenge)
	}
	if err != nil {
		return "", nil, err
	}
	s.warnUnlisted(cfg, nil)
	scopes := s.scopesFor(cfg, signIn{login: &LoginOptions{}}, held.Grant)
	_, pending, authorizationURL, err = s.begin(ctx, cfg, scopes, held.Grant, nil, func() (*oauthClient, error) {
		return s.webClient(ctx, cfg, redirect)
	})
	return authorizationURL, pending, err
}

// FinishLogin ends a sign-in with the URL at which the user's browser came
// back. A callback that belongs to another sign-in gives an error that wraps
// [authcode.ErrState] and leaves pending as it is. After an
// [*authcode.AuthorizationError] with the code invalid_request begin once more:
// where only prompt=consent was refused, that is left out then.
func (c *Client) FinishLogin(ctx context.Context, pending *PendingLogin, callbackURL string) error {
	s, err := c.init()
	if err != nil {
		return err
	}
	u, err := url.Parse(callbackURL)
	if err != nil {
		return at(StepCallback, errors.New("callback address is no URL"))
	}
	v, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return at(StepCallback, errors.New("callback address has a malformed query"))
	}
	if pending == nil || pending.v == nil {
		return at(StepCallback, fmt.Errorf("%w: there is none", ErrPendingLogin))
	}
	if pending.v.Key != s.key {
		return at(StepCallback, fmt.Errorf("%w: it is another user's", ErrPendingLogin))
	}
	if age := clock.Now().Sub(pending.v.Started); age > pendingLife || age < -time.Minute {
		return at(StepCallback, fmt.Errorf("%w: it is %s old", ErrPendingLogin, age.Round(time.Second)))
	}
	secret := s.registration.ClientSecret
	if pending.v.Registration != "" {
		if pending.v.Registration != s.registrationKey(pending.v.Issuer, pending.v.RedirectURI) {
			// Begun by an older version, with a client that all servers shared.
			return at(StepCallback, fmt.Errorf("%w: its client is not this server's", ErrPendingLogin))
		}
		// A sealed one does not carry the client's secret.
		r, err := s.store.Get(ctx, pending.v.Registration)
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
			return at(StepExchange, err)
		}
		if r.Registration == nil || r.Registration.ClientID != pending.v.ClientID {
			return at(StepCallback, fmt.Errorf("%w: its client is registered no more", ErrPendingLogin))
		}
		secret = r.Registration.ClientSecret
	}
	err = s.store.Update(ctx, s.key.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
		held, err := s.held(ctx)
		if err != nil {
			return err
		}
		if pending.used.Load() || held.Grant != nil && held.Grant.SignIn == pending.v.ID {
			return at(StepCallback, fmt.Errorf("%w: it was used before", ErrPendingLogin))
		}
		_, err = s.finish(ctx, pending, secret, v)
		if !errors.Is(err, authcode.ErrState) {
			pending.used.Store(true)
		}
		return err
	})
	if err == nil {
		s.asked(ctx)
	}
	return at(StepExchange, err)
}

// Seal encrypts p with a 32-byte key (AES-256-GCM), for a cookie or a table.
// Only [Client.OpenPendingLogin] of a client with the same Server and Account
// opens it. What else is sealed with that key cannot take its place: a label
// is part of it. Nonces are random, which is good for 2^32 sign-ins with one key
// (SP 800-38D §8.3).
func (p *PendingLogin) Seal(key []byte) (string, error) {
	if p == nil || p.v == nil {
		return "", fmt.Errorf("%w: there is none", ErrPendingLogin)
	}
	aead, err := sealer(key)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(sealedLogin{p.v, p.v.State.Reveal(), p.v.Verifier.Reveal()})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plain, pendingLabel(p.v.Key))), nil
}

// OpenPendingLogin opens what [PendingLogin.Seal] made. Errors wrap
// [ErrPendingLogin].
func (c *Client) OpenPendingLogin(key []byte, sealed string) (*PendingLogin, error) {
	s, err := c.init()
	if err != nil {
		return nil, err
	}
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(sealed))
	if err != nil {
		return nil, at(StepCallback, fmt.Errorf("%w: it was altered", ErrPendingLogin))
	}
	plain, err := aead.Open(nil, nil, data, pendingLabel(s.key))
	v := sealedLogin{pendingLogin: new(pendingLogin)}
	if err != nil || json.Unmarshal(plain, &v) != nil {
		return nil, at(StepCallback, fmt.Errorf("%w: it was altered, or sealed for another user or with another key", ErrPendingLogin))
	}
	v.pendingLogin.State, v.pendingLogin.Verifier = tokenstore.NewSecret(v.State), tokenstore.NewSecret(v.Verifier)
	return &PendingLogin{v: v.pendingLogin}, nil
}

// pendingLabel is sealed with a pending sign-in: it says what that is, and whose.
func pendingLabel(key tokenstore.Key) []byte { return []byte("astravue-mcp pending login 1 " + key) }

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("mcpclient: sealing key has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
