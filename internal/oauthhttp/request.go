package oauthhttp

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/internal/text"
)

var (
	// ErrTokenType is an access token of a type other than Bearer (RFC 6750).
	ErrTokenType = errors.New("access token is not a bearer token")
	// ErrNoToken is a successful answer without an access token.
	ErrNoToken = errors.New("answer has no access token")
)

// maxLife caps the life of a token that a server states.
const maxLife = 10 * 365 * 24 * time.Hour

// RequestToken posts form with the client's authentication to the token
// endpoint and reads the answer (RFC 6749 §3.2, §5). The request leaves once
// or not at all, no redirect is followed, and an answer of more than 1 MiB is
// not read. A 2xx from which an access token can be read succeeds, whatever
// else is odd about it, but for doubled names and for a token type that is
// stated and not Bearer: those are Unknown. Without a deadline in ctx it takes at most 30 s. hc
// nil is a shared [NewClient](""). Every error is a *TokenError.
func RequestToken(ctx context.Context, hc *http.Client, endpoint string, form url.Values, auth ClientAuth) (*Token, error) {
	at := clock.Now()
	var token *Token
	if err := post(ctx, hc, endpoint, form, auth, func(body []byte) (err error) {
		token, err = parseToken(body, at, unspeakable(form, auth)...)
		return err
	}); err != nil {
		return nil, err
	}
	return token, nil
}

// Revoke asks the revocation endpoint to forget token (RFC 7009 §2.1). The
// hint is "refresh_token" or "access_token". A token that the server does not
// know counts as revoked, as the RFC has it. Every error is a *TokenError; its
// Code is unsupported_token_type where the server cannot revoke that kind.
func Revoke(ctx context.Context, hc *http.Client, endpoint, token, hint string, auth ClientAuth) error {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}
	if err := post(ctx, hc, endpoint, form, auth, nil); err != nil {
		return err
	}
	return nil
}

// post sends the form; read is given the body of a 2xx.
func post(ctx context.Context, hc *http.Client, endpoint string, form url.Values, auth ClientAuth, read func([]byte) error) *TokenError {
	u, err := CheckURL(endpoint, "")
	if err != nil {
		return &TokenError{Err: err}
	}
	e := &TokenError{Endpoint: bare(u)}
	form, header, err := authenticate(form, auth)
	if err != nil {
		e.Err = err
		return e
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if e.Err = over(ctx); e.Err != nil {
		return e
	}
	ctx, sent := Watch(ctx)
	req, err := newRequest(ctx, http.MethodPost, u, "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil {
		e.Err = err
		return e
	}
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	resp, err := sendOnce(hc, req)
	if err != nil {
		e.Outcome, e.Err = sent(err), err
		return e
	}
	defer resp.Body.Close()
	e.Status, e.RetryAfter = resp.StatusCode, RetryAfter(resp.Header)
	if read == nil && e.Status/100 == 2 {
		return nil // the status says it all (RFC 7009 §2.2), and its body may be long in coming
	}
	body, err := readBody(resp)
	e.Code, e.Description = ErrorOf(body, unspeakable(form, auth)...)
	switch {
	case e.Status/100 == 2:
		if err == nil {
			err = read(body)
		}
		if err == nil {
			return nil
		}
		e.Outcome, e.Err = Unknown, err
		if e.Code != "" && errors.Is(err, ErrNoToken) { // some servers answer 200 to everything
			e.Outcome, e.Err = Refused, nil
		}
	case e.Status/100 == 3:
		e.Outcome, e.Err = Refused, ErrRedirect
	case e.Status/100 == 4, e.Code == "temporarily_unavailable":
		e.Outcome = Refused
	default:
		e.Outcome = Unknown
	}
	return e
}

// unspeakable lists what of a request a server may not make us show.
func unspeakable(form url.Values, auth ClientAuth) []string {
	_, header, _ := authenticate(form, auth)
	_, basic, _ := strings.Cut(header, " ")
	return []string{auth.Secret.Reveal(), basic, form.Get("code"), form.Get("code_verifier"), form.Get("refresh_token"), form.Get("token")}
}

// authenticate returns the form, and the Authorization header, with which auth
// proves itself (RFC 6749 §2.3.1). It leaves the caller's form alone.
func authenticate(form url.Values, auth ClientAuth) (url.Values, string, error) {
	out := make(url.Values, len(form)+2)
	for k, v := range form {
		out[k] = v
	}
	switch auth.Method {
	case "", AuthNone:
		out.Set("client_id", auth.ID)
	case AuthPost:
		out.Set("client_id", auth.ID)
		out.Set("client_secret", auth.Secret.Reveal())
	case AuthBasic:
		// "encoded using the application/x-www-form-urlencoded encoding algorithm"
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(url.QueryEscape(auth.ID), url.QueryEscape(auth.Secret.Reveal()))
		return out, r.Header.Get("Authorization"), nil
	default:
		return nil, "", fmt.Errorf("client authentication method %s is not supported", text.Quote(auth.Method))
	}
	return out, "", nil
}

// Watch returns a context under which net/http reports how far a request came,
// and a function that says what an error then means.
func Watch(ctx context.Context) (context.Context, func(error) Outcome) {
	var watched, connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { watched.Store(true) },
		// A connection is taken after dial and handshake, and to be written to
		// at once. The hooks that tell of the writing itself come too late
		// under HTTP/2, where a cancelled request may still be on its way out.
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	return ctx, func(err error) Outcome {
		if connected.Load() || !watched.Load() && !beforeSend(err) {
			return Unknown
		}
		return NotSent
	}
}

// beforeSend reports whether err arises only before a request is written. It
// is for a RoundTripper that does not report to a trace.
func beforeSend(err error) bool {
	var (
		op      *net.OpError
		dns     *net.DNSError
		private *PrivateAddressError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns) || errors.As(err, &private) ||
		errors.As(err, &verify) || errors.As(err, &record)
}

// Object reads a JSON object as [Unmarshal] does, its names exactly as
// written. Its errors quote nothing of the values, since the answer may hold
// secrets, and of a name not those strings of the request that are to be hidden.
func Object(body []byte, hide ...string) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := Unmarshal(body, &m); err != nil {
		if dup := (*DuplicateError)(nil); errors.As(err, &dup) {
			return nil, &DuplicateError{text.Without(dup.Name, hide...)}
		}
		if errors.Is(err, ErrTooDeep) {
			return nil, err
		}
		return nil, ErrNotJSON
	}
	return m, nil
}

