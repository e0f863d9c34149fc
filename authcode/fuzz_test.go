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
