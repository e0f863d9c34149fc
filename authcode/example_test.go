package authcode_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/secret"
)

func ExampleRequest_URL() {
	u, err := authcode.Request{
		Endpoint:      "https://auth.example.com/auth",
		ClientID:      "notes",
		RedirectURI:   "http://127.0.0.1:20142/callback",
		State:         secret.New("af0ifjsldkj"), // authcode.NewState()
		CodeChallenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
		Scopes:        []string{"openid", "email"},
		Resource:      "https://api.example.com/mcp",
	}.URL()
	if err != nil {
		fmt.Println(err)
		return
	}
	parsed, _ := url.Parse(u)
	fmt.Println(parsed.Host, parsed.Query().Get("resource"), parsed.Query().Get("code_challenge_method"))
	// Output: auth.example.com https://api.example.com/mcp S256
}

func ExampleCheck_Code() {
	check := authcode.Check{
		State:        secret.New("af0ifjsldkj"),
		Issuer:       "https://auth.example.com",
		IssSupported: true,
	}
	for _, callback := range []string{
		"state=af0ifjsldkj&iss=https://auth.example.com&code=SplxlOBeZQQYbYS6WxSbIA",
		"state=af0ifjsldkj&iss=https://auth.example.com&error=access_denied",
		"state=af0ifjsldkj&iss=https://evil.example&error=access_denied",
		"code=SplxlOBeZQQYbYS6WxSbIA",
	} {
		query, _ := url.ParseQuery(callback)
		code, err := check.Code(query)
		var refused *authcode.AuthorizationError
		switch {
		case errors.Is(err, authcode.ErrState):
			fmt.Println("not ours: keep waiting")
		case errors.As(err, &refused) && refused.Denied():
			fmt.Println("the user said no")
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println("code:", code)
		}
	}
	// Output:
	// code: [redacted]
	// the user said no
	// authcode: the callback is from "https://evil.example", want "https://auth.example.com"
	// not ours: keep waiting
}

func ExampleExchange_Token() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.FormValue("grant_type"), r.FormValue("resource"))
		fmt.Fprint(w, `{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":1800}`)
	}))
	defer server.Close()

	token, err := authcode.Exchange{
		Endpoint:    server.URL,
		Client:      authcode.ClientAuth{ID: "notes"},
		Code:        secret.New("SplxlOBeZQQYbYS6WxSbIA"),
		RedirectURI: "http://127.0.0.1:20142/callback",
		Verifier:    secret.New("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
		Resource:    "https://api.example.com/mcp",
	}.Token(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(token.AccessToken, token.ExpiresAt.Sub(token.RequestedAt))
	// Output:
	// authorization_code https://api.example.com/mcp
	// [redacted] 30m0s
}
