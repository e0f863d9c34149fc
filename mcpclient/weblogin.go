package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// BeginLogin begins the sign-in of a web application's user. Redirect the user's
// browser to authorizationURL, and give the callback that then comes to
// Registration.RedirectURL, with pending, to [Client.FinishLogin] within ten
// minutes. Account says whose sign-in it is. Its error wraps [ErrNoSignIn] or a
// [*RegistrationLimitError] where that of [Client.Login] would.
func (c *Client) BeginLogin(ctx context.Context) (authorizationURL string, pending *PendingLogin, err error) {
	a, err := c.init()
	if err != nil {
		return "", nil, err
	}
	redirect := a.registration.RedirectURL
	if redirect == "" {
		return "", nil, at(StepAuthorize, errors.New("Registration.RedirectURL, the application's callback address, is not set"))
	}
	stored, err := a.stored(ctx)
	if err != nil {
		return "", nil, at(StepExchange, err)
	}
	challenge, cfg, err := a.prepare(ctx)
	if err == nil && cfg == nil {
		cfg, err = a.discover(ctx, challenge)
	}
	if err != nil {
		return "", nil, err
	}
	f := a.signIns.flow
	f.warnUnlisted(cfg, nil)
	scopes := f.scopesFor(cfg, signInRequest{login: &LoginOptions{}}, stored.Grant)
	_, pending, authorizationURL, err = f.begin(ctx, cfg, scopes, stored.Grant, nil, func() (*oauthClient, error) {
		return f.webClient(ctx, cfg, redirect)
	})
	return authorizationURL, pending, err
}

// FinishLogin ends a sign-in with the URL at which the user's browser came back, of
// which only the query counts. Its error wraps
//   - [ErrPendingLogin] if pending cannot be used, or not any more;
//   - [authcode.ErrState] if the callback belongs to another sign-in: pending can still
//     be used;
//   - an [*authcode.AuthorizationError] if the user or the server refused. If its code
//     is invalid_request, begin once more: the server may have refused prompt=consent
//     alone, which is left out then;
//   - [ErrNotSaved] if the store did not take the tokens.
func (c *Client) FinishLogin(ctx context.Context, pending *PendingLogin, callbackURL string) error {
	a, err := c.init()
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
	f := a.signIns.flow
	if err := f.checkPending(pending); err != nil {
		return at(StepCallback, err)
	}
	secret, err := f.secretFor(ctx, pending)
	if err != nil {
		return err
	}
	err = a.store.Update(ctx, a.key.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
		stored, err := a.stored(ctx)
		if err != nil {
			return err
		}
		// Two copies of a sealed one are two values, perhaps in two processes: the
		// stored grant says whether the other one was used.
		if pending.used.Load() || stored.Grant != nil && stored.Grant.SignIn == pending.v.ID {
			return at(StepCallback, fmt.Errorf("%w: it was used before", ErrPendingLogin))
		}
		_, err = f.finish(ctx, pending, secret, v)
		// After any other error the code may be spent.
		if !errors.Is(err, authcode.ErrState) {
			pending.used.Store(true)
		}
		return err
	})
	if err == nil {
		f.forgetMove(ctx)
	}
	return at(StepExchange, err)
}

// OpenPendingLogin opens what [PendingLogin.Seal] made with key. Its error wraps
// [ErrPendingLogin] if sealed was altered, or sealed for another user or with
// another key.
func (c *Client) OpenPendingLogin(key []byte, sealed string) (*PendingLogin, error) {
	a, err := c.init()
	if err != nil {
		return nil, err
	}
	return openPending(key, sealed, a.key)
}
