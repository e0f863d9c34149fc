package mcpclient

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/refresh"
)

// challengeOf reads the challenge of an answer to a request with access. The
// server may have put that token into it: it is taken out, since the challenge
// is shown in errors.
func challengeOf(resp *http.Response, access *refresh.Access) discovery.Challenge {
	c := discovery.ParseChallenge(resp.Header)
	if access != nil {
		for _, s := range []*string{&c.ResourceMetadata, &c.Scope, &c.Error, &c.ErrorDescription} {
			*s = text.Redact(*s, access.Token.Reveal())
		}
	}
	return c
}

// noToken is the error for a request that is not sent: whether there is a token
// for it cannot be found out now.
func noToken(err error) error {
	if errors.Is(err, refresh.ErrClosed) {
		return ErrClosed
	}
	return at(StepRefresh, err)
}

// unauthorized is the error for a 401 that stands. why says why there is no
// better token; nil if there was none at all.
func unauthorized(why error) error {
	if why == nil {
		why = ErrLoginRequired
	}
	// ErrRefused alone says that a token was refused. Here nothing is left to try but
	// a sign-in.
	if errors.Is(why, refresh.ErrRefused) {
		why = fmt.Errorf("%w: %w", ErrLoginRequired, why)
	}
	return at(StepAuthorize, why)
}

// forbiddenBy is the error for a 403 with this challenge.
func forbiddenBy(c discovery.Challenge) *ForbiddenError {
	return &ForbiddenError{Code: c.Error, Description: c.ErrorDescription}
}

// needsScopes is the error for a 403 that a sign-in would mend, where none may
// be started.
func needsScopes(scopes []string, forbidden *ForbiddenError) error {
	return at(StepAuthorize, fmt.Errorf("%w for the scopes %s: %w", ErrLoginRequired, text.Quotes(scopes), forbidden))
}

// movedAway is the reason for a sign-in at another authorization server than
// that of the grant, which failed with err.
func movedAway(err error) error {
	return fmt.Errorf("%w: the server has moved to another authorization server: %w", ErrLoginRequired, err)
}

// clockAhead returns by how much the server's clock is ahead of ours. It returns
// 0 if that is less than a minute, too little to have a token refused.
func clockAhead(h http.Header) time.Duration {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	if ahead := date.Sub(clock.Now()).Round(time.Second); ahead.Abs() >= time.Minute {
		return ahead
	}
	return 0
}
