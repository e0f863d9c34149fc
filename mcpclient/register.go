package mcpclient

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A server names its authorization server itself. A hostile one names that of
// an honest one, to be given a token that is good there. So the servers of each
// origin have a client of their own, whose name says which they are, and where
// a client serves more of them the user is asked for consent each time.

const (
	// mostRegistrations is how many clients are registered at an issuer by way
	// of a store within countedFor. A server is one, for all its users, and who
	// is led to hundreds of hostile ones does not fill a realm of Keycloak,
	// which takes 200.
	mostRegistrations = 10
	countedFor        = 24 * time.Hour

	// refusalLasts is how long it is remembered that a request was refused with
	// prompt=consent.
	refusalLasts = 24 * time.Hour

	mostName = 64 // characters of a client_name
	leastApp = 16 // of which so many are the application's, if it has them
)

// A RegistrationLimitError says that ten clients were registered at an
// authorization server within a day, by all programs that share the store. More
// are not: a client made by hand ([Registration.ClientID]) needs none.
type RegistrationLimitError struct {
	Issuer string
	Until  time.Time // when registrations go on
}

func (e *RegistrationLimitError) Error() string {
	return fmt.Sprintf("%d clients were registered at %s within a day, and no more will be before %s", mostRegistrations, text.Quote(e.Issuer), e.Until.UTC().Format(time.RFC3339))
}

// registrationKey names the client of the server's origin at an issuer.
func (s *state) registrationKey(issuer, redirect string) tokenstore.Key {
	return tokenstore.RegistrationKey(issuer, s.name, oauthhttp.Origin(s.server), redirect)
}

// counted calls register, unless too many clients were registered at the
// issuer. Every registration counts, also in place of a client that the issuer
// seems to have forgotten: it seems so as well where the server asks for a scope
// that the issuer has no page for. What the issuer refuses does not count, nor
// what never reached it.
func (s *state) counted(ctx context.Context, issuer string, register func(context.Context) error) error {
	key := tokenstore.Key(fmt.Sprintf("%q %q", "registrations", issuer))
	return s.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		count, err := l.Mark(ctx)
		if err != nil {
			return err
		}
		now := clock.Now()
		switch age := now.Sub(count.At); {
		case count.Pending, age >= countedFor: // it cannot be read, or is over
			count = tokenstore.Mark{At: now}
		case age < 0: // a clock was set back; that makes the day no longer
			count.At = now
		}
		full := count.Tries >= mostRegistrations
		if !full {
			count.Tries++
		}
		if err := l.SetMark(ctx, count); err != nil {
			return err
		}
		if full {
			return &RegistrationLimitError{issuer, count.At.Add(countedFor)}
		}
		watched, outcome := oauthhttp.Watch(ctx)
		err = register(watched)
		if err != nil && (errors.As(err, new(*dcr.Error)) || outcome(err) == oauthhttp.NotSent) {
			count.Tries--
			_ = l.SetMark(context.WithoutCancel(ctx), count) // if not, one fewer is allowed
		}
		return err
	})
}

// clientName is what the user reads on the page that asks for consent. For every
// server but Astravue's own it ends with the server's host, in the spelling that
// looks like no other ([oauthhttp.Host]): "astravue-mcp (mcp.example.com)".
func (s *state) clientName() string {
	if strings.HasPrefix(DefaultServer, oauthhttp.Origin(s.server)+"/") {
		return s.name
	}
	const around = len(" ()")
	app := strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Ps, unicode.Pe) {
			return -1 // the host's brackets are the only ones
		}
		return r
	}, s.name)
	app = cmp.Or(text.Line(app), defaultName)
	host := last(s.server.Host, mostName-around-min(leastApp, len([]rune(app))))
	if r := []rune(app); len(r) > mostName-around-len(host) {
		app = strings.TrimSpace(string(r[:mostName-around-len(host)-1])) + "…"
	}
	return app + " (" + host + ")"
}

// last cuts an ASCII string at its beginning: who owns a host is at its end.
func last(s string, most int) string {
	const cut = "..."
	if len(s) <= most {
		return s
	}
	return cut + s[len(s)-most+len(cut):]
}

