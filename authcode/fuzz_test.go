package authcode_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/secret"
)

// FuzzCheck holds that a code is accepted exactly where the callback has our
// state once, the issuer that was asked wherever it names one, each other
// parameter at most once, no error, and a code; that the first of these which
// fails is what the error is about; and that no error shows state or code.
func FuzzCheck(f *testing.F) {
	const state, canary = "the-state-of-this-sign-in", "code-of-this-sign-in"
	for _, s := range []string{
		// RFC 6749 §4.1.2 and §4.1.2.1, RFC 9207 §2.1.
		"code=SplxlOBeZQQYbYS6WxSbIA&state=" + state,
		"error=access_denied&state=" + state,
		"code=x1848ZT64p4IirMPT0R-X3141MFPTuBX-VFL_cvaplMH58&state=" + state + "&iss=https%3A%2F%2Fauth.example.com%2Frealms%2Fx",
		// The forms of Keycloak's and of oidc-provider's.
		"state=" + state + "&session_state=6a1f&iss=https://auth.example.com/realms/x&code=0a1b.6a1f.9c2d",
		"error=access_denied&error_description=End-User+aborted+interaction&state=" + state + "&iss=https://auth.example.com/realms/x",
		"state=" + state + "&iss=https://auth.example.com/realms/x/&code=CODE",
		"state=" + state + "&state=" + state + "&code=a&code=b;c",
		"state=" + state + "&error=&code=CODE",
		"state=" + state + "&code=CODE&x=1&x=2",
		"state=The-state-of-this-sign-in&code=CODE",
		"state=" + state + "&error=a%1b[2Jb%0a%e2%80%ae&error_description=" + strings.Repeat("%c3%a9", 300),
		"state=" + state + "&error=x&error_description=" + state,
		"state=" + state + "&error=the-state-%00of-this-sign-in&error_description=" + strings.Repeat("x", 190) + state,
		"state=" + state + "&code=" + canary + "&error=x&error_description=" + canary,
		"state=" + state + "&code=" + canary + "&iss=" + state,
		"code=CODE", "state=&code=CODE", "state=%zz&code=CODE", "",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, raw string, supported bool) {
		query, _ := url.ParseQuery(raw) // as net/http has it: what can be read
		code, err := authcode.Check{State: secret.New(state), Issuer: issuer, IssSupported: supported}.Code(query)
		if code.IsZero() == (err == nil) {
			t.Fatalf("Code = %q, %v", code.Reveal(), err)
		}
		doubled := false
		for _, values := range query {
			doubled = doubled || len(values) > 1
		}
		foreign := func(iss string) bool { return iss != issuer }
		var other *authcode.IssuerError
		var refused *authcode.AuthorizationError
		var right bool
		switch {
		case !slices.Equal(query["state"], []string{state}):
			right = errors.Is(err, authcode.ErrState)
		case slices.ContainsFunc(query["iss"], foreign), supported && !query.Has("iss"):
			right = errors.As(err, &other) && other.Want == issuer && other.Got != issuer
		case doubled:
			right = errors.Is(err, authcode.ErrNoCode)
		case query.Has("error"):
			right = errors.As(err, &refused)
		case query.Get("code") == "":
			right = errors.Is(err, authcode.ErrNoCode)
		default:
			right = code.Reveal() == query.Get("code")
		}
		if !right {
			t.Errorf("%q is %q, %v", raw, code.Reveal(), err)
		}
		if err == nil {
			return
		}
		s := err.Error()
		if refused != nil {
			s += fmt.Sprintf("%+v %#v", *refused, *refused)
		}
		if strings.ContainsAny(s, "\x00\x1b\u202e") || len(s) > 10_000 {
			t.Errorf("the error %s", s)
		}
		if strings.Contains(s, state) || query.Get("code") == canary && strings.Contains(s, canary) {
			t.Errorf("the error shows a secret: %s", s)
		}
	})
}

// FuzzRequestURL holds, for whatever a server states: the address is one of RFC
// 3986 with nothing in it that a shell acts on but the & that separates
// parameters, is read as the endpoint's scheme, host and path with the
// endpoint's parameters and ours, and each word that follows an & is one of our
// parameters or no name of a command.
func FuzzRequestURL(f *testing.F) {
	for _, s := range []string{
		"https://auth.example.com/auth", "https://auth.example.com/auth?x=$(id)", "https://auth.example.com/auth?a=1&reboot", "https://auth.example.com/auth?a&=b",
		"https://auth.example.com/a'b;c`d|e/%2F?q=\"'<>{}^\\&%zz", "http://127.0.0.1:80/a b?a=b%26c", "https://[2001:DB8::1]:443?x", "https://b\u00fccher.example./\u202e?\u0085=\u202e",
		"https://auth.example.com/?Request_URI=x", "https://auth.example.com/~a/../!$&'()*+,;=:@?~=%7e%25&/:@!$'()*,",
	} {
		f.Add(s, "client", "a b", "https://api.example.com/mcp")
	}
	f.Add("https://auth.example.com/", "$(id)`id`", "openid;id\n|x", "https://h/&reboot #'")
	f.Fuzz(func(t *testing.T, endpoint, clientID, scope, resource string) {
		s, err := authcode.Request{
			Endpoint: endpoint, ClientID: clientID, RedirectURI: "http://127.0.0.1:3142/callback", State: secret.New("STATE"),
			CodeChallenge: "CHALLENGE", Scopes: []string{scope}, Resource: resource,
		}.URL()
		if err != nil {
			return
		}
		given, _ := url.Parse(endpoint)
		u, err := url.Parse(s)
		if err != nil || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q: %v", s, err)
		}
		before, query, _ := strings.Cut(s, "?")
		rest := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~%", r) {
				return -1
			}
			return r
		}, s)
		if i := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune(":/@+,=[]?&", r) }); i >= 0 {
			t.Errorf("%q of %q", rest[i:], s)
		}
		if strings.ContainsAny(before, "&") || strings.ContainsAny(query, ":/@,[]?") || strings.ContainsAny(u.EscapedPath(), "[]") {
			t.Errorf("what belongs into another part: %q", s)
		}
		if u.Scheme != given.Scheme || u.Path != given.Path {
			t.Errorf("%q is opened as %q", endpoint, s)
		}
		want, _ := url.ParseQuery(given.RawQuery)
		got, err := url.ParseQuery(query)
		if err != nil {
			t.Errorf("%q: %v", query, err)
		}
		words := strings.Split(query, "&")
		for i, word := range words {
			name, _, ok := strings.Cut(word, "=")
			ours := slices.Contains([]string{"client_id", "code_challenge", "code_challenge_method", "redirect_uri", "resource", "response_type", "scope", "state"}, name)
			if !ok || !ours && i > 0 && name[0] != '%' {
				t.Errorf("the word %q of %q", word, s)
			}
			if ours {
				if len(got[name]) != 1 {
					t.Errorf("%s comes %d times in %q", name, len(got[name]), s)
				}
				delete(got, name)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("parameters %q, want %q", got, want)
		}
		if got := u.Query(); got.Get("client_id") != clientID || got.Get("scope") != scope || got.Get("resource") != resource || got.Get("state") != "STATE" {
			t.Errorf("ours are %q", got)
		}
	})
}
