package authcode_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/secret"
)

const issuer = "https://auth.example.com/realms/x"

func request() authcode.Request {
	return authcode.Request{
		Endpoint:      "https://auth.example.com/auth",
		ClientID:      "client",
		RedirectURI:   "http://127.0.0.1:3142/callback",
		State:         secret.New("STATE"),
		CodeChallenge: "CHALLENGE",
	}
}

func TestRequestURL(t *testing.T) {
	least := url.Values{
		"response_type": {"code"}, "client_id": {"client"}, "redirect_uri": {"http://127.0.0.1:3142/callback"},
		"state": {"STATE"}, "code_challenge": {"CHALLENGE"}, "code_challenge_method": {"S256"},
	}
	with := func(more url.Values) url.Values {
		out := maps.Clone(least)
		maps.Copy(out, more)
		return out
	}
	for _, test := range []struct {
		name   string
		change func(*authcode.Request)
		prefix string
		want   url.Values
	}{
		{"least", func(*authcode.Request) {}, "https://auth.example.com/auth?", least},
		{"all", func(r *authcode.Request) {
			r.Scopes, r.Resource, r.Prompt, r.LoginHint = []string{"a", "b"}, "https://API.example.com/mcp", "consent", "me@example.com"
		}, "https://auth.example.com/auth?", with(url.Values{"scope": {"a b"}, "resource": {"https://API.example.com/mcp"}, "prompt": {"consent"}, "login_hint": {"me@example.com"}})},
		{"standing query", func(r *authcode.Request) { r.Endpoint += "?tenant=%41&x" }, "https://auth.example.com/auth?tenant=A&%78=&", with(url.Values{"tenant": {"A"}, "x": {""}})},
		{"standing query of other characters", func(r *authcode.Request) { r.Endpoint += "?x=$(id)&y={a}|é+%7e" }, "https://auth.example.com/auth?x=%24%28id%29&%79=%7Ba%7D%7C%C3%A9+~&", with(url.Values{"x": {"$(id)"}, "y": {"{a}|é ~"}})},
		{"standing parameter twice", func(r *authcode.Request) { r.Endpoint += "?&x=1&&x=2&" }, "https://auth.example.com/auth?x=1&%78=2&", with(url.Values{"x": {"1", "2"}})},
		{"path of other characters", func(r *authcode.Request) { r.Endpoint += "/a'b$(c)/[é]/%2f~a" }, "https://auth.example.com/auth/a%27b%24%28c%29/%5B%C3%A9%5D/%2f~a?", least},
		{"host of other spelling", func(r *authcode.Request) { r.Endpoint = "HTTPS://AUTH.Bücher.Example.:0443/auth" }, "https://auth.xn--bcher-kva.example/auth?", least},
		{"empty standing query", func(r *authcode.Request) { r.Endpoint += "?" }, "https://auth.example.com/auth?", least},
		{"web application", func(r *authcode.Request) { r.RedirectURI = "https://app.example.com/cb" }, "https://auth.example.com/auth?", with(url.Values{"redirect_uri": {"https://app.example.com/cb"}})},
		{"loopback server", func(r *authcode.Request) { r.Endpoint = "http://127.0.0.1:1/auth" }, "http://127.0.0.1:1/auth?", least},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request()
			test.change(&r)
			s, err := r.URL()
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(s)
			if err != nil || !strings.HasPrefix(s, test.prefix) {
				t.Fatalf("URL = %s, %v", s, err)
			}
			if got, err := url.ParseQuery(u.RawQuery); err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("query %v, %v\n want %v", got, err, test.want)
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	for name, change := range map[string]func(*authcode.Request){
		"no endpoint":          func(r *authcode.Request) { r.Endpoint = "" },
		"http endpoint":        func(r *authcode.Request) { r.Endpoint = "http://auth.example.com/" },
		"script":               func(r *authcode.Request) { r.Endpoint = "javascript:alert(1)" },
		"file":                 func(r *authcode.Request) { r.Endpoint = "file://localhost/x" },
		"fragment":             func(r *authcode.Request) { r.Endpoint += "#x" },
		"our state":            func(r *authcode.Request) { r.Endpoint += "?state=x" },
		"our name, not sent":   func(r *authcode.Request) { r.Endpoint += "?resource=x" },
		"our name, encoded":    func(r *authcode.Request) { r.Endpoint += "?%73tate=x" },
		"malformed query":      func(r *authcode.Request) { r.Endpoint += "?a;b" },
		"malformed name":       func(r *authcode.Request) { r.Endpoint += "?a%z=b" },
		"no name":              func(r *authcode.Request) { r.Endpoint += "?a=1&=b" },
		"no host name":         func(r *authcode.Request) { r.Endpoint = "https://a'b/auth" },
		"no client":            func(r *authcode.Request) { r.ClientID = "" },
		"no state":             func(r *authcode.Request) { r.State = secret.Secret{} },
		"no PKCE":              func(r *authcode.Request) { r.CodeChallenge = "" },
		"no redirect":          func(r *authcode.Request) { r.RedirectURI = "" },
		"redirect over http":   func(r *authcode.Request) { r.RedirectURI = "http://app.example.com/cb" },
		"redirect to a script": func(r *authcode.Request) { r.RedirectURI = "javascript:alert(1)" },
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			change(&r)
			s, err := r.URL()
			if err == nil || s != "" {
				t.Errorf("URL = %q, %v", s, err)
			}
			if err != nil && strings.Contains(err.Error(), "STATE") {
				t.Errorf("the error shows the state: %v", err)
			}
		})
	}
}

