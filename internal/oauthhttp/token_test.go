package oauthhttp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/secret"
)

const goodAnswer = `{"access_token":"access-1","token_type":"Bearer","expires_in":1800,"refresh_token":"refresh-1"}`

func refreshForm() url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"refresh-secret-0"}}
}

func public(id string) ClientAuth { return ClientAuth{ID: id} }

// answer serves one fixed answer.
func answer(t *testing.T, status int, header http.Header, body string) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestRequestTokenStatesTheClient(t *testing.T) {
	id, key := "an id:ü", secret.New("p&=+ %:w")
	for name, tc := range map[string]struct {
		auth       ClientAuth
		form       url.Values // beside the caller's
		user, pass string
	}{
		"zero method": {auth: ClientAuth{ID: id, Secret: key}, form: url.Values{"client_id": {id}}},
		"none":        {auth: ClientAuth{id, key, AuthNone}, form: url.Values{"client_id": {id}}},
		"post":        {auth: ClientAuth{id, key, AuthPost}, form: url.Values{"client_id": {id}, "client_secret": {key.Reveal()}}},
		"basic":       {auth: ClientAuth{id, key, AuthBasic}, user: "an+id%3A%C3%BC", pass: "p%26%3D%2B+%25%3Aw"},
	} {
		t.Run(name, func(t *testing.T) {
			var got url.Values
			var head http.Header
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got, _ = url.ParseQuery(string(body))
				head = r.Header
				_, _ = io.WriteString(w, goodAnswer)
			}))
			defer srv.Close()
			form := refreshForm()
			if _, err := RequestToken(t.Context(), nil, srv.URL+"/token?keep=1", form, tc.auth); err != nil {
				t.Fatal(err)
			}
			want := refreshForm()
			maps.Copy(want, tc.form)
			if got.Encode() != want.Encode() {
				t.Errorf("form %q, want %q", got.Encode(), want.Encode())
			}
			var basic string
			if tc.user != "" {
				basic = "Basic " + base64.StdEncoding.EncodeToString([]byte(tc.user+":"+tc.pass))
			}
			if head.Get("Authorization") != basic {
				t.Errorf("Authorization %q, want %q", head.Get("Authorization"), basic)
			}
			if head.Get("Accept") != "application/json" || head.Get("Content-Type") != "application/x-www-form-urlencoded" {
				t.Errorf("headers %v", head)
			}
			if form.Encode() != refreshForm().Encode() {
				t.Errorf("the caller's form became %q", form.Encode())
			}
		})
	}
}

func TestUnknownClientAuthenticationIsNotSent(t *testing.T) {
	_, err := RequestToken(t.Context(), nil, "http://127.0.0.1:1/", refreshForm(), ClientAuth{Method: "private_key_jwt"})
	wantOutcome(t, err, NotSent)
}

// wantOutcome returns err as what it must be.
func wantOutcome(t *testing.T, err error, want Outcome) *TokenError {
	t.Helper()
	var e *TokenError
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want a *TokenError", err, err)
	}
	if e.Outcome != want {
		t.Errorf("outcome %v, want %v: %v", e.Outcome, want, err)
	}
	return e
}

func TestTokenAnswers(t *testing.T) {
	defer clock.Advance(-time.Hour)()
	const (
		unknown = -1
		forever = -2
		capped  = time.Duration(10 * 365 * 24 * time.Hour)
	)
	for name, tc := range map[string]struct {
		answer        string // after the access token
		life, refresh time.Duration
	}{
		"number":             {`,"expires_in":1800,"refresh_expires_in":60`, 1800 * time.Second, 60 * time.Second},
		"string":             {`,"expires_in":"1800","refresh_expires_in":"60"`, 1800 * time.Second, 60 * time.Second},
		"float":              {`,"expires_in":1799.5,"refresh_expires_in":0.5`, 1799500 * time.Millisecond, 500 * time.Millisecond},
		"exponent":           {`,"expires_in":1.8e3,"refresh_expires_in":6E1`, 1800 * time.Second, 60 * time.Second},
		"huge":               {`,"expires_in":99999999999999999999,"refresh_expires_in":1e999`, capped, capped},
		"negative":           {`,"expires_in":-5,"refresh_expires_in":-5`, unknown, unknown},
		"zero":               {`,"expires_in":0,"refresh_expires_in":0`, unknown, forever},
		"zero in a string":   {`,"expires_in":"0","refresh_expires_in":"0"`, unknown, forever},
		"tiny":               {`,"expires_in":1e-30,"refresh_expires_in":1e-30`, 1, 1},
		"absent":             {``, unknown, unknown},
		"null":               {`,"expires_in":null,"refresh_expires_in":null`, unknown, unknown},
		"garbage":            {`,"expires_in":"soon","refresh_expires_in":[1]`, unknown, unknown},
		"object and NaN":     {`,"expires_in":{"s":1},"refresh_expires_in":"NaN"`, unknown, unknown},
		"empty strings":      {`,"expires_in":"","refresh_expires_in":""`, unknown, unknown},
		"Keycloak's members": {`,"expires_in":300,"refresh_expires_in":1800,"not-before-policy":0,"session_state":"x","id_token":"y"`, 300 * time.Second, 1800 * time.Second},
		"odd type of token":  {`,"token_type":7,"id_token":false,"scope":["a"]`, unknown, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			at := answer(t, 200, nil, `{"access_token":"a","refresh_token":"r"`+tc.answer+`}`)
			before := clock.Now()
			tok, err := RequestToken(t.Context(), nil, at, refreshForm(), public("c"))
			if err != nil {
				t.Fatal(err)
			}
			if tok.RequestedAt.Before(before) || tok.RequestedAt.After(clock.Now()) {
				t.Errorf("requested at %v, which is not now", tok.RequestedAt)
			}
			life := func(end time.Time) time.Duration {
				if end.IsZero() {
					return unknown
				}
				return end.Sub(tok.RequestedAt)
			}
			if got := life(tok.ExpiresAt); got != tc.life {
				t.Errorf("access token lives %v, want %v", got, tc.life)
			}
			refresh := life(tok.RefreshExpiresAt)
			if tok.RefreshForever {
				refresh = forever
			}
			if refresh != tc.refresh {
				t.Errorf("refresh token lives %v, want %v", refresh, tc.refresh)
			}
			if tok.AccessToken.Reveal() != "a" || tok.RefreshToken.Reveal() != "r" || tok.TokenType != "Bearer" || tok.ScopeStated {
				t.Errorf("got %+v", tok)
			}
		})
	}
}

