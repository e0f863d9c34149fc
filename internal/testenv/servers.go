package testenv

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Everything starts the MCP project's own server-everything and returns the URL of its
// Streamable HTTP endpoint. It asks for no sign-in.
func Everything(t testing.TB) string {
	t.Helper()
	return node(t, "server-everything", "@modelcontextprotocol/server-everything/dist/transports/streamableHttp.js") + "/mcp"
}

// OIDCConfig says how [OIDCProvider] behaves. Refresh tokens are rotated, and a spent one
// ends the whole grant; registration, its management, and revocation are open.
type OIDCConfig struct {
	// Resource is the one resource indicator that is known, required: access tokens for it are
	// JWTs with it as their audience, those for none are opaque, any other is invalid_target.
	Resource string

	// Scopes are what the resource knows besides openid and offline_access; with none, "mcp".
	Scopes []string

	// AccessTTL and RefreshTTL are lifetimes, in whole seconds; zero is 30 minutes and 24 hours.
	AccessTTL, RefreshTTL time.Duration

	// OfflineOnly gives refresh tokens for the scope offline_access alone, which it takes from
	// requests with prompt=consent alone. Otherwise every client that registered the grant
	// refresh_token gets one.
	OfflineOnly bool

	// NoRegistration switches dynamic registration off.
	NoRegistration bool

	// Clients are registered from the start, as RFC 7591 metadata with client_id.
	Clients []map[string]any

	// Issuer is the origin of a proxy in front of the provider, which passes on the Host of
	// requests. With none, the provider is its own.
	Issuer string
}

// OIDC is a running oidc-provider.
type OIDC struct {
	Issuer string // an origin, without a path
	Origin string // where it listens: Issuer, but for a proxy
}

// OIDCProvider starts the npm oidc-provider, a certified OpenID provider that holds all in memory
// and signs in whoever asks, under any name: see [OIDC.SignIn].
func OIDCProvider(t testing.TB, cfg OIDCConfig) *OIDC {
	t.Helper()
	if cfg.Resource == "" {
		t.Fatal("testenv.OIDCConfig.Resource is required")
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{"mcp"}
	}
	if cfg.AccessTTL == 0 {
		cfg.AccessTTL = 30 * time.Minute
	}
	if cfg.RefreshTTL == 0 {
		cfg.RefreshTTL = 24 * time.Hour
	}
	cfg.AccessTTL /= time.Second
	cfg.RefreshTTL /= time.Second
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	origin := node(t, "oidc-provider", "oidc-provider.mjs", "OIDC_CONFIG="+string(config))
	return &OIDC{Issuer: cmp.Or(cfg.Issuer, origin), Origin: origin}
}

// SignIn opens the authorization URL in a browser of [Chromium], signs user in, consents, and
// returns when the browser has left the provider for the redirect address. It is an error if
// the provider shows a page of its own instead.
func (o *OIDC) SignIn(browser context.Context, authorizationURL, user string) error {
	return o.answer(browser, authorizationURL,
		chromedp.SendKeys(chromedp.CSS(`input[name=login]`), user),
		chromedp.SendKeys(chromedp.CSS(`input[name=password]`), "any"),
		chromedp.Click(chromedp.CSS(`button[type=submit]`)),
		chromedp.Click(chromedp.CSS(`input[value=consent] ~ button[type=submit]`)),
		chromedp.WaitNotPresent(chromedp.CSS(`input[value=consent]`)),
	)
}

// Deny is like [OIDC.SignIn], for a user who cancels instead of signing in.
func (o *OIDC) Deny(browser context.Context, authorizationURL string) error {
	return o.answer(browser, authorizationURL,
		chromedp.Click(chromedp.CSS(`a[href$="/abort"]`)),
		chromedp.WaitNotPresent(chromedp.CSS(`a[href$="/abort"]`)),
	)
}

func (o *OIDC) answer(browser context.Context, authorizationURL string, steps ...chromedp.Action[chromedp.Void]) error {
	page, err := chromedp.Run(browser, chromedp.NavigateResponse(authorizationURL))
	if err != nil {
		return fmt.Errorf("open the provider's page: %w", err)
	}
	if page.Status != http.StatusOK {
		return fmt.Errorf("the provider answers %d", page.Status)
	}
	if err := chromedp.Do(browser, steps...); err != nil {
		return fmt.Errorf("use the provider's pages: %w", err)
	}
	at, err := chromedp.Run(browser, chromedp.Location())
	if err != nil {
		return fmt.Errorf("leave the provider's pages: %w", err)
	}
	if strings.HasPrefix(at, o.Issuer) {
		return errors.New("the provider does not redirect")
	}
	return nil
}
