package faults

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

type transport = *oauthhttp.Transport

// deadline is the cause of whoever waited for long enough.
const deadline = "`context.DeadlineExceeded`"

// identities are the errors that can be told apart, in the order in which a table names them.
var identities = []struct {
	name string
	is   func(error) bool
}{
	{"`mcpclient.ErrLoginRequired`", is(mcpclient.ErrLoginRequired)},
	{"`refresh.ErrAnswerLost`", is(refresh.ErrAnswerLost)},
	{"`mcpclient.ErrNoSignIn`", is(mcpclient.ErrNoSignIn)},
	{"`mcpclient.ErrNotSaved`", is(mcpclient.ErrNotSaved)},
	{"`refresh.ErrRefused`", is(refresh.ErrRefused)},
	{"`*mcpclient.TokenRefusedError`", as[*mcpclient.TokenRefusedError]},
	{"`*mcpclient.ForbiddenError`", as[*mcpclient.ForbiddenError]},
	{"`*mcpclient.AnswerError`", as[*mcpclient.AnswerError]},
	{"`mcpclient.ErrNoAnswer`", is(mcpclient.ErrNoAnswer)},
	{"`mcpclient.ErrTooLarge`", is(mcpclient.ErrTooLarge)},
	{"`mcp.ErrSessionMissing`", is(mcp.ErrSessionMissing)},
	{"`*refresh.RetryError`", as[*refresh.RetryError]},
	{"`*refresh.ClientError`", as[*refresh.ClientError]},
	{"`*authcode.TokenError` (not sent)", outcome(oauthhttp.NotSent)},
	{"`*authcode.TokenError` (refused)", outcome(oauthhttp.Refused)},
	{"`*authcode.TokenError` (outcome unknown)", outcome(oauthhttp.Unknown)},
	{"`*dcr.Error`", as[*dcr.Error]},
	{"`*discovery.NotFoundError`", as[*discovery.NotFoundError]},
	{"`*discovery.URLError`", as[*discovery.URLError]},
	{"`*oauthhttp.StatusError`", as[*oauthhttp.StatusError]},
	{"`oauthhttp.ErrRedirect`", is(oauthhttp.ErrRedirect)},
	{"`*oauthhttp.PrivateAddressError`", as[*oauthhttp.PrivateAddressError]},
	{"`oauthhttp.ErrNotJSON`", is(oauthhttp.ErrNotJSON)},
	{"`oauthhttp.ErrNoToken`", is(oauthhttp.ErrNoToken)},
	{"`oauthhttp.ErrTooLarge`", is(oauthhttp.ErrTooLarge)},
	{"`*oauthhttp.DuplicateError`", as[*oauthhttp.DuplicateError]},
	{"`*json.UnmarshalTypeError`", as[*json.UnmarshalTypeError]},
	{"`syscall.ECONNREFUSED`", is(syscall.ECONNREFUSED)},
	{"`*net.DNSError`", as[*net.DNSError]},
	{"`*tls.CertificateVerificationError`", as[*tls.CertificateVerificationError]},
	{"`syscall.ECONNRESET`", is(syscall.ECONNRESET)},
	{"`io.ErrUnexpectedEOF`", is(io.ErrUnexpectedEOF)},
	{deadline, is(context.DeadlineExceeded)},
	{"`context.Canceled`", is(context.Canceled)},
	{"`*authcode.AuthorizationError`", as[*authcode.AuthorizationError]},
	{"`*authcode.IssuerError`", as[*authcode.IssuerError]},
	{"`authcode.ErrNoCode`", is(authcode.ErrNoCode)},
	{"`*callback.PortError`", as[*callback.PortError]},
	{"`syscall.EADDRINUSE`", is(syscall.EADDRINUSE)},
	{"`*tokenstore.LockTimeoutError`", as[*tokenstore.LockTimeoutError]},
	{"`tokenstore.ErrUnavailable`", is(tokenstore.ErrUnavailable)},
	{"`tokenstore.ErrCorrupt`", is(tokenstore.ErrCorrupt)},
	{"`tokenstore.ErrWrongIdentity`", is(tokenstore.ErrWrongIdentity)},
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func outcome(o oauthhttp.Outcome) func(error) bool {
	return func(err error) bool {
		te := new(authcode.TokenError)
		return errors.As(err, &te) && te.Outcome == o
	}
}

// identity says what err is: its step, and all that errors.Is and errors.As find in it.
func identity(err error) string {
	if err == nil {
		return "none"
	}
	var found []string
	if se := new(mcpclient.StepError); errors.As(err, &se) {
		found = append(found, fmt.Sprintf("step %d", se.Step))
	}
	for _, id := range identities {
		if id.is(err) {
			found = append(found, id.name)
		}
	}
	if found == nil {
		return "an error without a type"
	}
	return strings.Join(found, ", ")
}

// cause, at the end of a decision's error, is the fault's own.
const cause = "cause"

// A decision is what becomes of an exchange under some faults.
type decision struct {
	on       []*fault
	err      string // what identity says
	asked    int    // requests that the client makes
	followed int    // redirects that it follows
	store    string // what kept.changes says
	after    string // what follows when the fault is gone, in the words of the part
}

const many = -1

// A case plays one fault. It returns the error that the user got.
type caseFunc func(t *testing.T, f *fault, d decision) error

// decided plays all faults, and those of the exchange's own, and returns the table of what came of
// them.
func (s *suite) decided(t *testing.T, decisions []decision, play caseFunc) string {
	t.Helper()
	for _, f := range all {
		if !slices.ContainsFunc(decisions, func(d decision) bool { return slices.Contains(d.on, f) }) {
			t.Errorf("%s is not decided", f.name)
		}
	}
	return s.some(t, decisions, "", play)
}

// some is decided for an exchange of which not every fault says anything new.
func (s *suite) some(t *testing.T, decisions []decision, suffix string, play caseFunc) string {
	t.Helper()
	of := map[*fault]decision{}
	var faults []*fault
	for _, d := range decisions {
		for _, f := range d.on {
			if _, twice := of[f]; twice {
				t.Errorf("%s is decided twice", f.name)
			}
			of[f] = d
			faults = append(faults, f)
		}
	}
	var mu sync.Mutex
	read := map[*fault]string{}
	s.cases(t, suffixed(names(faults), suffix), func(t *testing.T, i int) {
		err := play(t, faults[i], of[faults[i]])
		mu.Lock()
		defer mu.Unlock()
		read[faults[i]] = sentence(err)
	})
	if len(read) < len(faults) {
		s.partly.Store(true)
	}
	var rows [][]string
	for _, d := range decisions {
		var sentences []string
		for _, f := range d.on {
			if s := read[f]; s != "" && !slices.Contains(sentences, s) {
				sentences = append(sentences, s)
			}
		}
		requests := strconv.Itoa(d.asked)
		if d.asked == many {
			requests = "again and again"
		}
		if d.followed > 0 {
			requests += fmt.Sprintf(", and %d redirected", d.followed)
		}
		rows = append(rows, []string{
			strings.Join(names(d.on), "; "), strings.Replace(d.err, cause, "and the cause", 1), requests, d.store, d.after,
			cmp.Or(strings.Join(sentences, "<br>"), "nothing"),
		})
	}
	return table([]string{"fault", "error", "requests", "store", "when it is over", "the user reads"}, rows)
}

// want holds a case to what was decided of it, so far as that is the same for all exchanges.
func (e *env) want(f *fault, d decision, err error, before kept) {
	e.t.Helper()
	if got, want := identity(err), strings.Replace(d.err, cause, f.cause, 1); got != want {
		e.t.Errorf("error: %s\nwant: %s\n%v", got, want, err)
	}
	c := e.seen()
	if d.asked != many && c.asked != d.asked || c.followed != d.followed {
		e.t.Errorf("%d requests and %d redirected ones, want %d and %d", c.asked, c.followed, d.asked, d.followed)
	}
	if got := e.kept().changes(before); got != d.store {
		e.t.Errorf("the store: %s, want: %s", got, d.store)
	}
	if c.mostBytes > mostRead {
		e.t.Errorf("%d bytes of an answer were read", c.mostBytes)
	}
	if status, wait, ok := said(err); ok && f.status != 0 && status != f.status {
		e.t.Errorf("the error has status %d, want %d", status, f.status)
	} else if ok && f.waits && wait >= 0 && wait != retryAfter {
		e.t.Errorf("the error asks to wait for %v, want %v", wait, retryAfter)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		e.wantNoSecret("an error under "+verb, fmt.Sprintf(verb, err))
	}
}

// mostRead bounds what may be read of one answer: what a call may be answered with, and a buffer.
const mostRead = 8<<20 + 64<<10

// said returns the status that an error is about, and its Retry-After, -1 if it cannot hold one.
func said(err error) (status int, wait time.Duration, ok bool) {
	var (
		te *authcode.TokenError
		de *dcr.Error
		ae *mcpclient.AnswerError
		se *oauthhttp.StatusError
	)
	switch {
	case errors.As(err, &te) && te.Status != 0:
		return te.Status, te.RetryAfter, true
	case errors.As(err, &ae):
		return ae.Status, ae.RetryAfter, true
	case errors.As(err, &de):
		return de.Status, -1, true
	case errors.As(err, &se):
		return se.Status, -1, true
	}
	return 0, 0, false
}

var (
	statuses = regexp.MustCompile(`(status|HTTP) \d{3}|answered \d{3}[ A-Za-z]*`)
	times    = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	// causes are the words of a connection that failed, which are the fault's own.
	causes = regexp.MustCompile(`(dial tcp: )?dial tcp [0-9.:]+: connect: connection refused|lookup [a-z.]+: no such host|` +
		`tls: failed to verify certificate: x509: certificate signed by unknown authority|` +
		`(context deadline exceeded|net/http: request canceled)( \(Client\.Timeout [^)]*\))?|` +
		`read tcp [0-9.:]+->[0-9.:]+: read: connection reset by peer`)
)

// sentence is what the user reads of err, without what differs from run to run.
func sentence(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	if step := new(mcpclient.StepError); errors.As(err, &step) {
		s = step.Error() // what the command prints: what is around it names no cause
	}
	s = times.ReplaceAllString(s, "TIME")
	s = causes.ReplaceAllString(s, "CAUSE")
	s = statuses.ReplaceAllStringFunc(s, func(s string) string {
		word, _, _ := strings.Cut(s, " ")
		return word + " N"
	})
	return s
}

// timeout is the RequestTimeout for a case: short where a deadline is what ends it, and where
// none shall be waited for, longer than a case may take.
func (f *fault) timeout(d decision) time.Duration {
	if f.stalls && strings.HasSuffix(d.err, cause) {
		return shortly
	}
	return 2 * patience
}

func names(faults []*fault) (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

func suffixed(names []string, suffix string) []string {
	for i := range names {
		names[i] += suffix
	}
	return names
}
