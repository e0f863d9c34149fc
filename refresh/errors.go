package refresh

import (
	"errors"
	"fmt"
	"time"

	"github.com/astravue/mcp-client-go/internal/text"
)

var (
	// ErrLoginRequired is wrapped by every error that only a sign-in ends: no
	// grant is stored, or the stored one has expired and cannot be renewed.
	ErrLoginRequired = errors.New("refresh: sign-in required")

	// ErrAnswerLost is the [ErrLoginRequired] of a refresh token that was sent
	// once, by a process that never saved an answer, and was then refused.
	ErrAnswerLost = fmt.Errorf("%w: the server rotated the refresh token and its answer was lost", ErrLoginRequired)

	// ErrRefused is wrapped by the error of [Source.Refused] when the server
	// refuses a token that is fresh from a forced refresh or a sign-in. Another
	// one would be refused too: the token is for another audience, or a clock is
	// wrong, or tokens die before they arrive.
	ErrRefused = errors.New("refresh: the server refuses a new access token")

	// ErrDeadOnArrival is the cause in the [*RetryError] of a refresh that took
	// longer than the token that it brought lives.
	ErrDeadOnArrival = errors.New("the new access token had expired when it arrived")

	// ErrClockMoved is wrapped beside ErrDeadOnArrival where the token came in
	// time, and the clock was moved on meanwhile: the computer slept, or its
	// clock was set.
	ErrClockMoved = errors.New("this computer slept, or its clock was set")

	// ErrNotSaved is returned by [Source.Close] when a renewed grant could not
	// be saved: the stored refresh token is spent and the new one is lost.
	ErrNotSaved = errors.New("refresh: the new tokens could not be saved")

	// ErrClosed is returned after [Source.Close] where a token would have to be
	// fetched.
	ErrClosed = errors.New("refresh: source is closed")
)

// errElsewhere stands for the reason of another process.
var errElsewhere = errors.New("another process failed to renew it")

// errPending is why a live token is not renewed early.
var errPending = errors.New("an earlier refresh had no answer, and a second one has to wait until the access token has expired")

// A RetryError is a refresh that failed and cost nothing: the grant is kept,
// and the next call after At tries again. Until then all who share the grant
// get this error and nothing is sent.
type RetryError struct {
	At  time.Time
	Err error // why; nil if another process failed
}

func (e *RetryError) Error() string {
	cause := "another process failed to renew it"
	if e.Err != nil {
		cause = e.Err.Error()
	}
	return fmt.Sprintf("refresh: no access token, next try at %s: %s", e.At.UTC().Format(time.RFC3339), cause)
}

// Unwrap returns the cause, which may be nil.
func (e *RetryError) Unwrap() error { return e.Err }

// A ClientError is the cause in a [*RetryError] that says that the server does not accept the client that the grant
// belongs to (invalid_client, RFC 6749 §5.2). The client was not registered
// dynamically, so it is for its owner to put right; the grant is kept.
type ClientError struct {
	ClientID string
	Err      error // the server's answer
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("the server does not accept client %s: %v", text.Quote(e.ClientID), e.Err)
}

// Unwrap returns the server's answer.
func (e *ClientError) Unwrap() error { return e.Err }

// loginRequired says why only a sign-in helps.
func loginRequired(cause error) error { return fmt.Errorf("%w: %w", ErrLoginRequired, cause) }
