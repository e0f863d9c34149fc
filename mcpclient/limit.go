package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// mostRegistrations is how many clients are registered at an issuer within
	// countedFor, by all who share a store. One server is one client, for all its
	// users. A user who is led to hundreds of hostile servers must not fill a realm
	// of Keycloak, which takes 200 clients.
	mostRegistrations = 10
	countedFor        = 24 * time.Hour
)

// A RegistrationLimitError says that ten clients were registered at an
// authorization server within a day, by all programs that share the store. No
// more are registered until then. A client made by hand
// ([Registration.ClientID]) needs no registration.
type RegistrationLimitError struct {
	Issuer string    // the authorization server
	Until  time.Time // when registrations go on
}

func (e *RegistrationLimitError) Error() string {
	return fmt.Sprintf("%d clients were registered at %s within a day, and no more will be before %s", mostRegistrations, text.Quote(e.Issuer), e.Until.UTC().Format(time.RFC3339))
}

// withinLimit calls register, unless too many clients were registered at the
// issuer. A registration in place of a client that the issuer seems to have
// forgotten counts too: a server can ask for a scope that the issuer has no page
// for, and that looks like a forgotten client. A registration that the issuer
// refuses does not count, nor one that never reached it.
func (f *flow) withinLimit(ctx context.Context, issuer string, register func(context.Context) error) error {
	key := tokenstore.Key(fmt.Sprintf("%q %q", "registrations", issuer))
	return f.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		// The count is kept in a mark without a record: At is when it began, and
		// Tries is the count.
		count, err := l.Mark(ctx)
		if err != nil {
			return err
		}
		now := clock.Now()
		switch age := now.Sub(count.At); {
		case count.Pending, age >= countedFor: // a mark that cannot be read is Pending
			count = tokenstore.Mark{At: now}
		case age < 0: // a clock was set back; that makes the day no longer
			count.At = now
		}
		full := count.Tries >= mostRegistrations
		if !full {
			count.Tries++ // before the request: an answer that is lost counts too
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