// Warnings of a sign-in that goes on in spite of them. They come wrapped, to
// [LoginOptions.OnWarning] and the log.
var (
	// ErrConsentNotAsked says that the authorization server refuses to be asked
	// for the user's consent (prompt=consent, OpenID Connect Core §3.1.2.1), by
	// a client that serves more than one server. It may then give this one a
	// token by what the user has allowed another.
	ErrConsentNotAsked = errors.New("the authorization server cannot be told to ask for consent")

	// ErrNotListed says that the authorization server lists the resources that
	// it serves (RFC 9728 §4, protected_resources), and this one is not there.
	ErrNotListed = errors.New("the authorization server does not list this server")
)

// warn says what a sign-in goes on in spite of.
func (s *state) warn(step Step, opts *LoginOptions, err error) {
	s.log.Warn("sign-in goes on", "step", step.String(), "warning", err.Error())
	if opts != nil && opts.OnWarning != nil {
		opts.OnWarning(err)
	}
}

// warnUnlisted warns of a resource that its authorization server does not list.
// It is no more than a warning: lists may be incomplete.
func (s *state) warnUnlisted(cfg *discovery.Configuration, opts *LoginOptions) {
	if resource := cmp.Or(cfg.Resource, s.serverURL); !cfg.AuthorizationServer.MayServe(resource) {
		s.warn(StepDiscovery, opts, fmt.Errorf("%w: %s is not among the protected_resources of %s, so its tokens may be meant for others", ErrNotListed, text.Quote(resource), text.Quote(cfg.Issuer)))
	}
}

// askFirst decides whether the user is to be asked for consent whatever the
// authorization server remembers: by a client that serves other servers too,
// unless a grant of this very server is stored that came by it. Where the same
// request was refused with that, it is left out.
func (s *state) askFirst(ctx context.Context, cfg *discovery.Configuration, cl *oauthClient, scopes []string, held *tokenstore.Grant, opts *LoginOptions) error {
	if !cl.shared || held != nil && held.Issuer == cfg.Issuer && held.ClientID == cl.auth.ID {
		return nil
	}
	cl.consent = true
	if slices.Contains(scopes, offlineAccess) {
		return nil // which is not given without
	}
	// Scopes and resource are the server's to name, and may be what is refused.
	// So a refusal is about the one request alone.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", slices.Concat([]string{s.serverURL, cfg.AuthorizationServer.AuthorizationEndpoint, cfg.Resource}, scopes)))
	cl.request = hex.EncodeToString(sum[:16])
	refused := false
	err := s.store.Update(ctx, consentKey(cfg.Issuer, cl.auth.ID), func(ctx context.Context, l *tokenstore.Locked) error {
		m, err := l.Mark(ctx)
		age := clock.Now().Sub(m.At)
		refused = m.Generation == cl.request && age >= 0 && age < refusalLasts
		return err
	})
	if err != nil {
		return at(StepAuthorize, err)
	}
	if refused {
		cl.consent, cl.request = false, ""
		s.warn(StepAuthorize, opts, fmt.Errorf("%w: what you allowed client %s for another server may be enough for a token for %s, and no page asks", ErrConsentNotAsked, text.Quote(cl.auth.ID), s.server.Host))
	}
	return nil
}

// consentKey names the note of a request that was refused with prompt=consent.
func consentKey(issuer, clientID string) tokenstore.Key {
	return tokenstore.Key(fmt.Sprintf("%q %q %q", "consent", issuer, clientID))
}

// consentRefused reports whether err may be a refusal to ask for consent, which
// p has wanted and can go without.
func (p *PendingLogin) consentRefused(err error) bool {
	ae := new(authcode.AuthorizationError)
	return p.v.Request != "" && errors.As(err, &ae) && ae.Code == "invalid_request"
}

// noteRefusal keeps for the next try of p's request that it was refused.
func (s *state) noteRefusal(ctx context.Context, p *PendingLogin) error {
	return s.store.Update(ctx, consentKey(p.v.Issuer, p.v.ClientID), func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Generation: p.v.Request, At: clock.Now()})
	})
}
