package faults

import (
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
)

const (
	registered = "the registration is kept"
	signedIn   = "a new grant, the registration is kept"
)

const exchangeRule = `The code is sent once, and no fault of its exchange costs more than that sign-in: the session that was there
before stays, and the registration too, unless the server does not know it. Where the outcome is
not known the server may keep a grant that nobody holds.
`

var exchangeDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure},
		err: "step 6, `*authcode.TokenError` (not sent), cause", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{status400, status401, status403, status404, status429, unavailable, invalidGrant},
		err: "step 6, `*authcode.TokenError` (refused)", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{invalidClient},
		err: "step 6, `*authcode.TokenError` (refused)", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{redirectWithin, redirectAcross, redirectHTTP, redirectInside},
		err: "step 6, `*authcode.TokenError` (refused), `oauthhttp.ErrRedirect`", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{timeoutBefore, timeoutAfter, slowDrip, resetInBody},
		err: "step 6, `*authcode.TokenError` (outcome unknown), cause", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{status500, status503},
		err: "step 6, `*authcode.TokenError` (outcome unknown)", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{html, emptyBody, truncated},
		err: "step 6, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrNotJSON`", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{wrongTypes},
		err: "step 6, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrNoToken`", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{duplicates},
		err: "step 6, `*authcode.TokenError` (outcome unknown), `*oauthhttp.DuplicateError`", asked: 1, store: registered, after: goesOn,
	},
	{
		on:  []*fault{hugeBody},
		err: "step 6, `*authcode.TokenError` (outcome unknown), `oauthhttp.ErrTooLarge`", asked: 1, store: registered, after: goesOn,
	},
	{on: []*fault{wrongContentType}, err: "none", asked: 1, store: signedIn, after: goesOn},
}

func exchangeList(t *testing.T, s *suite) string {
	return exchangeRule + "\n" + s.decided(t, exchangeDecisions, s.loginCase(codeExchange))
}

var badMetadata = answering("400 `invalid_client_metadata`", 400, `{"error":"invalid_client_metadata"}`)

const registrationRule = `One request, but for a server that does not like the metadata and is asked with less. Where it was carried out
and the answer lost, the server keeps a client that nobody knows.
`

var registrationDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure, timeoutBefore, timeoutAfter, slowDrip, resetInBody},
		err: "step 3, cause", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on: []*fault{
			status400, status401, status403, status404, status429, status500, status503,
			redirectWithin, redirectAcross, redirectHTTP, redirectInside,
		},
		err: "step 3, `*dcr.Error`", asked: 1, store: "as it was", after: goesOn,
	},
	{on: []*fault{badMetadata}, err: "step 3, `*dcr.Error`", asked: 2, store: "as it was", after: goesOn},
	{on: []*fault{html, emptyBody, truncated}, err: "step 3, `oauthhttp.ErrNotJSON`", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{wrongTypes}, err: "step 3", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{duplicates}, err: "step 3, `*oauthhttp.DuplicateError`", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{hugeBody}, err: "step 3, `oauthhttp.ErrTooLarge`", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{wrongContentType}, err: "none", asked: 1, store: signedIn, after: goesOn},
}

func registrationList(t *testing.T, s *suite) string {
	return registrationRule + "\n" + s.decided(t, registrationDecisions, s.loginCase(registration))
}

const metadataRule = `A document may be at several addresses, and each is asked once, for as long as a request may take: one may
hang and another not. Redirects are followed within https, and where the documents of a public server
may lead.
`

func metadataDecisions(places int) []decision {
	return []decision{
		{
			on:  []*fault{refusedConnection, dnsFailure, tlsFailure, timeoutBefore, timeoutAfter, slowDrip, resetInBody},
			err: "step 1, `*discovery.NotFoundError`, cause", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{status400, status401, status403, status404, status429, status500, status503},
			err: "step 1, `*discovery.NotFoundError`, `*oauthhttp.StatusError`", asked: places, store: "as it was", after: goesOn,
		},
		{on: []*fault{redirectWithin, redirectAcross}, err: "none", asked: 1, followed: 1, store: signedIn, after: goesOn},
		{
			on:  []*fault{redirectHTTP},
			err: "step 1, `*discovery.NotFoundError`, `oauthhttp.ErrRedirect`", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{redirectInside},
			err: "step 1, `*discovery.NotFoundError`, `*oauthhttp.PrivateAddressError`", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{html, emptyBody, truncated},
			err: "step 1, `*discovery.NotFoundError`, `oauthhttp.ErrNotJSON`", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{wrongTypes},
			err: "step 1, `*discovery.NotFoundError`, `*json.UnmarshalTypeError`", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{duplicates},
			err: "step 1, `*discovery.NotFoundError`, `*oauthhttp.DuplicateError`", asked: places, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{hugeBody},
			err: "step 1, `*discovery.NotFoundError`, `oauthhttp.ErrTooLarge`", asked: places, store: "as it was", after: goesOn,
		},
		{on: []*fault{wrongContentType}, err: "none", asked: 1, store: signedIn, after: goesOn},
	}
}

func resourceMetadataList(t *testing.T, s *suite) string {
	return metadataRule + "\n" + s.decided(t, metadataDecisions(2), s.loginCase(resourceMetadata))
}

func serverMetadataList(t *testing.T, s *suite) string {
	return metadataRule + "\n" + s.decided(t, metadataDecisions(3), s.loginCase(serverMetadata))
}

