package testenv

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func TestEverythingServesTools(t *testing.T) {
	session := connect(t, Everything(t), "")
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	if !slices.Contains(names, "echo") {
		t.Errorf("no tool echo among %q", names)
	}
}

// TestOIDCProvider walks through the provider's answers by hand, so that a test of this module
// that fails against it is known to be wrong about itself.
func TestOIDCProvider(t *testing.T) {
	rs := JWKSServer(t)
	as := OIDCProvider(t, OIDCConfig{Resource: rs.URL, AccessTTL: 2 * time.Second})
	rs.Trust(t, as.Issuer, "mcp")

	var metadata struct {
		Issuer                        string
		Registration_endpoint         string
		Authorization_endpoint        string
		Token_endpoint                string
		Revocation_endpoint           string
		Code_challenge_methods        []string `json:"code_challenge_methods_supported"`
		Authorization_response_issuer bool     `json:"authorization_response_iss_parameter_supported"`
	}
	getJSON(t, as.Issuer+"/.well-known/openid-configuration", &metadata)
	if metadata.Issuer != as.Issuer || !slices.Contains(metadata.Code_challenge_methods, "S256") || !metadata.Authorization_response_issuer {
		t.Fatalf("metadata: %+v", metadata)
	}

	redirected := make(chan url.Values, 1)
	callback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			redirected <- r.URL.Query()
		}
	}))
	defer callback.Close()
	live := callback.URL + "/callback"
	const portless = "http://127.0.0.1/callback" // the port is free (RFC 8252 §7.3)

	body, _ := json.Marshal(map[string]any{
		"client_name": "walk", "application_type": "native", "redirect_uris": []string{portless},
		"token_endpoint_auth_method": "none", "grant_types": []string{"authorization_code", "refresh_token"},
	})
	res, err := http.Post(metadata.Registration_endpoint, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var client struct {
		Client_id, Client_secret, Registration_access_token string
	}
	if err := json.NewDecoder(res.Body).Decode(&client); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("register: %s, %v", res.Status, err)
	}
	if client.Client_id == "" || client.Client_secret != "" || client.Registration_access_token == "" {
		t.Fatalf("registered %+v", client)
	}

	const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	sum := sha256.Sum256([]byte(verifier))
	authorization := func(change url.Values) string {
		q := url.Values{
			"response_type": {"code"}, "client_id": {client.Client_id}, "redirect_uri": {live},
			"scope": {"openid mcp"}, "state": {"the state"}, "resource": {rs.URL},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		}
		maps.Copy(q, change)
		return metadata.Authorization_endpoint + "?" + q.Encode()
	}
	post := func(endpoint string, form url.Values) (status int, answer map[string]any) {
		t.Helper()
		form.Set("client_id", client.Client_id)
		res, err := http.PostForm(endpoint, form)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		json.NewDecoder(res.Body).Decode(&answer) // a revocation answers with nothing
		return res.StatusCode, answer
	}

	browser := Chromium(t)
	signIn := func(change url.Values) map[string]any {
		t.Helper()
		// A profile without cookies each time: a session of the provider's would skip its first page.
		page, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
		defer cancel()
		if err := as.SignIn(page, authorization(change), "olivia"); err != nil {
			t.Fatal(err)
		}
		answer := <-redirected
		if answer.Get("state") != "the state" || answer.Get("iss") != as.Issuer {
			t.Fatalf("redirected with %v", answer)
		}
		status, token := post(metadata.Token_endpoint, url.Values{
			"grant_type": {"authorization_code"}, "code": {answer.Get("code")}, "redirect_uri": {live},
			"code_verifier": {verifier}, "resource": {rs.URL},
		})
		if status != http.StatusOK {
			t.Fatalf("exchange: %d %v", status, token)
		}
		return token
	}
	refresh := func(token any, resource ...string) (int, map[string]any) {
		t.Helper()
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fmt.Sprint(token)}}
		if len(resource) > 0 {
			form["resource"] = resource
		}
		return post(metadata.Token_endpoint, form)
	}

	t.Run("tokens expire, rotate, and a spent one ends the grant", func(t *testing.T) {
		token := signIn(nil)
		who := func(token map[string]any) string {
			session := connect(t, rs.URL, token["access_token"].(string))
			result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
			if err != nil {
				t.Fatal(err)
			}
			return result.Content[0].(*mcp.TextContent).Text
		}
		if got := who(token); got != "olivia" {
			t.Errorf("whoami: %q", got)
		}
		time.Sleep(3 * time.Second)
		if status := ping(t, rs.URL, token["access_token"].(string)); status != http.StatusUnauthorized {
			t.Errorf("an expired token is answered %d", status)
		}
		status, second := refresh(token["refresh_token"], rs.URL)
		if status != http.StatusOK || second["refresh_token"] == token["refresh_token"] {
			t.Fatalf("refresh: %d, rotated: %t", status, second["refresh_token"] != token["refresh_token"])
		}
		if got := who(second); got != "olivia" {
			t.Errorf("whoami after the refresh: %q", got)
		}
		if status, answer := refresh(token["refresh_token"], rs.URL); answer["error"] != "invalid_grant" {
			t.Errorf("reuse: %d %v", status, answer)
		}
		if status, answer := refresh(second["refresh_token"], rs.URL); answer["error"] != "invalid_grant" {
			t.Errorf("refresh after reuse: %d %v", status, answer)
		}
		if accepted, refused := rs.Tokens(); accepted != 2 || refused != 1 {
			t.Errorf("%d tokens accepted, %d requests refused", accepted, refused)
		}
	})

	t.Run("without resource at refresh the token is opaque", func(t *testing.T) {
		token := signIn(nil)
		status, second := refresh(token["refresh_token"])
		if access, _ := second["access_token"].(string); status != http.StatusOK || strings.Contains(access, ".") {
			t.Errorf("refresh: %d %v", status, second["error"])
		}
	})

	t.Run("revocation takes the refresh token, not the JWT", func(t *testing.T) {
		token := signIn(url.Values{"scope": {"openid mcp offline_access"}, "prompt": {"consent"}})
		if token["scope"] != "mcp" {
			t.Errorf("scope %q, want the resource's alone", token["scope"])
		}
		access, spent := url.Values{"token": {token["access_token"].(string)}}, url.Values{"token": {token["refresh_token"].(string)}}
		if status, answer := post(metadata.Revocation_endpoint, access); status != http.StatusBadRequest || answer["error"] != "unsupported_token_type" {
			t.Errorf("revoke the access token: %d %v", status, answer)
		}
		if status, answer := post(metadata.Revocation_endpoint, spent); status != http.StatusOK {
			t.Errorf("revoke the refresh token: %d %v", status, answer)
		}
		if status, answer := refresh(token["refresh_token"], rs.URL); answer["error"] != "invalid_grant" {
			t.Errorf("refresh after revocation: %d %v", status, answer)
		}
	})

	t.Run("a user who cancels", func(t *testing.T) {
		page, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
		defer cancel()
		if err := as.Deny(page, authorization(nil)); err != nil {
			t.Fatal(err)
		}
		if answer := <-redirected; answer.Get("error") != "access_denied" || answer.Get("iss") != as.Issuer {
			t.Errorf("redirected with %v", answer)
		}
	})

	t.Run("a redirect address that is not registered", func(t *testing.T) {
		for _, address := range []string{
			strings.Replace(live, "127.0.0.1", "localhost", 1), strings.Replace(live, "/callback", "/cb", 1),
		} {
			if err := as.SignIn(browser, authorization(url.Values{"redirect_uri": {address}}), "olivia"); err == nil {
				t.Errorf("%s is accepted", address)
			}
		}
	})

	t.Run("an unknown resource", func(t *testing.T) {
		page, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
		defer cancel()
		chromedp.Do(page, chromedp.Navigate(authorization(url.Values{"resource": {"https://other.example/mcp"}})))
		if answer := <-redirected; answer.Get("error") != "invalid_target" {
			t.Errorf("redirected with %v", answer)
		}
	})
}

func connect(t *testing.T, endpoint, token string) *mcp.ClientSession {
	t.Helper()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "walk", Version: "1"}, nil).Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint:             endpoint,
		HTTPClient:           &http.Client{Transport: bearer(token)},
		DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

func ping(t *testing.T, endpoint, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", endpoint, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := bearer(token).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// bearer sends the token that it is with every request.
type bearer string

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if b != "" {
		req.Header.Set("Authorization", "Bearer "+string(b))
	}
	return http.DefaultTransport.RoundTrip(req)
}
