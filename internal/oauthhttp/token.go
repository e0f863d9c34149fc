package oauthhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/internal/text"
)

// Client authentication methods at the token endpoint (RFC 6749 §2.3,
// RFC 7591 §2 token_endpoint_auth_method). The method is given; nothing is tried
// out.
const (
	AuthNone  = "none"
	AuthPost  = "client_secret_post"
	AuthBasic = "client_secret_basic"
)

// ClientAuth says which client asks at a token or revocation endpoint, and how
// it proves that. An empty Method is [AuthNone].
type ClientAuth struct {
	ID     string
	Secret secret.Secret
	Method string
}

// A Token is a successful answer of a token endpoint (RFC 6749 §5.1).
type Token struct {
	AccessToken secret.Secret
	TokenType   string // always "Bearer"

	RequestedAt time.Time // when the request was sent
	ExpiresAt   time.Time // of the access token; zero: the server did not say

	RefreshToken     secret.Secret // empty if none came
	RefreshExpiresAt time.Time     // zero: unknown, or never if RefreshForever is set
	RefreshForever   bool          // the server stated that it does not expire

	Scopes      []string // as the server stated them
	ScopeStated bool     // false: the answer had no scope member
}

// An Outcome is how far a token request came.
type Outcome int

const (
	// NotSent: no byte of the request left (address, DNS, dial, TLS).
	NotSent Outcome = iota
	// Refused: the server answered that it did not carry the request out.
	Refused
	// Unknown: the server may have carried the request out. No answer came, or
	// none that can be read.
	Unknown
)

func (o Outcome) String() string {
	switch o {
	case NotSent:
		return "not sent"
	case Refused:
		return "refused"
	case Unknown:
		return "outcome unknown"
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}

// A TokenError is a failed request at a token or revocation endpoint. Of the
// server's answer it holds error and error_description only (RFC 6749 §5.2),
// each cut to 200 characters, without invisible characters and without the
// secrets of the request.
type TokenError struct {
	Endpoint    string // without query
	Outcome     Outcome
	Status      int           // HTTP status; 0 if no answer came
	Code        string        // the OAuth error code; "" if the answer had none
	Description string        // error_description
	RetryAfter  time.Duration // of the Retry-After header, at most an hour; 0 if none
	Err         error         // the cause, for errors.Is and errors.As; nil if Status and Code are all
}

// Error names the endpoint's host, the outcome and the cause.
func (e *TokenError) Error() string {
	var b strings.Builder
	b.WriteString("request")
	if u, err := url.Parse(e.Endpoint); err == nil && u.Host != "" {
		b.WriteString(" to " + text.Host(u.Host))
	}
	fmt.Fprintf(&b, ": %v", e.Outcome)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (status %d)", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, ": %q", e.Code)
	}
	if e.Description != "" {
		fmt.Fprintf(&b, " (%q)", e.Description)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *TokenError) Unwrap() error { return e.Err }

var (
	// ErrTokenType is an access token of a type other than Bearer (RFC 6750).
	ErrTokenType = errors.New("access token is not a bearer token")
	// ErrNoToken is a successful answer without an access token.
	ErrNoToken = errors.New("answer has no access token")
)

// maxLife is the longest life of a token that is believed.
const maxLife = 10 * 365 * 24 * time.Hour

// RequestToken posts form with the client's authentication to the token
// endpoint and reads the answer (RFC 6749 §3.2, §5). The request is sent at
// most once, no redirect is followed, and an answer of more than 1 MiB is an
// error. A 2xx with a readable access token succeeds, whatever else is odd about
// it, with two exceptions. JSON with doubled names, and a token_type other than
// Bearer, are errors with the outcome [Unknown].
//
// Without a deadline in ctx it takes at most 30 s. If hc is nil, a shared
// [NewClient]("") sends. Every error is a *TokenError.
func RequestToken(ctx context.Context, hc *http.Client, endpoint string, form url.Values, auth ClientAuth) (*Token, error) {
	at := clock.Now()
	var token *Token
	if err := post(ctx, hc, endpoint, form, auth, func(body []byte, hide []string) (err error) {
		token, err = parseToken(body, at, hide...)
		return err
	}); err != nil {
		return nil, err
	}
	return token, nil
}

// Revoke asks the revocation endpoint to revoke token (RFC 7009 §2.1). The
// hint is "refresh_token" or "access_token". Servers answer a token that they do
// not know with 200 (§2.2). Every error is a *TokenError; its Code is
// unsupported_token_type if the server cannot revoke that kind of token.
func Revoke(ctx context.Context, hc *http.Client, endpoint, token, hint string, auth ClientAuth) error {
	form := url.Values{"token": {token}, "token_type_hint": {hint}}
	if err := post(ctx, hc, endpoint, form, auth, nil); err != nil {
		return err
	}
	return nil
}

// post sends the form. It gives read the body of a 2xx, and the secrets of the request, which the
// error of read must not show. If read is nil, a 2xx is a success whatever its body.
func post(ctx context.Context, hc *http.Client, endpoint string, form url.Values, auth ClientAuth, read func(body []byte, hide []string) error) *TokenError {
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
	if e.Err = expired(ctx); e.Err != nil {
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
		return nil // RFC 7009 §2.2: the body is ignored, and it may be long in coming
	}
	hide := secretsOf(form, auth, header)
	body, err := readBody(resp)
	if e.Status/100 == 2 && err == nil {
		if err = read(body, hide); err == nil {
			return nil
		}
	}
	e.Code, e.Description = ErrorOf(body, hide...)
	switch {
	case e.Status/100 == 2:
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

// secretsOf lists the secrets of a request. A server may quote them; no error of ours may.
func secretsOf(form url.Values, auth ClientAuth, header string) []string {
	_, basic, _ := strings.Cut(header, " ")
	return []string{auth.Secret.Reveal(), basic, form.Get("code"), form.Get("code_verifier"), form.Get("refresh_token"), form.Get("token")}
}

// authenticate returns a copy of form with the client's authentication, and the
// Authorization header, "" if there is none (RFC 6749 §2.3.1).
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

// parseToken reads an answer (RFC 6749 §5.1) to a request that was sent at the time at. Its errors do
// not show the strings to hide.
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
	// token_type is REQUIRED, but to lose a session over its absence would help nobody.
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

// seconds reads a number of seconds. Some servers send it as a string. For
// anything else it returns a negative duration.
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
		d = 1 // callers take 0 for "never" or "not stated"
	}
	return d
}

// ErrorOf returns error and error_description of an answer (RFC 6749 §5.2,
// RFC 7591 §3.2.2), each cut to 200 characters, without invisible characters and
// without the strings to hide, the secrets of the request.
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
