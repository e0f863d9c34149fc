package oauthhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// FuzzTokenAnswer holds, for whatever a token endpoint answers: it ends in a
// token or an error that says whether the request was carried out; a token's
// access token is the one that is written there and fits into a header; what
// expires does so after the request, when the answer says, and within bounds; a
// member that nobody knows changes nothing, and one that comes twice, in
// whatever case, ends it. No error and no print shows a secret.
func FuzzTokenAnswer(f *testing.F) {
	const canary = "secret-of-the-answer-0"
	for _, s := range []string{
		goodAnswer,
		// RFC 6749 §5.1 and §5.2.
		`{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600,"refresh_token":"` + canary + `","example_parameter":"example_value"}`,
		`{"access_token":"` + canary + `","token_type":"Bearer","expires_in":3600,"refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA"}`,
		`{"error":"invalid_request"}`,
		// The form of Keycloak's, of its offline tokens, and of oidc-provider's.
		`{"access_token":"` + canary + `","expires_in":1800,"refresh_expires_in":86400,"refresh_token":"e.y.r","token_type":"Bearer","id_token":"e.y.i","not-before-policy":0,"session_state":"2b6f","scope":"openid profile email"}`,
		`{"access_token":"e.y.a","expires_in":60,"refresh_expires_in":0,"refresh_token":"` + canary + `","token_type":"bearer","not-before-policy":1763700000,"scope":"openid offline_access"}`,
		`{"error":"invalid_grant","error_description":"Maximum allowed refresh token reuse exceeded"}`,
		`{"access_token":"a","expires_in":3600,"id_token":"i","scope":"openid","token_type":"Bearer"}`,
		`{"access_token":"a","expires_in":"1e999","refresh_token":"r","refresh_expires_in":0,"scope":" x "}`,
		`{"access_token":"a","expires_in":-0.0,"refresh_token":"r","refresh_expires_in":"-1"}`,
		`{"access_token":"a","expires_in":1e-12}`, `{"access_token":"a","expires_in":" 0x1p4 "}`, `{"access_token":"a","expires_in":"inf"}`,
		`{"access_token":"a","expires_in":[1800],"refresh_token":{"x":"` + canary + `"},"scope":null,"token_type":7}`,
		`{"access_token":"\u00e4"}`, `{"access_token":"a\nb: c"}`, `{"access_token":null}`, `{"Access_Token":"a"}`,
		`{"access_token":"a","Access_Token":"b"}`, `{"error":"invalid_grant","error_description":"\u001b"}`, `[`, `null`, ``,
		`{"access_token":"a","error":"invalid_grant"}`,
		`{"error":"refresh-\u0000secret-0","error_description":"client-\u202esecret-0` + strings.Repeat("é", 300) + `"}`,
		`{"error":"x","error_description":"` + strings.Repeat("x", 190) + `refresh-secret-0"}`,
		`{"access_token":"a","token_type":"refresh-\u0000secret-0"}`, `{"refresh-secret-0":1,"refresh-secret-0":1}`,
		`<html>`,
	} {
		f.Add(200, "", []byte(s))
		f.Add(400, "120", []byte(s))
	}
	f.Add(302, "", []byte(goodAnswer))
	f.Add(503, "Fri, 31 Dec 1999 23:59:59 GMT", []byte(`{"error":"temporarily_unavailable"}`))
	f.Add(429, "9223372036854775808", []byte(``))
	f.Add(429, "86400", []byte(`{"error":"slow_down"}`))
	f.Add(500, "Fri, 31 Dec 9999 23:59:59 GMT", []byte(`<h1>`))
	f.Add(101, "-1", []byte(`{}`))

	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		request := func(body []byte) (*Token, error) {
			hc := &http.Client{Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Method != "POST" || r.URL.String() != "https://as.example/token" {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				header := http.Header{"Location": {"https://evil.example/"}, "Retry-After": {retryAfter}}
				return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
			})}
			return RequestToken(t.Context(), hc, "https://as.example/token", refreshForm(), ClientAuth{"c", secret.New("client-secret-0"), AuthPost})
		}
		before := clock.Now()
		tok, err := request(body)
		if (tok == nil) == (err == nil) {
			t.Fatalf("%v, %v", tok, err)
		}
		// A secret can only be looked for where nothing else is called the same.
		shown := func(s string) bool {
			return strings.Count(string(body), canary) == 1 && strings.Contains(string(body), `_token":"`+canary) && strings.Contains(s, canary)
		}
		if err != nil {
			var e *TokenError
			if !errors.As(err, &e) {
				t.Fatalf("not a *TokenError: %v", err)
			}
			want := Unknown
			if status/100 == 3 || status/100 == 4 || e.Code == "temporarily_unavailable" && status/100 != 2 || status/100 == 2 && e.Code != "" && e.Err == nil {
				want = Refused
			}
			if e.Outcome != want || e.Status != status || e.RetryAfter < 0 || e.RetryAfter > time.Hour {
				t.Errorf("%d is %+v", status, e)
			}
			s := err.Error() + fmt.Sprintf("%+v %#v", *e, *e)
			if strings.Contains(s, "refresh-secret-0") || strings.Contains(s, "client-secret-0") || shown(s) || strings.ContainsAny(s, "\x00\x1b\u202e") || len(err.Error()) > 4000 {
				t.Errorf("the error %s", s)
			}
			if len([]rune(e.Code)) > 200 || len([]rune(e.Description)) > 200 {
				t.Errorf("error of %d and %d characters", len([]rune(e.Code)), len([]rune(e.Description)))
			}
			return
		}
		after := clock.Now()

		var said map[string]json.RawMessage
		if err := json.Unmarshal(body, &said); err != nil || status/100 != 2 {
			t.Fatalf("%d is accepted, and %v", status, err)
		}
		text := func(name string) (s string, ok bool) {
			ok = json.Unmarshal(said[name], &s) == nil && string(said[name]) != "null"
			return s, ok
		}
		access, _ := text("access_token")
		refresh, ok := text("refresh_token")
		if !ok {
			refresh = ""
		}
		if a := tok.AccessToken.Reveal(); a == "" || a != access || strings.ContainsFunc(a, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("access token %q of %s", a, body)
		}
		if got := tok.RefreshToken.Reveal(); got != refresh {
			t.Errorf("refresh token %q of %s", got, body)
		}
		if typ, ok := text("token_type"); tok.TokenType != "Bearer" || ok && !strings.EqualFold(typ, "bearer") {
			t.Errorf("token type %q, and %q", tok.TokenType, typ)
		}
		if scope, ok := text("scope"); ok != tok.ScopeStated || strings.Join(tok.Scopes, " ") != strings.Join(strings.Fields(scope), " ") && ok {
			t.Errorf("scopes %q of %s", tok.Scopes, body)
		}
		if tok.RequestedAt.Before(before) || tok.RequestedAt.After(after) {
			t.Errorf("requested at %v, between %v and %v", tok.RequestedAt, before, after)
		}
		for name, end := range map[string]time.Time{"expires_in": tok.ExpiresAt, "refresh_expires_in": tok.RefreshExpiresAt} {
			life := end.Sub(tok.RequestedAt)
			if end.IsZero() {
				life = 0
			} else if life <= 0 || life > maxLife {
				t.Errorf("a life of %v", life)
			}
			// Where the member is a number as JSON has it, it is that life.
			stated, ok := new(big.Float).SetString(strings.Trim(string(said[name]), `" `))
			if ok && json.Valid([]byte(strings.Trim(string(said[name]), `" `))) && (name == "expires_in" || refresh != "") {
				want, _ := stated.Float64()
				want = max(0, min(want, maxLife.Seconds()))
				if d := life.Seconds() - want; d < -1e-6*want-1e-8 || d > 1e-6*want+1e-8 {
					t.Errorf("%s %s is a life of %v", name, said[name], life)
				}
			}
		}
		if tok.RefreshForever && (tok.RefreshToken.IsZero() || !tok.RefreshExpiresAt.IsZero()) || !tok.ScopeStated && tok.Scopes != nil {
			t.Errorf("contradiction: %+v", tok)
		}
		if shown(fmt.Sprintf("%v %+v %#v", tok, *tok, *tok)) {
			t.Errorf("prints as %+v", *tok)
		}

		at := time.Unix(1_700_000_000, 0)
		more := func(member string) []byte {
			return append([]byte("{"+member+","), bytes.TrimLeft(body, " \t\r\n")[1:]...)
		}
		plain, err := parseToken(body, at)
		if again, err2 := parseToken(more(`"a name that no answer has":{"access_token":[1e999]}`), at); err != nil || err2 != nil || !reflect.DeepEqual(again, plain) {
			t.Errorf("with an unknown member: %+v, %v; without: %+v, %v", again, err2, plain, err)
		}
		if _, err := request(more(`"ACCESS_TO\u212aEN":"x"`)); !errors.As(err, new(*DuplicateError)) {
			t.Errorf("access_token twice: %v", err)
		}
	})
}

