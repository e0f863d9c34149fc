package faults

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
)

// firstBackoff is the least that there is between two requests for the same token.
const firstBackoff = 750 * time.Millisecond

const (
	goesOn = "goes on"
	lost   = "`refresh.ErrAnswerLost`, and a sign-in mends it"
)

var (
	invalidGrant  = answering("400 `invalid_grant`", 400, `{"error":"invalid_grant","error_description":"Token is not active"}`)
	invalidTarget = answering("400 `invalid_target`", 400, `{"error":"invalid_target"}`)
	invalidClient = answering("401 `invalid_client`", 401, `{"error":"invalid_client"}`)
	unavailable   = answering("503 `temporarily_unavailable`", 503, `{"error":"temporarily_unavailable"}`)
)

var refreshDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (not sent), cause", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{status400, status401, status403, status404, status429, unavailable},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (refused)", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{redirectWithin, redirectAcross, redirectHTTP, redirectInside},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (refused), `oauthhttp.ErrRedirect`", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{invalidGrant, invalidTarget},
		err: "step 4, `mcpclient.ErrLoginRequired`, `*authcode.TokenError` (refused)", asked: 1, store: "the refresh token is forgotten", after: "`mcpclient.ErrLoginRequired`, and a sign-in mends it",
	},
	{
		on:  []*fault{invalidClient},
		err: "step 8, `*refresh.RetryError`, `*refresh.ClientError`, `*authcode.TokenError` (refused)", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{timeoutBefore},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), cause", asked: 1, store: "marked as pending", after: goesOn,
	},
	{
		on:  []*fault{status500, status503},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown)", asked: 1, store: "marked as pending", after: goesOn,
	},
	{
		on:  []*fault{html, emptyBody},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrNotJSON`", asked: 1, store: "marked as pending", after: goesOn,
	},
	{
		on:  []*fault{wrongTypes},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrNoToken`", asked: 1, store: "marked as pending", after: goesOn,
	},
	{
		on:  []*fault{timeoutAfter, slowDrip, resetInBody, carriedOut(timeoutBefore)},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), cause", asked: 1, store: "marked as pending", after: lost,
	},
	{
		on:  []*fault{carriedOut(status500), carriedOut(status503)},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown)", asked: 1, store: "marked as pending", after: lost,
	},
	{
		on:  []*fault{truncated, carriedOut(html), carriedOut(emptyBody)},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrNotJSON`", asked: 1, store: "marked as pending", after: lost,
	},
	{
		on:  []*fault{duplicates},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), `*oauthhttp.DuplicateError`", asked: 1, store: "marked as pending", after: lost,
	},
	{
		on:  []*fault{hugeBody},
		err: "step 8, `*refresh.RetryError`, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrTooLarge`", asked: 1, store: "marked as pending", after: lost,
	},
	{
		on:  []*fault{wrongContentType},
		err: "none", asked: 1, store: "renewed", after: goesOn,
	},
}

const refreshRule = `A token is spent once, so what may have reached the server decides. What was not sent, or was
refused, is sent again when the back-off or Retry-After is over; asked before that, the client
sends nothing. Where the outcome is not known, the token is marked as sent and is sent once more, and
only if it was carried out is the session lost, with the answer. Nothing else is forgotten, unless
the server says that the grant has ended.

A command that starts with an access token that has ended:
`

func refreshList(t *testing.T, s *suite) string {
	var (
		text   string
		faults []*fault
		of     []decision
		kinds  sync.WaitGroup
	)
	for _, d := range refreshDecisions {
		for _, f := range d.on {
			faults, of = append(faults, f), append(of, d)
		}
	}
	kinds.Go(func() { text = s.decided(t, refreshDecisions, s.refreshCase) })
	kinds.Go(func() {
		s.cases(t, suffixed(names(faults), " in mid-session"), func(t *testing.T, i int) { s.refusedCase(t, faults[i], of[i]) })
	})
	kinds.Go(func() {
		s.cases(t, suffixed(names(faults), " while the token lives"), func(t *testing.T, i int) { s.earlyCase(t, faults[i], of[i]) })
	})
	kinds.Wait()
	return refreshRule + "\n" + text + `
Where the server refuses the access token in mid-session, here over HTTP/2: a call fails with the same
error, what is stored and what follows is the same, and the session lives.

While the access token lives: no error. Calls go on, and what is stored is the same.
`
}

