package mcpclient

import (
	"context"
	"errors"
)

// Login signs in through the browser and keeps the new tokens, also where there
// are some already. If a sign-in to the same account is under way, in this process or
// another one, Login waits for it and takes its result. When ctx ends, so does the
// sign-in, unless a call waits for it too. A nil opts is the zero [LoginOptions].
//
// Its error wraps an [*authcode.AuthorizationError] if the user or the server
// refused, [ErrNoSignIn] if the server has no sign-in, a
// [*RegistrationLimitError] if too many clients were registered within a day, and
// [callback.ErrOpenedTwice] if another browser than the person's own came too.
func (c *Client) Login(ctx context.Context, opts *LoginOptions) error {
	a, err := c.init()
	if err != nil {
		return err
	}
	if opts == nil {
		opts = &LoginOptions{}
	}
	stored, err := a.stored(ctx)
	if err != nil {
		return at(StepExchange, err)
	}
	want := signInRequest{login: opts}
	if stored.Grant != nil {
		want.before = stored.Grant.SignIn
	}
	if want.challenge, want.cfg, err = a.prepare(ctx); err != nil {
		return err
	}
	for {
		_, err = a.signIns.join(ctx, want)
		if err == nil {
			a.signIns.forgetMove(ctx)
		}
		if !errors.As(err, new(*IssuerChangedError)) {
			return err
		}
		// Login has joined a sign-in that nobody asked for. Only such a one ends
		// with this error, and it is over now.
	}
}