func TestRefreshLifeWithoutRefreshToken(t *testing.T) {
	// Keycloak's answer to a client without refresh tokens.
	tok, err := parseToken([]byte(`{"access_token":"a","refresh_expires_in":0}`), clock.Now())
	if err != nil || tok.RefreshForever || !tok.RefreshToken.IsZero() {
		t.Errorf("got %+v, %v", tok, err)
	}
}

func TestScopes(t *testing.T) {
	for member, want := range map[string][]string{
		``: nil, `,"scope":null`: nil,
		`,"scope":""`: {}, `,"scope":" b  a "`: {"b", "a"},
	} {
		tok, err := parseToken([]byte(`{"access_token":"a"`+member+`}`), clock.Now())
		if err != nil || !slices.Equal(tok.Scopes, want) || tok.ScopeStated != (want != nil) {
			t.Errorf("%s: got %+v, %v", member, tok, err)
		}
	}
}

func TestAnswersByStatus(t *testing.T) {
	oauth := func(code string) string { return `{"error":"` + code + `","error_description":"why"}` }
	duplicate := &DuplicateError{}
	for name, tc := range map[string]struct {
		status  int
		body    string
		outcome Outcome
		code    string
		cause   any // error, or pointer for errors.As
	}{
		"empty 200":                    {200, ``, Unknown, "", ErrNotJSON},
		"204":                          {204, ``, Unknown, "", ErrNotJSON},
		"200 without token":            {200, `{}`, Unknown, "", ErrNoToken},
		"200 null":                     {200, `null`, Unknown, "", ErrNoToken},
		"200 array":                    {200, `[]`, Unknown, "", ErrNotJSON},
		"200 empty token":              {200, `{"access_token":""}`, Unknown, "", ErrNoToken},
		"200 number as token":          {200, `{"access_token":123456789}`, Unknown, "", ErrNoToken},
		"200 token with line break":    {200, `{"access_token":"a\nb"}`, Unknown, "", ErrNoToken},
		"200 token under another case": {200, `{"Access_Token":"a"}`, Unknown, "", ErrNoToken},
		"200 HTML":                     {200, `<html>`, Unknown, "", ErrNotJSON},
		"200 truncated":                {200, goodAnswer[:60], Unknown, "", ErrNotJSON},
		"200 trailing data":            {200, goodAnswer + `{}`, Unknown, "", ErrNotJSON},
		"200 duplicate":                {200, `{"access_token":"a","access_token":"b"}`, Unknown, "", &duplicate},
		"200 duplicate by case":        {200, `{"access_token":"a","ACCESS_TOKEN":"b"}`, Unknown, "", &duplicate},
		"200 DPoP":                     {200, `{"access_token":"a","token_type":"DPoP"}`, Unknown, "", ErrTokenType},
		"200 DPoP with error":          {200, `{"access_token":"a","token_type":"DPoP","error":"x"}`, Unknown, "x", ErrTokenType},
		"200 too large":                {200, goodAnswer + strings.Repeat(" ", maxBody), Unknown, "", ErrTooLarge},
		"200 with error":               {200, oauth("invalid_grant"), Refused, "invalid_grant", nil},
		"400 with error":               {400, oauth("invalid_grant"), Refused, "invalid_grant", nil},
		"400 HTML":                     {400, `<html>`, Refused, "", nil},
		"400 too large":                {400, strings.Repeat(" ", 2*maxBody), Refused, "", nil},
		"400 wrong types":              {400, `{"error":{"code":1},"error_description":2}`, Refused, "", nil},
		"400 with token":               {400, goodAnswer, Refused, "", nil},
		"401":                          {401, oauth("invalid_client"), Refused, "invalid_client", nil},
		"403":                          {403, ``, Refused, "", nil},
		"404":                          {404, `not here`, Refused, "", nil},
		"429":                          {429, ``, Refused, "", nil},
		"500":                          {500, ``, Unknown, "", nil},
		"500 with another error":       {500, oauth("server_error"), Unknown, "server_error", nil},
		"503":                          {503, `<html>`, Unknown, "", nil},
		"503 temporarily_unavailable":  {503, oauth("temporarily_unavailable"), Refused, "temporarily_unavailable", nil},
		"302":                          {302, ``, Refused, "", ErrRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RequestToken(t.Context(), nil, answer(t, tc.status, nil, tc.body), refreshForm(), public("c"))
			e := wantOutcome(t, err, tc.outcome)
			if e.Status != tc.status || e.Code != tc.code {
				t.Errorf("status %d code %q, want %d %q", e.Status, e.Code, tc.status, tc.code)
			}
			switch cause := tc.cause.(type) {
			case nil:
				if e.Err != nil {
					t.Errorf("cause %v, want none", e.Err)
				}
			case error:
				if !errors.Is(err, cause) {
					t.Errorf("cause %v, want %v", e.Err, cause)
				}
			default:
				if !errors.As(err, cause) {
					t.Errorf("cause %v, want %T", e.Err, cause)
				}
			}
		})
	}
}