// refreshCase starts with a token that has ended.
func (s *suite) refreshCase(t *testing.T, f *fault, d decision) error {
	e := refreshEnv(t, "HTTP/1.1", s, f, d)
	e.seed(time.Now().Add(-time.Minute))
	before := e.kept()
	e.startFault(refreshing, f)
	err := e.start()
	e.want(f, d, err, before)
	e.wantBackoff(f, err, e.start)
	e.endFault()
	var session *mcp.ClientSession
	e.recovers(d, func() (err error) {
		if session == nil {
			if session, err = e.connect(); err != nil {
				return err
			}
		}
		return e.call(session)
	})
	return err
}

// refusedCase has a session whose token the server refuses, over a connection that requests share.
func (s *suite) refusedCase(t *testing.T, f *fault, d decision) {
	e := refreshEnv(t, "HTTP/2", s, f, d)
	e.seed(time.Now().Add(time.Hour))
	session, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.box.ExpireAccess(e.user); err != nil {
		t.Fatal(err)
	}
	before := e.kept()
	e.startFault(refreshing, f)
	err = e.call(session)
	e.want(f, d, err, before)
	e.wantBackoff(f, err, func() error { return e.call(session) })
	e.endFault()
	e.recovers(d, func() error { return e.call(session) })
}

// earlyCase has a token that is near its end.
func (s *suite) earlyCase(t *testing.T, f *fault, d decision) {
	e := refreshEnv(t, "HTTP/1.1", s, f, d)
	e.seed(time.Now().Add(58 * time.Second))
	before := e.kept()
	e.startFault(refreshing, f)
	session, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	d.err = "none"
	// Connect asks for a token several times. Who is slow may find the back-off over.
	if c := e.seen(); c.asked > d.asked && c.times[1].Sub(c.times[0]) >= firstBackoff {
		d.asked = c.asked
	}
	e.want(f, d, err, before)
	for range 2 {
		if err := e.call(session); err != nil {
			t.Error(err)
		}
		e.endFault()
	}
}

func refreshEnv(t *testing.T, version string, s *suite, f *fault, d decision) *env {
	return newEnvOver(t, version, s.servers, s.servers.modern, func(c *mcpclient.Client) {
		c.NonInteractive = true
		c.RequestTimeout = f.timeout(d)
	})
}

// start is a command that needs a token. Connect asks for one several times, and on a busy machine the
// back-off may be over in between; so it comes second.
func (e *env) start() error {
	resp, err := timely(e.t, "Get", func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, serverURL, nil)
		if err != nil {
			return nil, err
		}
		return e.client.HTTPClient().Do(req)
	})
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	_, err = e.connect()
	return err
}

// wantBackoff tries again at once, which must not reach the server, and then waits until it may.
func (e *env) wantBackoff(f *fault, err error, again func() error) {
	e.t.Helper()
	first := new(refresh.RetryError)
	if !errors.As(err, &first) {
		return
	}
	c := e.seen()
	if f.waits && first.At.Sub(c.times[0]) < retryAfter {
		e.t.Errorf("next try %v after the first, against Retry-After", first.At.Sub(c.times[0]))
	}
	second := new(refresh.RetryError)
	switch err := again(); {
	case !errors.As(err, &second):
		e.t.Errorf("again at once: %v", err)
	case second.At.Equal(first.At):
		if asked := e.seen().asked; asked != c.asked {
			e.t.Errorf("again at once: %d requests", asked-c.asked)
		}
	case time.Now().Before(first.At): // else this test was so slow that it was not at once
		e.t.Errorf("again at once: %v", err)
	}
	time.Sleep(time.Until(second.At))
}

// recovers tries what failed when the fault is gone.
func (e *env) recovers(d decision, again func() error) {
	e.t.Helper()
	err := again()
	if d.after == goesOn {
		if err != nil {
			e.t.Errorf("when the fault is gone: %v", err)
		}
		return
	}
	want := error(mcpclient.ErrLoginRequired)
	if d.after == lost {
		want = refresh.ErrAnswerLost
	}
	if !errors.Is(err, want) {
		e.t.Errorf("when the fault is gone: %v, want %v", err, want)
	}
	if err := e.login(); err != nil {
		e.t.Errorf("a sign-in: %v", err)
	}
	if err := again(); err != nil {
		e.t.Errorf("after the sign-in: %v", err)
	}
}
