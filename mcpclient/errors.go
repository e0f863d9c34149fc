package mcpclient

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/refresh"
)

var (
	// ErrLoginRequired is wrapped by every error that only a sign-in can mend,
	// where no sign-in was allowed. Call [Client.Login].
	ErrLoginRequired = refresh.ErrLoginRequired

	// ErrNotSaved is wrapped by errors about tokens that the server issued
	// and the store did not take. The tokens of a sign-in are dropped: the
	// sign-in has failed. The tokens of a refresh serve this process until it
	// ends. [Client.Close] then returns the error, and the next process has to
	// sign in.
	ErrNotSaved = refresh.ErrNotSaved

	// ErrNoRegistration says that there is no way to a client ID: none was
	// given, no client-ID metadata document was given that the server takes, and
	// the server offers no dynamic registration.
	ErrNoRegistration = errors.New("no client ID was given and the server registers none")

	// ErrPendingLogin is wrapped by errors about a [PendingLogin] that cannot
	// be used: it is older than ten minutes, was used before, was sealed for
	// somebody else, or was altered.
	ErrPendingLogin = errors.New("pending sign-in is not valid")

	// ErrServerAddress is wrapped by errors about a [Client.Server] that is no
	// address of a server: not https, or not a URL.
	ErrServerAddress = errors.New("mcpclient: server address")

	// ErrNoAnswer is wrapped by the error of a call whose connection ended
	// before its answer came. The server may have carried out the call. Calls
	// that are safe to repeat were repeated first; the error then also says why
	// the repetitions failed. The session goes on.
	//
	// ErrNoAnswer is a JSON-RPC error, with a code that no server should use,
	// because errors.Is then finds it in what the SDK returns. No server has
	// sent it. Do not change its fields: all clients share them.
	ErrNoAnswer error = &jsonrpc.Error{Code: -33001, Message: "the connection ended before the answer came, and the server may have carried out the call"}

	// ErrTooLarge is wrapped by the error of a call whose answer is more than
	// [Client.MaxAnswer] allows. The server has carried out the call, so it is not
	// repeated. The session goes on. ErrTooLarge is a JSON-RPC error for the
	// reason that ErrNoAnswer is one.
	ErrTooLarge error = &jsonrpc.Error{Code: -33002, Message: "the server's answer is too large"}

	// ErrClosed is returned by every method of a [Client] but Close after
	// [Client.Close], and wrapped by the error of a call on one of its sessions that
	// needs a new token.
	ErrClosed = errors.New("mcpclient: client is closed")
)

// A Step is one of the documented steps of the flow. Its name is that of the
// package that takes it.
type Step int

const (
	StepDiscovery    Step = 1 + iota // discovery: find the server's OAuth configuration
	StepPKCE                         // pkce: make verifier and challenge
	StepRegistration                 // dcr: get a client ID
	StepAuthorize                    // authcode: send the user to the authorization endpoint
	StepCallback                     // callback: wait for the redirect
	StepExchange                     // authcode, tokenstore: code for tokens, and keep them
	StepConnect                      // mcpclient: use them
	StepRefresh                      // refresh: renew them
)