const probeRule = `What is asked is whether the server wants a token, and a 401 says so by its headers. Whatever else it answers, a sign-in
that somebody asked for goes on by the well-known addresses. Only without an answer it ends, or
with one that leads away from the server.
`

var probeDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure, timeoutBefore},
		err: "step 1, cause", asked: 1, store: "as it was", after: goesOn,
	},
	{
		on: []*fault{
			status400, status401, status403, status404, status429, status500, status503,
			timeoutAfter, slowDrip, resetInBody, html, emptyBody, truncated, wrongTypes, duplicates, hugeBody, wrongContentType,
		},
		err: "none", asked: 1, store: signedIn, after: goesOn,
	},
	{on: []*fault{redirectWithin}, err: "none", asked: 1, followed: 1, store: signedIn, after: goesOn},
	{
		on:  []*fault{redirectAcross, redirectHTTP, redirectInside},
		err: "step 1, `oauthhttp.ErrRedirect`", asked: 1, store: "as it was", after: goesOn,
	},
}

func probeList(t *testing.T, s *suite) string {
	var alone, whole string
	var kinds sync.WaitGroup
	kinds.Go(func() { alone = s.decided(t, probeDecisions, s.loginCase(probe)) })
	kinds.Go(func() { whole = s.some(t, serverDecisions, " of the whole server", s.loginCase(wholeServer)) })
	kinds.Wait()
	return probeRule + "\n" + alone + "\nThe same of all that the server is asked, its metadata included: one that is out of order is not one without a sign-in.\n\n" + whole
}

var serverDecisions = []decision{
	{
		on:  []*fault{status401, status429, status500, status503},
		err: "step 1, `*discovery.NotFoundError`, `*oauthhttp.StatusError`", asked: 3, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{status400, status403, status404},
		err: "step 1, `mcpclient.ErrNoSignIn`, `*discovery.NotFoundError`, `*oauthhttp.StatusError`", asked: 3, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{html},
		err: "step 1, `mcpclient.ErrNoSignIn`, `*discovery.NotFoundError`, `oauthhttp.ErrNotJSON`", asked: 3, store: "as it was", after: goesOn,
	},
}

// loginCase signs in, where an older session is there, and once more when the fault is gone.
func (s *suite) loginCase(x exchange) caseFunc {
	return func(t *testing.T, f *fault, d decision) error {
		e := newEnv(t, s.servers, s.servers.modern, func(c *mcpclient.Client) {
			c.RequestTimeout = f.timeout(d)
		})
		e.seed(time.Now().Add(time.Hour))
		before := e.kept()
		e.startFault(x, f)
		err := e.login()
		e.want(f, d, err, before)
		e.endFault()
		session, again := e.connect() // with the older session, or with the new one
		if again == nil {
			again = e.call(session)
		}
		if again != nil {
			t.Errorf("the session: %v", again)
		}
		if again := e.login(); again != nil {
			t.Errorf("when the fault is gone: %v", again)
		}
		if got := e.kept().changes(before); got != signedIn {
			t.Errorf("when the fault is gone, the store: %s", got)
		}
		return err
	}
}

const revokeRule = `A logout forgets in any case, and says what became of the tokens at the server. A 200 says it all, without its
body. Both tokens share the time of one request, since others may wait for the lock.
`

var revokeDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure},
		err: "`*authcode.TokenError` (not sent), cause", asked: 2, store: forgotten, after: goesOn,
	},
	{
		on:  []*fault{status400, status401, status403, status404, status429, invalidClient},
		err: "`*authcode.TokenError` (refused)", asked: 2, store: forgotten, after: goesOn,
	},
	{
		on:  []*fault{redirectWithin, redirectAcross, redirectHTTP, redirectInside},
		err: "`*authcode.TokenError` (refused), `oauthhttp.ErrRedirect`", asked: 2, store: forgotten, after: goesOn,
	},
	{on: []*fault{timeoutBefore}, err: "`*authcode.TokenError` (outcome unknown), cause", asked: 1, store: forgotten, after: goesOn},
	{on: []*fault{status500, status503}, err: "`*authcode.TokenError` (outcome unknown)", asked: 2, store: forgotten, after: goesOn},
	{
		on: []*fault{
			timeoutAfter, slowDrip, resetInBody, html, emptyBody, truncated, wrongTypes, duplicates, hugeBody, wrongContentType,
		},
		err: "none", asked: 2, store: forgotten, after: goesOn,
	},
}

const forgotten = "the grant is forgotten"

func revokeList(t *testing.T, s *suite) string {
	return revokeRule + "\n" + s.decided(t, revokeDecisions, func(t *testing.T, f *fault, d decision) error {
		e := newEnv(t, s.servers, s.servers.modern, func(c *mcpclient.Client) { c.RequestTimeout = f.timeout(d) })
		e.seed(time.Now().Add(time.Hour))
		before := e.kept()
		e.startFault(revocation, f)
		res, err := timely(t, "Logout", e.client.Logout)
		if err != nil {
			t.Fatal(err)
		}
		e.want(f, d, res.Err, before)
		if want := map[bool]mcpclient.Revocation{true: mcpclient.Revoked, false: mcpclient.RevocationFailed}[d.err == "none"]; res.Revocation != want {
			t.Errorf("revocation: %s, want %s", res.Revocation, want)
		}
		e.endFault()
		if again := e.login(); again != nil {
			t.Errorf("when the fault is gone: %v", again)
		}
		return res.Err
	})
}
