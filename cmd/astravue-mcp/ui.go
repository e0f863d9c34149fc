package main

// How this program speaks:
//
//   - Standard output has results and nothing else.
//   - An error is one sentence on standard error, in lower case, behind the program's name. It has
//     the step and the cause. A line of its own says what to do next: the hint.
//   - Only this file turns an error into a hint, by its type and never by its text.
//   - No token, code or passphrase is printed.
//   - On standard error only this program's own lines begin at the margin. A server's words are
//     quoted in a sentence of ours, or indented, so that nobody takes them for ours.
//   - A hint holds a server's words only if a shell takes them as they are: people copy hints.

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Exit statuses.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitLogin
	exitTool
)

// A usageError is a wrong command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// A toolError is a call of a tool that does not exist, or with arguments that its schema rules out.
// Nothing was sent.
type toolError struct {
	tool string // "" if there is no such tool
	error
}

// A passphraseError is a passphrase that could not be asked for or read.
type passphraseError struct{ error }

func (e *passphraseError) Unwrap() error { return e.error }

// A calledError is any error after a tool was called: the server may have carried the call out.
type calledError struct{ error }

func (e *calledError) Unwrap() error { return e.error }

// An endedError is an error of a command whose time was over (the cause is a [timeoutError]) or
// that a person interrupted.
type endedError struct {
	error
	cause error
}

func (e *endedError) Unwrap() error { return e.error }

// timedOut returns the cause if the time was over, or nil.
func (e *endedError) timedOut() *timeoutError {
	late := new(timeoutError)
	if errors.As(e.cause, &late) {
		return late
	}
	return nil
}

// errTool ends a command after it has printed a tool's own error.
var errTool = errors.New("the tool reported an error")

// errSignedOut ends a command after it has printed that there is no session.
var errSignedOut = errors.New("not signed in")

// A timeoutError is the end of the time of --timeout.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("gave up after %s", e.after) }
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }

// codes are all codes that explain returns. They are printed by --help, and scripts depend on them.
const codes = `  usage, login_required, token_refused, forbidden, denied, authorization_failed,
  issuer_mismatch, metadata_mismatch, no_pkce, unsafe_address, no_sign_in,
  not_found, no_client_id, registration_refused, too_many_clients, port_taken,
  client_refused, exchange_failed, locked, no_passphrase, wrong_passphrase,
  store_unavailable, store_damaged, exposed, not_saved, try_again, interrupted,
  timeout, opened_twice, tls, network, no_answer, server_error, bad_answer,
  failed`

// report prints the error of a command, if there is one, and returns the exit status.
func (a *app) report(command string, err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errTool):
		return exitTool
	case errors.Is(err, errSignedOut):
		return exitLogin
	}
	code, status, hint := a.explain(command, err)
	message := err.Error()
	step := new(mcpclient.StepError)
	if errors.As(err, &step) {
		message = step.Error() // the SDK wraps it in words that name no cause
	}
	ended := new(endedError)
	switch {
	case code == "login_required" && errors.Is(err, tokenstore.ErrNotFound):
		message = "not signed in to " + text.URL(a.server)
		if a.account != "" {
			message += " as " + a.account
		}
	case code == "interrupted":
		message = "interrupted"
	case code == "timeout" && errors.As(err, &ended) && ended.timedOut() != nil:
		if cut, ok := strings.CutSuffix(message, context.DeadlineExceeded.Error()); ok {
			message = cut + ended.timedOut().Error()
		}
	}
	if a.output == "json" {
		e := map[string]any{"code": code, "message": message}
		if step.Step != 0 {
			e["step"] = step.Step.String()
		}
		if hint != "" {
			e["hint"] = hint
		}
		if forbidden := new(mcpclient.ForbiddenError); errors.As(err, &forbidden) && len(forbidden.SignInFor) > 0 {
			e["scopes"] = forbidden.SignInFor
		}
		_ = a.stderr.json(map[string]any{"error": e}, false) // strings cannot fail
		return status
	}
	a.stderr.sentence("astravue-mcp: %s", message)
	if hint != "" {
		a.stderr.line("%s", hint)
	}
	return status
}

