package refresh

import (
	"errors"
	"fmt"
	"time"

	"github.com/astravue/mcp-client-go/internal/text"
)

var (
	// ErrLoginRequired is wrapped by each error after which only a sign-in helps:
	// no grant is stored, or the stored one has expired and cannot be renewed.
	ErrLoginRequired = errors.New("refresh: sign-in required")

	// ErrAnswerLost is wrapped, together with [ErrLoginRequired], if the server
	// refuses a refresh token that was sent before without an answer being saved.
	// The server rotated the token then, and the new tokens were lost.
	ErrAnswerLost = fmt.Errorf("%w: the server rotated the refresh token and its answer was lost", ErrLoginRequired)

	// ErrRefused is wrapped by the error of [Source.Refused] if the token is from
	// a sign-in or a forced refresh of the last minute. The server would refuse
	// another new token too: its audience is wrong, or a clock is wrong, or
	// tokens expire before they arrive.
	ErrRefused = errors.New("refresh: the server refuses a new access token")

	// ErrDeadOnArrival is wrapped by a [*RetryError] if the new access token had
	// expired before its refresh ended. The new refresh token is kept.
	ErrDeadOnArrival = errors.New("the new access token had expired when it arrived")

	// ErrClockMoved is wrapped together with [ErrDeadOnArrival] if the token would
	// not have expired but for a jump of this computer's clock.
	ErrClockMoved = errors.New("this computer slept, or its clock was set")

	// ErrNotSaved is wrapped by the error of [Source.Close] if a renewed grant
	// could not be saved. The stored refresh token is spent and the new one is
	// lost, so the next process has to sign in.
	ErrNotSaved = errors.New("refresh: the new tokens could not be saved")

	// ErrClosed is returned after [Source.Close] if a token would have to be
	// fetched.
	ErrClosed = errors.New("refresh: source is closed")
)

// errElsewhere is the cause in this process if another process's refresh failed:
// the mark does not say why.
var errElsewhere = errors.New("another process's refresh failed")

// errPending is why a token that lives is not renewed early.
var errPending = errors.New("the outcome of the last refresh is unknown; it is tried again when the access token has expired")

// A RetryError is a refresh that failed and ended nothing: the grant is kept,
// and the first call after At tries again. Until then all processes that share
// the grant return this error and send nothing.
type RetryError struct {
	At  time.Time
	Err error // why; if another process's refresh failed, it says only that
}

func (e *RetryError) Error() string {
	cause := errElsewhere.Error()
	if e.Err != nil {
		cause = e.Err.Error()
	}
	return fmt.Sprintf("refresh: no access token, next try at %s: %s", e.At.UTC().Format(time.RFC3339), cause)
}

// Unwrap returns the cause.
func (e *RetryError) Unwrap() error { return e.Err }

// A ClientError is wrapped by a [*RetryError] if the server does not accept the
// client of the grant (invalid_client, RFC 6749 §5.2) and the client was not
// registered dynamically. Its owner has to put it right; the grant is kept.
type ClientError struct {
	ClientID string
	Err      error // the server's answer
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("the server does not accept client %s: %v", text.Quote(e.ClientID), e.Err)
}

// Unwrap returns the server's answer.
func (e *ClientError) Unwrap() error { return e.Err }

// loginRequired returns an error that wraps [ErrLoginRequired] and its cause.
func loginRequired(cause error) error { return fmt.Errorf("%w: %w", ErrLoginRequired, cause) }
