package mcpclient

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Warnings do not end a sign-in. They come wrapped, to [LoginOptions.OnWarning] and
// the log.
var (
	// ErrConsentNotAsked says that the authorization server refuses to ask for
	// the user's consent (prompt=consent, OpenID Connect Core §3.1.2.1), for a
	// client that serves more than one server. It may then give this server a
	// token because of what the user has allowed another server.
	ErrConsentNotAsked = errors.New("the authorization server cannot be told to ask for consent")

	// ErrNotListed says that the authorization server lists the resources that
	// it serves (RFC 9728 §4, protected_resources), and this server is not
	// among them.
	ErrNotListed = errors.New("the authorization server does not list this server")
)

// refusalLasts is how long a refusal of prompt=consent is remembered.
const refusalLasts = 24 * time.Hour

// warn tells the log and the caller of an error that does not end the sign-in.
func (f *flow) warn(step Step, opts *LoginOptions, err error) {
	f.log.Warn("sign-in goes on", "step", step.String(), "warning", err.Error())
	if opts != nil && opts.OnWarning != nil {
		opts.OnWarning(err)
	}
}

// warnUnlisted warns of a resource that its authorization server does not list.
// That is no error: lists may be incomplete.
func (f *flow) warnUnlisted(cfg *discovery.Configuration, opts *LoginOptions) {
	if resource := cmp.Or(cfg.Resource, f.serverURL); !cfg.AuthorizationServer.MayServe(resource) {
		f.warn(StepDiscovery, opts, fmt.Errorf("%w: %s is not among the protected_resources of %s, so its tokens may be meant for others", ErrNotListed, text.Quote(resource), text.Quote(cfg.Issuer)))
	}
}

// decideConsent sets cl.consent, whether the user is asked for consent whatever the
// authorization server remembers. A client that serves other servers too asks: what
// the user has allowed another server would otherwise do for this one, without a
// page. It does not ask if a grant of this very server is stored that came by that
// client, nor if this very request was refused because of the question.
func (f *flow) decideConsent(ctx context.Context, cfg *discovery.Configuration, cl *oauthClient, scopes []string, prior *tokenstore.Grant, opts *LoginOptions) error {
	if !cl.shared || prior != nil && prior.Issuer == cfg.Issuer && prior.ClientID == cl.auth.ID {
		return nil
	}
	cl.consent = true
	if slices.Contains(scopes, offlineAccess) {
		return nil // offline_access is not given without consent
	}
	// The server names scopes and resource, and either may be the reason of a
	// refusal. So a refusal is remembered of the one request alone: a server could
	// otherwise provoke one, and have the question dropped for the next request.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", slices.Concat([]string{f.serverURL, cfg.AuthorizationServer.AuthorizationEndpoint, cfg.Resource}, scopes)))
	cl.requestHash = hex.EncodeToString(sum[:16])
	refused := false
	err := f.store.Update(ctx, consentKey(cfg.Issuer, cl.auth.ID), func(ctx context.Context, l *tokenstore.Locked) error {
		// The note is a mark without a record: Generation is the request's hash.
		m, err := l.Mark(ctx)
		age := clock.Now().Sub(m.At)
		refused = m.Generation == cl.requestHash && age >= 0 && age < refusalLasts
		return err
	})
	if err != nil {
		return at(StepAuthorize, err)
	}
	if refused {
		cl.consent, cl.requestHash = false, ""
		f.warn(StepAuthorize, opts, fmt.Errorf("%w: what you allowed client %s for another server may be enough for a token for %s, and no page asks", ErrConsentNotAsked, text.Quote(cl.auth.ID), f.server.Host))
	}
	return nil
}

// consentKey names the note of a request that was refused with prompt=consent.
func consentKey(issuer, clientID string) tokenstore.Key {
	return tokenstore.Key(fmt.Sprintf("%q %q %q", "consent", issuer, clientID))
}

// consentRefused reports whether err may be a refusal to ask for consent, for a
// request that can go without.
func (p *PendingLogin) consentRefused(err error) bool {
	ae := new(authcode.AuthorizationError)
	return p.v.RequestHash != "" && errors.As(err, &ae) && ae.Code == "invalid_request"
}

// noteRefusal remembers that p's request was refused, for the next try of it.
func (f *flow) noteRefusal(ctx context.Context, p *PendingLogin) error {
	return f.store.Update(ctx, consentKey(p.v.Issuer, p.v.ClientID), func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Generation: p.v.RequestHash, At: clock.Now()})
	})
}