// explain returns an error's code in JSON, the exit status, and the hint. An error may fit several
// cases and the first one counts, so their order is the rule: what a person can mend by the hint
// comes before what the network or the server did.
func (a *app) explain(command string, err error) (code string, status int, hint string) {
	var (
		ended     *endedError
		called    *calledError
		usage     *usageError
		tool      *toolError
		phrase    *passphraseError
		denied    *authcode.AuthorizationError
		issuer    *authcode.IssuerError
		port      *callback.PortError
		refused   *dcr.Error
		limit     *mcpclient.RegistrationLimitError
		redirects *dcr.RedirectURIError
		missing   *discovery.NotFoundError
		mismatch  *discovery.MismatchError
		address   *discovery.URLError
		parameter *authcode.ParameterError
		token     *mcpclient.TokenRefusedError
		forbidden *mcpclient.ForbiddenError
		answer    *mcpclient.AnswerError
		locked    *tokenstore.LockTimeoutError
		file      *tokenstore.FileError
		retry     *refresh.RetryError
		client    *refresh.ClientError
		exchange  *authcode.TokenError
		authority x509.UnknownAuthorityError
		dns       *net.DNSError
		step      = new(mcpclient.StepError)
	)
	_ = errors.As(err, &step)
	_ = errors.As(err, &file) // nil if the error is not about one file
	switch {
	// The person.
	case errors.As(err, &ended) && ended.timedOut() == nil:
		return "interrupted", exitFailure, ""
	case file != nil && errors.Is(err, tokenstore.ErrExposed): // before usage and passphrase: their files too
		return "exposed", exitFailure, "The file was not used." + mend(" To put that right: ", file)
	case errors.As(err, &tool):
		if _, harmless := shellSafe(tool.tool); harmless && tool.tool != "" {
			return "usage", exitUsage, "To see its arguments: " + a.commandLine("tools "+tool.tool)
		}
		return "usage", exitUsage, "To see all tools: " + a.commandLine("tools")
	case errors.As(err, &usage) && command == "astravue-mcp":
		return "usage", exitUsage, "To see all commands and flags: astravue-mcp --help"
	case errors.As(err, &usage):
		return "usage", exitUsage, "To see its arguments and flags: " + command + " --help"
	case errors.Is(err, mcpclient.ErrServerAddress):
		return "usage", exitUsage, "Give the address of the MCP endpoint, with https:// and its path: --server " + mcpclient.DefaultServer

	// The session, and whether a sign-in would help.
	case errors.As(err, &forbidden) && errors.Is(err, mcpclient.ErrLoginRequired):
		scopes, harmless := shellSafe(strings.Join(forbidden.SignInFor, " "))
		if !harmless {
			return "login_required", exitLogin, "Sign in with --scope. The scopes that the server asks for hold characters that a shell acts on, so only --output json shows them."
		}
		return "login_required", exitLogin, "Sign in for these scopes: " + a.commandLine("login") + " --scope " + scopes
	case errors.Is(err, mcpclient.ErrLoginRequired):
		return "login_required", exitLogin, "Sign in: " + a.commandLine("login")
	case errors.As(err, &token) && token.Named != "":
		return "token_refused", exitFailure, "Ask the operator of your issuer whether the server has moved to another one. If so, sign in there: " + a.commandLine("login")
	case errors.As(err, &token):
		return "token_refused", exitFailure, "Signing in again would not help. Compare this computer's clock with the server's, and ask the server's administrator which audience its tokens need."
	case errors.As(err, &forbidden):
		return "forbidden", exitFailure, "Your role in the workspace does not allow this. Ask one of its owners or admins."

	// The answer to a sign-in, and the server's metadata.
	case errors.As(err, &denied) && denied.Denied():
		return "denied", exitFailure, "Access was not approved. To try again: " + a.commandLine("login")
	case errors.As(err, &denied):
		return "authorization_failed", exitFailure, "The server refused to sign you in. If its answer names scopes, ask for other ones: " + a.commandLine("login") + " --scope \"…\""
	case errors.As(err, &issuer):
		return "issuer_mismatch", exitFailure, "The answer came from another authorization server than the one that was asked. It was not used. If that happens again, tell the server's administrator."
	case errors.As(err, &mismatch):
		switch {
		case mismatch.Field == "issuer" && a.issuer != "":
			return "metadata_mismatch", exitFailure, "Check --issuer: no metadata that can be used was found for it."
		case mismatch.Field == "issuer":
			// The server's issuer is not put into the command: a person who copies that would take it for our advice.
			return "metadata_mismatch", exitFailure, "The server's administrator has to put that right. The metadata states " + text.Quote(mismatch.Got) + ". If the operator of that issuer confirms that this is their server, name the issuer: " +
				a.commandLine("login") + " --issuer URL. A token of that issuer then goes to this server."
		}
		return "metadata_mismatch", exitFailure, "Check the address, with its path and a slash at its end. It must be the address that the server states."
	case errors.Is(err, discovery.ErrNoPKCE):
		return "no_pkce", exitFailure, "Signing in there would not be safe. The server's administrator has to switch on PKCE with S256."
	case errors.Is(err, discovery.ErrForeignEndpoint):
		return "unsafe_address", exitFailure, "Nothing was sent there. Only metadata at the issuer's own address may name another one. Ask the issuer's operator."
	case errors.As(err, &address), errors.As(err, &parameter):
		return "unsafe_address", exitFailure, "Nothing was sent there. Tell the server's administrator."
	case errors.Is(err, mcpclient.ErrNoSignIn):
		return "no_sign_in", exitFailure, "Check the address. If it is right, the server needs no sign-in: " + a.commandLine("tools")
	case errors.As(err, &missing):
		return "not_found", exitFailure, "Check the address and your connection. To see what is found there: " + a.commandLine("discover")

	// The client.
	case errors.Is(err, mcpclient.ErrNoRegistration):
		return "no_client_id", exitFailure, "Create an app in Astravue (Settings → Apps → Create App) and sign in with its ID: " + a.commandLine("login") + " --client-id ID"
	case errors.As(err, &refused), errors.As(err, &redirects):
		return "registration_refused", exitFailure, "Ask the server's administrator to let this client register, or sign in with a client ID of your own (in Astravue: Settings → Apps → Create App): " + a.commandLine("login") + " --client-id ID"
	case errors.As(err, &limit):
		return "too_many_clients", exitFailure, "The next registration is possible at " + day(limit.Until, clock.Now()) + ". To sign in now, create a client by hand at the authorization server: " + a.commandLine("login") + " --client-id ID"
	case errors.As(err, &port):
		return "port_taken", exitFailure, "Another program listens there. End it, or choose another address: " + a.commandLine("login") + " --redirect-url http://127.0.0.1/callback"
	case errors.As(err, &client):
		return "client_refused", exitFailure, "The server no longer accepts this client ID or secret. Sign in with the right ones: " + a.commandLine("login") + " --client-id ID --client-secret-file FILE"

	// The store.
	case errors.As(err, &locked):
		return "locked", exitFailure, "Another program is using this account's tokens. Try again when it is done; if it hangs, end it."
	case errors.As(err, &phrase):
		return "no_passphrase", exitFailure, "Type it at a terminal, or put it into a file (ASTRAVUE_MCP_PASSPHRASE_FILE). Where nobody types, use an age identity (ASTRAVUE_MCP_IDENTITY_FILE)."
	case errors.Is(err, tokenstore.ErrWrongIdentity):
		return "wrong_passphrase", exitFailure, "Nothing was changed. Try again with the passphrase or identity that the files were made with." + mend(" If that is lost, begin anew: ", file)
	case file != nil && errors.Is(err, tokenstore.ErrCorrupt):
		return "store_damaged", exitFailure, "Nothing was changed." + mend(" To put that right: ", file)
	case file != nil:
		return "store_unavailable", exitFailure, "The file was not used." + mend(" To put that right: ", file)
	case errors.Is(err, tokenstore.ErrUnavailable) && a.store == "keychain":
		return "store_unavailable", exitFailure, "Unlock the keychain, or keep tokens in encrypted files: --store file (ASTRAVUE_MCP_STORE=file)."
	case errors.Is(err, tokenstore.ErrUnavailable):
		return "store_unavailable", exitFailure, "Check that the folder of the tokens can be read and written, and that ASTRAVUE_MCP_IDENTITY_FILE, if it is set, names the right file."
	case errors.Is(err, tokenstore.ErrCorrupt):
		return "store_damaged", exitFailure, "Sign in again to replace what is stored: " + a.commandLine("login")
	case errors.Is(err, mcpclient.ErrNotSaved):
		return "not_saved", exitFailure, "The tokens could not be stored. Mend the store, then sign in again: " + a.commandLine("login")

	// A refresh, a call, the wait for a browser, the exchange of the code.
	case errors.As(err, &retry): // before the call: it was not sent without a token
		return "try_again", exitFailure, fmt.Sprintf("The session is kept. Try again in %s.", span(max(retry.At.Sub(clock.Now()), time.Second)))
	case errors.As(err, &called) && (errors.Is(err, mcpclient.ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &answer) && answer.Status >= 500 && answer.Status != http.StatusServiceUnavailable):
		return "no_answer", exitFailure, "The server may have carried out the call. Check that before you repeat it."
	case errors.Is(err, callback.ErrOpenedTwice):
		return "opened_twice", exitFailure, "Nothing was kept. If you opened the address in one browser only, another user of this computer opened it too. To try again with an address that no program is given: " + a.commandLine("login") + " --no-browser"
	case errors.Is(err, context.Canceled):
		return "interrupted", exitFailure, ""
	case step.Step == mcpclient.StepCallback && errors.Is(err, context.DeadlineExceeded):
		return "timeout", exitFailure, "If the browser shows an error page, the reason is there. If the browser is on another computer, paste the address of its last page when you try again: " + a.commandLine("login")
	case errors.As(err, &exchange) && (exchange.Code == "invalid_client" || exchange.Code == "unauthorized_client"):
		return "client_refused", exitFailure, "The server does not accept this client ID or secret. Sign in with the right ones: " + a.commandLine("login") + " --client-id ID --client-secret-file FILE"
	case errors.As(err, &exchange) && exchange.Code == "not_allowed": // Keycloak's word for offline_access without its role
		return "exchange_failed", exitFailure, "Ask the server's administrator for the right to offline_access, or sign in without it: " + a.commandLine("login")
	case errors.As(err, &exchange) && exchange.Status != 0:
		return "exchange_failed", exitFailure, "To try again: " + a.commandLine("login")

	// The network and the server, in general.
	case errors.As(err, &authority):
		return "tls", exitFailure, "The server's certificate is not trusted here. If it is that of a company proxy, add the proxy's certificate to the system's (SSL_CERT_FILE)."
	case errors.Is(err, http.ErrSchemeMismatch):
		return "tls", exitFailure, "The server does not speak TLS there. Check the address and its port."
	case errors.As(err, &dns):
		return "network", exitFailure, "Check the address and your connection."
	case errors.Is(err, syscall.EADDRINUSE):
		return "port_taken", exitFailure, "Another program listens there. End it, or choose another port; 0 means any."
	case isNet(err):
		return "network", exitFailure, "Check the address, your connection and, if there is one, the proxy (HTTPS_PROXY)."
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout", exitFailure, "Give it more time with --timeout."
	case step.Step == mcpclient.StepExchange:
		return "exchange_failed", exitFailure, "To try again: " + a.commandLine("login")
	case errors.Is(err, io.EOF):
		return "network", exitFailure, "The server closed the connection. Try again. If that does not help, check the address."
	case step.Step == mcpclient.StepRegistration:
		return "bad_answer", exitFailure, "Tell the server's administrator, or sign in with a client ID of your own: " + a.commandLine("login") + " --client-id ID"
	case errors.As(err, &answer) && (answer.Status >= 500 || answer.Status == http.StatusTooManyRequests):
		return "server_error", exitFailure, "The server cannot do it now; try again later."
	case errors.As(err, &answer):
		return "bad_answer", exitFailure, "Check the address: it must be that of the MCP endpoint itself."
	}
	return "failed", exitFailure, ""
}

func isNet(err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne)
}

// printJSON writes the one document of --output json.
func (a *app) printJSON(v any) error { return a.stdout.json(v, true) }