func TestOddSuccessIsASuccess(t *testing.T) {
	for name, body := range map[string]string{
		"wrong status": `{"access_token":"a"}`,
		"bearer":       `{"access_token":"a","token_type":"bEARER"}`,
		"with error":   `{"access_token":"a","error":"invalid_grant"}`,
		"null members": `{"access_token":"a","token_type":null,"expires_in":null,"refresh_token":null,"scope":null}`,
		"wrong types":  `{"access_token":"a","token_type":[],"expires_in":{},"refresh_token":1,"scope":false}`,
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := RequestToken(t.Context(), nil, answer(t, 201, http.Header{"Content-Type": {"text/plain"}}, body), refreshForm(), public("c"))
			if err != nil || tok.AccessToken.Reveal() != "a" || !tok.RefreshToken.IsZero() {
				t.Errorf("got %+v, %v", tok, err)
			}
		})
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	const refresh, key, code, verifier = "refresh-secret-0", "client-secret-0", "code-secret-0", "verifier-secret-0"
	echo := `{"error":"invalid_grant ` + code + `","error_description":"` + strings.Join([]string{refresh, key, code, verifier}, " ") +
		`\u001b[2J\u202e` + strings.Repeat("ü", 500) + `"}`
	broken := raw(t, func(c net.Conn) { read(c) })
	form := refreshForm()
	form.Set("code", code)
	form.Set("code_verifier", verifier)
	for name, endpoint := range map[string]string{
		"refused":          answer(t, 400, nil, echo) + "?q=query-secret-0",
		"not sent":         "http://127.0.0.1:1/?q=query-secret-0",
		"lost":             "http://" + broken + "/?q=query-secret-0",
		"user information": "https://user:password-secret-0@as.example/",
		"fragment":         "https://as.example/#fragment-secret-0",
		"no address":       "https://user:password-secret-0@as.example/%zz\x7f",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RequestToken(t.Context(), nil, endpoint, form, ClientAuth{"c", secret.New(key), AuthPost})
			var e *TokenError
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			for _, s := range []string{err.Error(), fmt.Sprintf("%+v", *e), fmt.Sprintf("%#v", *e), fmt.Sprintf("%+v", e.Err)} {
				if strings.Contains(s, "secret-0") || strings.ContainsAny(s, "\x1b\u202e") {
					t.Errorf("shows a secret: %s", s)
				}
			}
			if n := len([]rune(e.Description)); n > 200 || name == "refused" && n != 200 {
				t.Errorf("description of %d characters", n)
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	var got url.Values
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r.PostForm
		if status != 200 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":"unsupported_token_type"}`)
		}
	}))
	defer srv.Close()
	if err := Revoke(t.Context(), nil, srv.URL, "tok", "refresh_token", public("c")); err != nil {
		t.Error(err)
	}
	want := url.Values{"token": {"tok"}, "token_type_hint": {"refresh_token"}, "client_id": {"c"}}
	if got.Encode() != want.Encode() {
		t.Errorf("form %q, want %q", got.Encode(), want.Encode())
	}
	status = 400
	err := Revoke(t.Context(), nil, srv.URL, "tok", "access_token", public("c"))
	if e := wantOutcome(t, err, Refused); e.Code != "unsupported_token_type" {
		t.Errorf("code %q", e.Code)
	}
}