var stepNames = [...]string{"", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore", "mcpclient", "refresh"}

// String returns the step's name.
func (s Step) String() string {
	if s < StepDiscovery || s > StepRefresh {
		return fmt.Sprintf("Step(%d)", int(s))
	}
	return stepNames[s]
}

// A StepError says at which step of the flow something went wrong. Every error about
// the flow that a method of [Client] returns is one.
type StepError struct {
	Step Step
	Err  error // what went wrong
}

// Error returns one line that is safe to print on a terminal, even if a server wrote
// words in it.
func (e *StepError) Error() string {
	return text.Line(fmt.Sprintf("step %d of 8 (%s): %v", int(e.Step), e.Step, e.Err))
}

func (e *StepError) Unwrap() error { return e.Err }

// at wraps err in a StepError. If err has a step in it already, at returns that
// StepError and drops what was wrapped around it: the step that failed first is
// the one to report.
func at(step Step, err error) error {
	if err == nil {
		return nil
	}
	if se := new(StepError); errors.As(err, &se) {
		return se
	}
	return &StepError{step, err}
}

// wireError is err as a JSON-RPC error of that kind, [ErrNoAnswer] or [ErrTooLarge].
// An event has no other form for an error, and the SDK keeps only code and text:
// [errors.Is] finds kind by the code.
func wireError(err, kind error) error {
	return &jsonrpc.Error{Code: kind.(*jsonrpc.Error).Code, Message: err.Error()}
}

// A TokenRefusedError says that the server refuses an access token that was
// issued a moment ago. Another sign-in would not help, so none is started.
type TokenRefusedError struct {
	Resource    string // the token's resource parameter; "" if it had none
	Issuer      string // of the token
	Named       string // the issuer that the server names now, if it is another one and Issuer was pinned
	Code        string // of the challenge, such as invalid_token
	Description string // of the challenge, error_description

	// Clock is by how much the server's clock is ahead of this computer's, by
	// the Date of its answer; negative if it is behind. 0 means less than a minute,
	// or an answer without a Date.
	Clock time.Duration
}

func (e *TokenRefusedError) Error() string {
	var b strings.Builder
	b.WriteString("the server refuses an access token that was just issued")
	if e.Code != "" {
		fmt.Fprintf(&b, " (%s", text.Quote(e.Code))
		if e.Description != "" {
			fmt.Fprintf(&b, ": %s", text.Quote(e.Description))
		}
		b.WriteString(")")
	}
	issuer := text.Short(text.URL(e.Issuer))
	if e.Named != "" {
		fmt.Fprintf(&b, "; the server now names the issuer %s, and pinned is %s", text.Short(text.URL(e.Named)), issuer)
		return b.String()
	}
	fmt.Fprintf(&b, "; its audience may not be %s, its issuer %s may not be trusted, or the two servers' clocks differ", cmp.Or(text.Short(text.URL(e.Resource)), "the server"), issuer)
	switch {
	case e.Clock > 0:
		fmt.Fprintf(&b, ": the server's is %s ahead of this computer's", e.Clock)
	case e.Clock < 0:
		fmt.Fprintf(&b, ": the server's is %s behind this computer's", -e.Clock)
	}
	return b.String()
}

// An IssuerChangedError says that the server names another authorization server
// again, and that no browser was opened at that one. A server could otherwise name
// one after the other and show whatever pages it likes. [Client.Login] goes there.
// Without that, a call opens a browser at another authorization server at most once
// in 24 hours. The error wraps [ErrLoginRequired].
type IssuerChangedError struct {
	Issuer string // where the session is
	Named  string // what the server names now
}

func (e *IssuerChangedError) Error() string {
	return fmt.Sprintf("%v: the server names another authorization server again, %s in place of %s, and only a sign-in that somebody asks for goes there",
		ErrLoginRequired, text.QuoteURL(e.Named), text.QuoteURL(e.Issuer))
}

func (e *IssuerChangedError) Unwrap() error { return ErrLoginRequired }

// A ForbiddenError says that the account may not do what was asked (HTTP 403).
// The session goes on.
type ForbiddenError struct {
	Code        string   // of the challenge; "" if there was none
	Description string   // error_description
	Scopes      []string // the server asks for them, and more sign-ins do not yield them

	// SignInFor, if set, are the scopes that the call needs: call [Client.Login] of a
	// Client with these Scopes. The error around this one then wraps
	// ErrLoginRequired too.
	SignInFor []string
}

func (e *ForbiddenError) Error() string {
	msg := "the server forbids it (HTTP 403"
	if e.Code != "" {
		msg += ", " + text.Quote(e.Code)
	}
	if e.Description != "" {
		msg += ": " + text.Quote(e.Description)
	}
	msg += ")"
	if len(e.Scopes) > 0 {
		msg += fmt.Sprintf("; it asks for the scopes %s and still refuses with them", text.Quotes(e.Scopes))
	}
	return msg
}

// An AnswerError says that the server's answer to a call is no MCP answer. The
// session goes on.
type AnswerError struct {
	Status      int           // HTTP status
	ContentType string        // media type, without parameters
	RetryAfter  time.Duration // how long the server asks to wait (RFC 9110 §10.2.3); 0 if it does not say
	Err         error         // what is wrong with it; nil if the status says all
}

func (e *AnswerError) Error() string {
	msg := fmt.Sprintf("the server answered HTTP %d", e.Status)
	if e.ContentType != "" {
		msg += " with " + text.Quote(e.ContentType)
	}
	if e.RetryAfter > 0 {
		msg += fmt.Sprintf(", to be asked again in %s", e.RetryAfter)
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *AnswerError) Unwrap() error { return e.Err }

// noAnswer is the [ErrNoAnswer] of a request that ended with error after it may have
// been sent. [url.Error] asks the error in it for Timeout without unwrapping that, so
// noAnswer passes the question on.
type noAnswer struct{ error }

func (e noAnswer) Error() string   { return ErrNoAnswer.Error() + ": " + e.error.Error() }
func (e noAnswer) Unwrap() []error { return []error{ErrNoAnswer, e.error} }

func (e noAnswer) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.error, &t) && t.Timeout()
}