func TestStandingParameterRefused(t *testing.T) {
	for _, name := range []string{
		"state", "scope", "prompt", "resource", "login_hint", "request", "request_uri", "response_mode",
		"Request_URI", "re%71uest", "reque%C5%BFt", "request.uri", "request+uri", "request[uri", "+request", "request%00x", "response.mode[]", "%20response_mode",
	} {
		for _, query := range []string{"?" + name + "=x", "?a=1&" + name, "?a=1&" + name + "=x&b=2"} {
			r := request()
			r.Endpoint += query
			var e *authcode.ParameterError
			if _, err := r.URL(); !errors.As(err, &e) {
				t.Errorf("%s: %v", query, err)
			}
		}
	}
	for _, name := range []string{"requested", "request_urn", "audience", "kc_idp_hint", "access_type", "p"} {
		r := request()
		r.Endpoint += "?" + name + "=x"
		if _, err := r.URL(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewState(t *testing.T) {
	a, b := authcode.NewState(), authcode.NewState()
	if a.Equal(b) || len(a.Reveal()) < 22 || url.QueryEscape(a.Reveal()) != a.Reveal() {
		t.Errorf("states %q and %q", a.Reveal(), b.Reveal())
	}
}

func TestCheck(t *testing.T) {
	type wanted = func(code string, err error) bool
	ok := func(code string, err error) bool { return err == nil && code == "CODE" }
	is := func(want error) wanted {
		return func(code string, err error) bool { return code == "" && errors.Is(err, want) }
	}
	from := func(got string) wanted {
		return func(code string, err error) bool {
			var e *authcode.IssuerError
			return code == "" && errors.As(err, &e) && *e == authcode.IssuerError{Want: issuer, Got: got}
		}
	}
	refused := func(errorCode, description string) wanted {
		return func(code string, err error) bool {
			var e *authcode.AuthorizationError
			return code == "" && errors.As(err, &e) && *e == authcode.AuthorizationError{Code: errorCode, Description: description}
		}
	}
	right := "&iss=" + url.QueryEscape(issuer)
	for _, test := range []struct {
		name      string
		supported bool
		query     string
		want      wanted
	}{
		{"code", false, "state=STATE&code=CODE", ok},
		{"other parameters", false, "session_state=x&state=STATE&code=CODE", ok},

		{"nothing", false, "", is(authcode.ErrState)},
		{"no state", false, "code=CODE", is(authcode.ErrState)},
		{"empty state", false, "state=&code=CODE", is(authcode.ErrState)},
		{"wrong state", false, "state=STATF&code=CODE", is(authcode.ErrState)},
		{"state in another case", false, "state=state&code=CODE", is(authcode.ErrState)},
		{"longer state", false, "state=STATEE&code=CODE", is(authcode.ErrState)},
		{"right state twice", false, "state=STATE&state=STATE&code=CODE", is(authcode.ErrState)},
		{"right state and wrong", false, "state=STATE&state=x&code=CODE", is(authcode.ErrState)},
		{"state before issuer", true, "state=x&code=CODE&iss=https://evil.example", is(authcode.ErrState)},
		{"state before error", false, "state=x&error=access_denied", is(authcode.ErrState)},

		// The four cases of the specification, and their neighbours.
		{"promised and right", true, "state=STATE&code=CODE" + right, ok},
		{"promised and wrong", true, "state=STATE&code=CODE&iss=https://evil.example", from("https://evil.example")},
		{"promised and missing", true, "state=STATE&code=CODE", from("")},
		{"promised and empty", true, "state=STATE&code=CODE&iss=", from("")},
		{"not promised and right", false, "state=STATE&code=CODE" + right, ok},
		{"not promised and wrong", false, "state=STATE&code=CODE&iss=https://evil.example", from("https://evil.example")},
		{"not promised and empty", false, "state=STATE&code=CODE&iss=", from("")},
		{"slash after it", false, "state=STATE&code=CODE" + right + "/", from(issuer + "/")},
		{"host in another case", false, "state=STATE&code=CODE&iss=https://AUTH.example.com/realms/x", from("https://AUTH.example.com/realms/x")},
		{"right and wrong", true, "state=STATE&code=CODE&iss=https://evil.example" + right, from("https://evil.example")},
		{"right twice", true, "state=STATE&code=CODE" + right + right, is(authcode.ErrNoCode)},
		{"error of another issuer", false, "state=STATE&error=access_denied&error_description=lies&iss=https://evil.example", from("https://evil.example")},
		{"error without the promised issuer", true, "state=STATE&error=access_denied", from("")},

		{"denied", true, "state=STATE&error=access_denied&error_description=no+thanks" + right, refused("access_denied", "no thanks")},
		{"error without description", false, "state=STATE&error=server_error", refused("server_error", "")},
		{"empty error", false, "state=STATE&error=&code=CODE", refused("", "")},
		{"error and code", false, "state=STATE&error=access_denied&code=CODE", refused("access_denied", "")},
		{"error that moves the cursor", false, "state=STATE&error=a%1b[2Jb%0a%e2%80%ae", refused("a[2Jb", "")},
		{"long description", false, "state=STATE&error=x&error_description=" + strings.Repeat("é", 1000), refused("x", strings.Repeat("é", 199)+"…")},
		{"error twice", false, "state=STATE&error=a&error=b", is(authcode.ErrNoCode)},

		{"no code", false, "state=STATE", is(authcode.ErrNoCode)},
		{"empty code", false, "state=STATE&code=", is(authcode.ErrNoCode)},
		{"code twice", false, "state=STATE&code=CODE&code=CODE", is(authcode.ErrNoCode)},
		{"any other parameter twice", false, "state=STATE&code=CODE&x=1&x=2", is(authcode.ErrNoCode)},
	} {
		t.Run(test.name, func(t *testing.T) {
			query, err := url.ParseQuery(test.query)
			if err != nil {
				t.Fatal(err)
			}
			code, err := authcode.Check{State: secret.New("STATE"), Issuer: issuer, IssSupported: test.supported}.Code(query)
			if !test.want(code.Reveal(), err) {
				t.Errorf("Code = %q, %v", code.Reveal(), err)
			}
			if err != nil && (strings.Contains(err.Error(), "STATE") || strings.Contains(err.Error(), "CODE")) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	t.Run("zero Check", func(t *testing.T) {
		for _, q := range []url.Values{{}, {"state": {""}, "code": {"CODE"}}} {
			if _, err := (authcode.Check{}).Code(q); !errors.Is(err, authcode.ErrState) {
				t.Errorf("%v: %v", q, err)
			}
		}
	})
	t.Run("Denied", func(t *testing.T) {
		for code, want := range map[string]bool{"access_denied": true, "server_error": false, "": false} {
			if got := (&authcode.AuthorizationError{Code: code}).Denied(); got != want {
				t.Errorf("Denied of %q = %v", code, got)
			}
		}
	})
}

// tokenServer answers every request with status and body, and tells what it got.
func tokenServer(t *testing.T, status int, body string) (endpoint string, got func() []url.Values) {
	var forms []url.Values
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		form := maps.Clone(r.PostForm)
		if id, password, ok := r.BasicAuth(); ok {
			form.Set("basic", id+":"+password)
		}
		forms = append(forms, form)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []url.Values { srv.Close(); return forms } // Close waits for the handler
}

func TestExchange(t *testing.T) {
	least := url.Values{"grant_type": {"authorization_code"}, "code": {"CODE"}, "redirect_uri": {"http://127.0.0.1:3142/callback"}, "code_verifier": {"VERIFIER"}}
	for _, test := range []struct {
		name     string
		client   authcode.ClientAuth
		resource string
		want     url.Values
	}{
		{"public", authcode.ClientAuth{ID: "id"}, "", url.Values{"client_id": {"id"}}},
		{"resource byte for byte", authcode.ClientAuth{ID: "id"}, "HTTPS://API.example.com:443/mcp", url.Values{"client_id": {"id"}, "resource": {"HTTPS://API.example.com:443/mcp"}}},
		{"secret in the body", authcode.ClientAuth{ID: "id", Secret: secret.New("s"), Method: "client_secret_post"}, "", url.Values{"client_id": {"id"}, "client_secret": {"s"}}},
		{"secret in the header", authcode.ClientAuth{ID: "id", Secret: secret.New("s"), Method: "client_secret_basic"}, "", url.Values{"basic": {"id:s"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			endpoint, got := tokenServer(t, 200, `{"access_token":"ACCESS","token_type":"Bearer","refresh_token":"REFRESH"}`)
			token, err := authcode.Exchange{
				Endpoint:    endpoint,
				Client:      test.client,
				Code:        secret.New("CODE"),
				RedirectURI: "http://127.0.0.1:3142/callback",
				Verifier:    secret.New("VERIFIER"),
				Resource:    test.resource,
			}.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if token.AccessToken.Reveal() != "ACCESS" || token.RefreshToken.Reveal() != "REFRESH" {
				t.Error("not the tokens of the answer")
			}
			maps.Copy(test.want, least)
			if forms := got(); len(forms) != 1 || !reflect.DeepEqual(forms[0], test.want) {
				t.Errorf("sent %v\nwant %v", forms, test.want)
			}
		})
	}
	t.Run("refused once", func(t *testing.T) {
		endpoint, got := tokenServer(t, 400, `{"error":"invalid_grant"}`)
		_, err := authcode.Exchange{Endpoint: endpoint, Code: secret.New("CODE"), Verifier: secret.New("VERIFIER")}.Token(t.Context())
		var e *authcode.TokenError
		if !errors.As(err, &e) || e.Code != "invalid_grant" {
			t.Errorf("got %v", err)
		}
		if n := len(got()); n != 1 {
			t.Errorf("the code was sent %d times", n)
		}
	})
	t.Run("incomplete", func(t *testing.T) {
		endpoint, got := tokenServer(t, 200, `{"access_token":"ACCESS"}`)
		for _, e := range []authcode.Exchange{
			{Endpoint: endpoint, Verifier: secret.New("VERIFIER")},
			{Endpoint: endpoint, Code: secret.New("CODE")},
		} {
			if token, err := e.Token(t.Context()); err == nil || token != nil {
				t.Errorf("got %v, %v", token, err)
			}
		}
		if n := len(got()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}