// ErrorOf reads error and error_description from an answer (RFC 6749 §5.2,
// RFC 7591 §3.2.2), each cut to 200 characters, without control characters and
// without those strings of the request that a server may not make us show.
func ErrorOf(body []byte, hide ...string) (code, description string) {
	m, err := Object(body)
	if err != nil {
		return "", ""
	}
	read := func(name string) string {
		s, _ := str(m[name])
		return text.Without(s, hide...)
	}
	return read("error"), read("error_description")
}

// str returns the string in raw, and false if it holds none.
func str(raw json.RawMessage) (string, bool) {
	var s *string
	if raw == nil || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// parseToken reads an answer (RFC 6749 §5.1) to a request of the time at.
func parseToken(body []byte, at time.Time, hide ...string) (*Token, error) {
	m, err := Object(body, hide...)
	if err != nil {
		return nil, err
	}
	access, _ := str(m["access_token"])
	if access == "" {
		return nil, ErrNoToken
	}
	if strings.ContainsFunc(access, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, fmt.Errorf("%w that fits into a header", ErrNoToken) // RFC 6749 appendix A.12
	}
	// token_type is REQUIRED, but nothing is gained by losing a session over it.
	if typ, ok := str(m["token_type"]); ok && !strings.EqualFold(typ, "bearer") {
		return nil, fmt.Errorf("%w but %q", ErrTokenType, text.Without(typ, hide...))
	}
	t := &Token{AccessToken: secret.New(access), TokenType: "Bearer", RequestedAt: at}
	if life := seconds(m["expires_in"]); life > 0 {
		t.ExpiresAt = at.Add(life)
	}
	if refresh, _ := str(m["refresh_token"]); refresh != "" {
		t.RefreshToken = secret.New(refresh)
		// Keycloak's member; it writes 0 for a token that does not expire.
		if life := seconds(m["refresh_expires_in"]); life > 0 {
			t.RefreshExpiresAt = at.Add(life)
		} else {
			t.RefreshForever = life == 0
		}
	}
	if scope, ok := str(m["scope"]); ok {
		t.Scopes, t.ScopeStated = strings.Fields(scope), true
	}
	return t, nil
}

// seconds reads a number, also one in a string, as servers send them. It
// returns a negative duration for everything else.
func seconds(raw json.RawMessage) time.Duration {
	s, ok := str(raw)
	if !ok {
		s = string(raw)
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(f) || f < 0 {
		return -1
	}
	d := time.Duration(min(f, maxLife.Seconds()) * float64(time.Second))
	if d == 0 && f > 0 {
		d = 1 // little is not none
	}
	return d
}