// FuzzUnmarshal holds that what is read is what encoding/json reads, unless two
// names of an object are equal without regard to case, at any depth.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{"a":1,"A":2}`, `{"a":{"b":[1,{"c":null}]},"d":"e"}`, `[{"x":1},{"x":1}]`, `{"k":1,"\u212a":2}`, `{"s":1,"\u017f":2}`, `{"a":1e999}`, `1 2`, "{\"\xff\":1,\"\xfe\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want any
		err, wantErr := Unmarshal(data, &got), json.Unmarshal(data, &want)
		var dup *DuplicateError
		switch refused := errors.As(err, &dup) || errors.Is(err, ErrTooDeep); {
		case err == nil && wantErr != nil, !refused && (err == nil) != (wantErr == nil):
			t.Fatalf("error %v, encoding/json: %v", err, wantErr)
		case err != nil:
			return
		case !reflect.DeepEqual(got, want):
			t.Fatalf("%v, encoding/json: %v", got, want)
		}
		// With no duplicate, all names are kept, and no two are equal.
		if names := count(t, got); names != strings.Count(string(reencode(t, data)), `":`) {
			t.Errorf("%d names in the value of %s", names, data)
		}
	})
}

// reencode drops what in the strings of data could be taken for a name's end.
func reencode(t *testing.T, data []byte) []byte {
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	return compactNames(raw)
}

// compactNames keeps the structure of JSON and empties its strings.
func compactNames(data []byte) (out []byte) {
	in := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case in && c == '\\':
			i++
		case c == '"':
			in = !in
			out = append(out, c)
		case !in && c > ' ':
			out = append(out, c)
		}
	}
	return out
}

func count(t *testing.T, v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += count(t, e)
		}
	case map[string]any:
		n = len(v)
		var names []string
		for name, e := range v {
			for _, other := range names {
				if strings.EqualFold(name, other) {
					t.Errorf("both %q and %q", name, other)
				}
			}
			names = append(names, name)
			n += count(t, e)
		}
	}
	return n
}
