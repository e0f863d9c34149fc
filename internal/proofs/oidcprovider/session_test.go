package oidcprovider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// TestSession goes through a whole session, with a person's browser: registration, resource
// indicators, rotation with reuse detection, and revocation. The client talks to the provider
// itself, and not to a proxy.
func TestSession(t *testing.T) {
	rs := testenv.JWKSServer(t)
	as := testenv.OIDCProvider(t, testenv.OIDCConfig{Resource: rs.URL, AccessTTL: 3 * time.Second})
	rs.Trust(t, as.Issuer, "mcp")
	browser := testenv.Chromium(t)

	var mu sync.Mutex
	var spendable, tokenEndpoint string
	refreshes := 0
	watched := testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		body, r, err := testenv.ReadBody(r)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			form, _ := url.ParseQuery(string(body))
			mu.Lock()
			if form.Get("grant_type") == "refresh_token" {
				refreshes++
				tokenEndpoint = r.URL.String()
			}
			if form.Get("token_type_hint") == "refresh_token" {
				spendable = form.Get("token") // the one that is stored at the end
			}
			mu.Unlock()
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	store, opened := &tokenstore.Memory{}, 0
	c := &mcpclient.Client{
		Name: "Acme Notes", Server: rs.URL, Store: store, Transport: watched, SignInTimeout: 90 * time.Second,
		OpenBrowser: func(_ context.Context, url string) error {
			opened++
			err := as.SignIn(browser, url, "olivia")
			testenv.Screenshot(t, browser, "signed-in")
			return err
		},
	}
	defer c.Close()
	session := connect(t, c)
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil || len(tools.Tools) != 1 {
		t.Fatalf("tools: %+v, %v", tools, err)
	}
	if err := call(t, session); err != nil {
		t.Error(err)
	}

	// Two lives later the session is the same.
	for range 2 {
		time.Sleep(3500 * time.Millisecond)
		if err := call(t, session); err != nil {
			t.Error(err)
		}
	}
	st, err := c.Status(t.Context())
	if err != nil || !st.SignedIn || !st.Refreshable || st.Issuer != as.Issuer || st.Resource != rs.URL {
		t.Errorf("Status: %+v, %v", st, err)
	}

	res, err := c.Logout(t.Context())
	if err != nil || res.Revocation != mcpclient.Revoked || res.Err != nil {
		t.Errorf("Logout: %+v, %v", res, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if refreshes < 2 || opened != 1 {
		t.Errorf("%d refreshes, browser opened %d times", refreshes, opened)
	}
	resp, err := http.PostForm(tokenEndpoint, url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {spendable}, "client_id": {st.ClientID}, "resource": {rs.URL},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "invalid_grant") {
		t.Errorf("the refresh token lives on: %d", resp.StatusCode)
	}
	if accepted, refused := rs.Tokens(); accepted < 3 || refused > 1 { // one is the request without any
		t.Errorf("%d tokens were accepted, %d requests refused", accepted, refused)
	}
}

// TestDenied has the user cancel on the provider's page.
func TestDenied(t *testing.T) {
	rs := testenv.JWKSServer(t)
	as := testenv.OIDCProvider(t, testenv.OIDCConfig{Resource: rs.URL})
	rs.Trust(t, as.Issuer, "mcp")
	browser := testenv.Chromium(t)
	c := &mcpclient.Client{
		Name: "Acme Notes", Server: rs.URL, Store: &tokenstore.Memory{}, SignInTimeout: 60 * time.Second,
		OpenBrowser: func(_ context.Context, url string) error { return as.Deny(browser, url) },
	}
	defer c.Close()
	_, err := c.Connect(t.Context())
	if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || !ae.Denied() {
		t.Errorf("Connect: %v", err)
	}
}
