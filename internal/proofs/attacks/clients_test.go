package attacks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const clientsGain = "a token for the honest server, and no page was shown that asks"

// clientsIgnored is an authorization server that does not look at resource, as Keycloak does not.
var clientsIgnored = sandbox.Options{IgnoreResource: true}

// clientsByHand is a client that was made by hand, and given to the program for every server.
func clientsByHand(v *clientsVictim) func(*mcpclient.Client) {
	return func(c *mcpclient.Client) { c.Registration.ClientID = v.srv.PublicClient() }
}

// clientsOwnApp is one that has a secret.
func clientsOwnApp(v *clientsVictim) func(*mcpclient.Client) {
	id, secret := v.srv.App()
	return func(c *mcpclient.Client) {
		c.Registration.ClientID, c.Registration.ClientSecret = id, tokenstore.NewSecret(secret)
	}
}

// clientsSilent plays the attack: Olivia has signed in to the honest server, then to a hostile one,
// and denies what she is asked for that.
func clientsSilent(t *testing.T, v *clientsVictim, change ...func(*mcpclient.Client)) (bool, string) {
	v.trusts(v.srv.URL(), change...)
	h := newClientsHostile(t, v.srv.Issuer())
	return v.tried(h, h.URL, v.tries(h.URL, change...))
}

// tried tells how an attack ended for whoever used the server at that address.
func (v *clientsVictim) tried(h *clientsHostile, server string, err error) (bool, string) {
	v.t.Helper()
	won := h.replays(v.t, v.srv.URL())
	seen := v.says(server)
	switch ae := new(authcode.AuthorizationError); {
	case won:
		seen += ", and the bearer opens the honest server"
	case errors.As(err, &ae) && ae.Denied():
		seen += ", and no bearer comes"
	default:
		seen += "; " + strings.ReplaceAll(clientsCause(err), server, "SERVER")
	}
	return won, seen
}

// clientsCause is the code of an OAuth error, or the error.
func clientsCause(err error) string {
	te, ae := new(authcode.TokenError), new(authcode.AuthorizationError)
	switch {
	case errors.As(err, &te) && te.Code != "":
		return te.Code
	case errors.As(err, &ae):
		return ae.Code
	case err == nil:
		return "the sign-in succeeds"
	}
	return err.Error()
}

const clientsServer = "a hostile MCP server that names the honest one's authorization server"

var clientsAttacks = slices.Concat([]attack{
	{
		id: "silent-token", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) { return clientsSilent(t, newClientsVictim(t, clientsIgnored)) },
	},
	{
		id: "silent-token-resource-enforced", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in; the authorization server checks `resource`.",
		play: func(t *testing.T) (bool, string) { return clientsSilent(t, newClientsVictim(t, sandbox.Options{})) },
	},
	{
		id: "silent-token-resource-known", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in, who approves; the authorization server knows the hostile server's resource too, and the token is for that one alone.",
		play: func(t *testing.T) (bool, string) {
			h := newClientsHostile(t, "")
			v := newClientsVictim(t, sandbox.Options{Resources: []string{h.URL}})
			h.serve(t, v.srv.Issuer())
			v.trusts(v.srv.URL())
			v.allows = true
			return v.tried(h, h.URL, v.tries(h.URL))
		},
	},
	{
		id: "silent-token-another-host", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server, which is at 127.0.0.1, sign in to `localhost`; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.trusts(v.srv.URL())
			h := newClientsHostile(t, v.srv.Issuer())
			server := strings.Replace(h.URL, "127.0.0.1", "localhost", 1)
			return v.tried(h, server, v.tries(server))
		},
	},
	{
		id: "silent-token-public-client-by-hand", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in, with one client made by hand for all servers; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			return clientsSilent(t, v, clientsByHand(v))
		},
	},
	{
		id: "silent-token-secret-client-by-hand", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in, with a confidential client made by hand; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			return clientsSilent(t, v, clientsOwnApp(v))
		},
	},
	{
		id: "silent-token-metadata-document", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in, with a client ID metadata document; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			var doc *httptest.Server
			doc = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"client_id":%q,"client_name":"Acme Notes","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`, doc.URL+r.URL.Path)
			}))
			t.Cleanup(doc.Close)
			return clientsSilent(t, v, func(c *mcpclient.Client) { c.Registration.ClientMetadataURL = doc.URL + "/client" })
		},
	},
	{
		id: "silent-token-client-by-hand-account", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in under another account name, with a client made by hand; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.trusts(v.srv.URL(), clientsByHand(v))
			h := newClientsHostile(t, v.srv.Issuer())
			return v.tried(h, h.URL, v.tries(h.URL, clientsByHand(v), func(c *mcpclient.Client) { c.Account = "work" }))
		},
	},
	{
		id: "silent-token-client-by-hand-offline", who: clientsServer, gains: clientsGain,
		does: "Has a user of the honest server sign in, who approved offline_access there, with a client made by hand; the authorization server ignores `resource`.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			return clientsSilent(t, v, clientsByHand(v), func(c *mcpclient.Client) { c.Scopes = []string{"offline_access"} })
		},
	},
	{
		id: "silent-token-client-by-hand-after-another-user", who: "a user of the web application, who signed in to the hostile server before", gains: clientsGain,
		does: "Signs in first with a client made by hand, so that its first question is not put to the victim.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsWeb(t, clientsIgnored)
			own := clientsOwnApp(v)
			h := newClientsHostile(t, v.srv.Issuer())
			v.allows = true
			if err := v.webTries(v.srv.URL(), own); err != nil {
				t.Fatal(err)
			}
			_ = v.webTries(h.URL, own, func(c *mcpclient.Client) { c.Account = "mallory" })
			h.bearers = nil // those were of the attacker's own session
			v.allows, v.asked = false, nil
			return v.tried(h, h.URL, v.webTries(h.URL, own))
		},
	},
	{
		id: "silent-token-web-application", who: clientsServer, gains: clientsGain,
		does: "Has a user of a web application, who uses the honest server there, sign in.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.allows = true
			if err := v.webTries(v.srv.URL()); err != nil {
				t.Fatal(err)
			}
			v.allows, v.asked = false, nil
			h := newClientsHostile(t, v.srv.Issuer())
			return v.tried(h, h.URL, v.webTries(h.URL))
		},
	},
	{
		id: "silent-token-web-application-by-hand", who: clientsServer, gains: clientsGain,
		does: "Has a user of a web application, who uses the honest server there, sign in with the application's own client.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsWeb(t, clientsIgnored)
			own := clientsOwnApp(v)
			v.allows = true
			if err := v.webTries(v.srv.URL(), own); err != nil {
				t.Fatal(err)
			}
			v.allows, v.asked = false, nil
			h := newClientsHostile(t, v.srv.Issuer())
			return v.tried(h, h.URL, v.webTries(h.URL, own))
		},
	},
	{
		id: "silent-token-old-registration", who: clientsServer, gains: clientsGain,
		does: "Has somebody sign in whose store holds an older version's client, which was approved and served all servers of the issuer.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.trusts(v.srv.URL())
			v.older()
			h := newClientsHostile(t, v.srv.Issuer())
			return v.tried(h, h.URL, v.tries(h.URL))
		},
	},
	{
		id: "silent-token-old-pending", who: clientsServer, gains: clientsGain,
		does: "Finishes a web application's sign-in that an older version began, with a client of other servers.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.allows = true
			h := newClientsHostile(t, v.srv.Issuer())
			older := func(c *mcpclient.Client) { c.Name, c.Registration.RedirectURL = "older", clientsCallback }
			address, pending, err := v.client(h.URL, older).BeginLogin(t.Context())
			if err == nil {
				err = v.open(t.Context(), address)
			}
			if err != nil {
				t.Fatal(err)
			}
			c := v.client(h.URL, func(c *mcpclient.Client) { c.Registration.RedirectURL, c.NonInteractive = clientsCallback, true })
			err = c.FinishLogin(t.Context(), pending, v.back)
			if err == nil {
				_, _ = c.Connect(t.Context())
			}
			if errors.Is(err, mcpclient.ErrPendingLogin) {
				return h.replays(t, v.srv.URL()), "it is refused, and is to be begun anew"
			}
			return h.replays(t, v.srv.URL()), clientsCause(err)
		},
	},
	{
		id: "silent-token-other-path", who: "a hostile tenant of the host that the honest server is on", gains: clientsGain,
		does: "Names the authorization server from another path of the honest server's origin; both paths share one client.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			api, err := url.Parse(v.srv.APIURL())
			if err != nil {
				t.Fatal(err)
			}
			h, honest := &clientsHostile{scopes: []string{"openid", "profile", "email"}}, new(clientsHostile)
			honest.scopes = h.scopes
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(api) }}
			mux := http.NewServeMux()
			mux.Handle("/evil/", h.at("/evil/mcp", v.srv.Issuer()))
			mux.Handle("/.well-known/oauth-protected-resource/evil/mcp", h.at("/evil/mcp", v.srv.Issuer()))
			mux.Handle("/.well-known/oauth-protected-resource/mcp", honest.at("/mcp", v.srv.Issuer()))
			mux.Handle("/mcp", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" {
					honest.at("/mcp", v.srv.Issuer()).ServeHTTP(w, r)
					return
				}
				proxy.ServeHTTP(w, r)
			}))
			host := httptest.NewServer(mux)
			t.Cleanup(host.Close)
			v.trusts(host.URL + "/mcp")
			return v.tried(h, host.URL+"/evil/mcp", v.tries(host.URL+"/evil/mcp"))
		},
	},
	{
		id: "silent-token-after-refusal", who: clientsServer + ", which refuses `prompt=consent`", gains: clientsGain,
		does:   "Has a user of the honest server sign in with a client made by hand.",
		stands: "No parameter of a client's makes such an authorization server ask. The command prints a warning, and `Client.Registration` names the danger. Clients that register themselves are safe.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.refuses = func(q url.Values) bool { return strings.Contains(q.Get("prompt"), "consent") }
			v.trusts(v.srv.URL(), clientsByHand(v))
			h := newClientsHostile(t, v.srv.Issuer())
			c := v.client(h.URL, clientsByHand(v))
			warned := false
			err := c.Login(t.Context(), &mcpclient.LoginOptions{OnWarning: func(err error) { warned = warned || errors.Is(err, mcpclient.ErrConsentNotAsked) }})
			if err == nil {
				_, _ = c.Connect(t.Context())
			}
			won, seen := v.tried(h, h.URL, err)
			if warned {
				seen += ", after a warning"
			}
			return won, seen
		},
	},
	{
		id: "consent-refused-by-scope", who: clientsServer, gains: clientsGain,
		does: "Names a scope that the authorization server refuses with `invalid_request`, so that a client made by hand leaves `prompt=consent` out; then names one that is accepted.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.trusts(v.srv.URL(), clientsByHand(v))
			v.refuses = func(q url.Values) bool { return strings.Contains(q.Get("scope"), "no-such-scope") }
			h := newClientsHostile(t, v.srv.Issuer())
			h.name("no-such-scope")
			first := v.tries(h.URL, clientsByHand(v))
			h.name("openid", "profile", "email")
			won, seen := v.tried(h, h.URL, v.tries(h.URL, clientsByHand(v)))
			return won, "first " + clientsCause(first) + ", then " + seen
		},
	},
	{
		id: "consent-refused-by-issuer-change", who: "a hostile MCP server", gains: clientsGain,
		does: "Has somebody sign in at an authorization server of its own with the honest one's client ID, and then names the honest one.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.trusts(v.srv.URL(), clientsByHand(v))
			own, err := sandbox.Start(sandbox.Options{IgnoreResource: true, AutoApprove: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = own.Close() })
			h := newClientsHostile(t, own.Issuer())
			_ = v.tries(h.URL, clientsByHand(v)) // all sandboxes have the same client ID
			h.mu.Lock()
			h.bearers = nil // those were of its own
			h.mu.Unlock()
			h.serve(t, v.srv.Issuer())
			return v.tried(h, h.URL, v.tries(h.URL, clientsByHand(v)))
		},
	},
	{
		id: "clients-filled", who: "a hostile series of 300 MCP servers", gains: "the authorization server has no room for another client",
		does: "Has the victim register a client for each server.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			return v.series(300, func(int) func(*mcpclient.Client) { return func(*mcpclient.Client) {} })
		},
	},
	{
		id: "clients-filled-by-names", who: "a hostile series of 30 MCP servers", gains: "the authorization server has no room for another client",
		does: "Has applications of several names and redirect addresses, on one store, register a client for each server.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			return v.series(30, func(i int) func(*mcpclient.Client) {
				return func(c *mcpclient.Client) {
					c.Name, c.Registration.RedirectURL = fmt.Sprint("application ", i%7), fmt.Sprintf("http://127.0.0.1/callback/%d", i%3)
				}
			})
		},
	},
	{
		id: "clients-filled-by-web-application", who: "a user of a web application", gains: "the authorization server has no room for another client",
		does: "Has the application begin sign-ins at 30 servers of one issuer.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			var err error
			for range 30 {
				h := newClientsHostile(t, v.srv.Issuer())
				_, _, err = v.client(h.URL, func(c *mcpclient.Client) { c.Registration.RedirectURL = clientsCallback }).BeginLogin(t.Context())
			}
			return v.filled(err)
		},
	},
	{
		id: "clients-filled-by-scope", who: clientsServer, gains: "the authorization server has no room for another client",
		does: "Names a scope for which the authorization endpoint has an error page, so that its client seems to be forgotten at each sign-in.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Status: http.StatusBadRequest, Match: func(r *http.Request) bool {
				return len(r.URL.Query().Get("scope")) > 1000
			}})
			h := newClientsHostile(t, v.srv.Issuer())
			h.name(strings.Repeat("long", 300))
			var err error
			for range 30 {
				_, _, err = v.client(h.URL, func(c *mcpclient.Client) { c.Registration.RedirectURL = clientsCallback }).BeginLogin(t.Context())
			}
			return v.filled(err)
		},
	},
	{
		id: "clients-locked-out", who: "a hostile series of ten MCP servers", gains: "nobody of the store can sign in to another server of that issuer for a day",
		does:   "Has the victim register a client for each server.",
		stands: "The victim has to sign in to all ten servers. The error says when the refusals end; clients made by hand are unaffected. The command's hint says both.",
		play: func(t *testing.T) (bool, string) {
			v := newClientsVictim(t, clientsIgnored)
			v.series(10, func(int) func(*mcpclient.Client) { return func(*mcpclient.Client) {} })
			v.allows = true
			err := v.tries(v.srv.URL())
			limit := new(mcpclient.RegistrationLimitError)
			if byHandErr := v.tries(v.srv.URL(), clientsByHand(v)); byHandErr != nil {
				return true, "a client made by hand does not help: " + byHandErr.Error()
			}
			if !errors.As(err, &limit) {
				return err != nil, clientsCause(err)
			}
			if left := time.Until(limit.Until); left > 24*time.Hour {
				return true, "it lasts longer than a day"
			}
			return true, "a registration is refused for a day at most, and a client made by hand signs in"
		},
	},
}, clientsNames())

// clientsNames are the attacks on what the page of consent says.
func clientsNames() (all []attack) {
	long := strings.Repeat("a.", 60)
	for _, c := range []struct{ id, app, server, host, does string }{
		{"plain", "astravue-mcp", "https://evil.example/mcp", "evil.example", "Has an ordinary host."},
		{"long", "astravue-mcp", "https://api.astravue.com." + long + "evil.example/mcp", "api.astravue.com." + long + "evil.example",
			"Has a host that begins like Astravue's and is so long that its end would be cut off."},
		{"long-label", "astravue-mcp", "https://api-astravue-com-" + strings.Repeat("x", 38) + ".evil.example/mcp", "api-astravue-com-" + strings.Repeat("x", 38) + ".evil.example",
			"Has a host of one long label."},
		{"long-application", strings.Repeat("Acme Notes ", 20), "https://api.astravue.com.evil.example/mcp", "api.astravue.com.evil.example",
			"Is used by an application whose name is so long that the host would be cut off."},
		{"both-long", strings.Repeat("Acme Notes ", 20), "https://api.astravue.com." + long + "evil.example:8443/mcp", "api.astravue.com." + long + "evil.example:8443",
			"Has a long host, and is used by an application with a long name."},
		{"unicode", "astravue-mcp", "https://аpi.аstrаvue.com/mcp", "xn--pi-6kc.xn--strvue-2nfd.com",
			"Has a host that looks like Astravue's, with three Cyrillic letters."},
		{"unicode-dots", "astravue-mcp", "https://api.astravue.com。evil.example/mcp", "api.astravue.com.evil.example",
			"Has a host with a Chinese full stop in it."},
		{"unicode-slash", "astravue-mcp", "https://api.astravue.com⁄.evil.example/mcp", "api.astravue.xn--com-qt0a.evil.example",
			"Has a host with a character that looks like a slash."},
		{"wide", "astravue-mcp", "https://ａｐｉ.astravue.com.evil.example/mcp", "api.astravue.com.evil.example", "Has a host with full-width letters."},
		{"bracket", "astravue-mcp", "https://api.astravue.com)(x.evil.example/mcp", "api.astravue.com%29%28x.evil.example", "Has a host with brackets in it."},
		{"encoded-bracket", "astravue-mcp", "https://api.astravue.com%EF%BC%89.evil.example/mcp", "api.astravue.xn--com-c16s.evil.example",
			"Has a host with a full-width bracket in it, written as %EF%BC%89."},
		{"case", "astravue-mcp", "https://API.Astravue.COM.Evil.Example/mcp", "api.astravue.com.evil.example", "Has a host with capitals."},
		{"port", "astravue-mcp", "https://api.astravue.com.evil.example:8443/mcp", "api.astravue.com.evil.example:8443", "Is at a port of its own."},
		{"port-zeros", "astravue-mcp", "https://evil.example:" + strings.Repeat("0", 60) + "443/mcp", "evil.example",
			"Has so many zeros before its port that the host would be cut off."},
		{"ipv6", "astravue-mcp", "https://[2001:db8:0:0:0:0:0:1]:8443/mcp", "[2001:db8::1]:8443", "Has an IP address as its host."},
		{"application-brackets", "Acme Notes (api.astravue.com)", "https://evil.example/mcp", "evil.example", "Is used by an application that has brackets in its name."},
		{"application-open-bracket", "Acme Notes （api.astravue.com", "https://evil.example/mcp", "evil.example",
			"Is used by an application with an open bracket of another script in its name."},
	} {
		all = append(all, attack{
			id: "client-name-" + c.id, who: clientsServer, gains: "a page of consent that names another server",
			does: c.does,
			play: func(t *testing.T) (bool, string) {
				name, err := clientsRegistered(t, c.app, c.server)
				if err != nil {
					return false, "it is refused: " + err.Error()
				}
				return clientsDeceives(name, c.host), fmt.Sprintf("the client is called %q", name)
			},
		})
	}
	return all
}

// clientsDeceives reports whether a client's name says anything but the end of its server's host.
func clientsDeceives(name, host string) bool {
	said, ok := strings.CutSuffix(name, ")")
	_, said, found := strings.Cut(said, " (")
	cut := strings.HasPrefix(said, "...")
	said = strings.TrimPrefix(said, "...")
	return !ok || !found || len([]rune(name)) > 64 || strings.Count(name, "(") != 1 || strings.ContainsAny(said, "()") ||
		strings.IndexFunc(said, func(r rune) bool { return r < '!' || r > '~' }) >= 0 ||
		!strings.HasSuffix(host, said) || !cut && said != host || cut && len(said) < 40
}

// series signs in to n hostile servers, and reports whether that has filled the issuer.
func (v *clientsVictim) series(n int, change func(i int) func(*mcpclient.Client)) (bool, string) {
	var err error
	for i := range n {
		err = v.tries(newClientsHostile(v.t, v.srv.Issuer()).URL, change(i))
	}
	return v.filled(err)
}

func (v *clientsVictim) filled(err error) (bool, string) {
	clients := v.srv.Counts().Clients
	limit := new(mcpclient.RegistrationLimitError)
	if !errors.As(err, &limit) {
		return clients > 10, fmt.Sprintf("%d clients are registered; %s", clients, clientsCause(err))
	}
	return clients > 10 || limit.Issuer != v.srv.Issuer(), fmt.Sprintf("%d clients are registered, and no more", clients)
}

// older makes of the registrations in the store what an older version has left: one for all
// servers, which the stored grant names.
func (v *clientsVictim) older() {
	v.t.Helper()
	const redirect = "http://127.0.0.1/callback"
	now := tokenstore.RegistrationKey(v.srv.Issuer(), "astravue-mcp", v.srv.APIURL(), redirect)
	then := tokenstore.Key(fmt.Sprintf("%q %q %q %q", "registration", v.srv.Issuer(), "astravue-mcp", redirect))
	r, err := v.store.Get(v.t.Context(), now)
	if err == nil {
		err = v.store.Delete(v.t.Context(), now)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	save := func(key tokenstore.Key, change func(tokenstore.Record) tokenstore.Record) {
		err := v.store.Update(v.t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			stored, err := l.Get(ctx)
			if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
				return err
			}
			_, err = l.Save(ctx, change(stored))
			return err
		})
		if err != nil {
			v.t.Fatal(err)
		}
	}
	save(then, func(tokenstore.Record) tokenstore.Record {
		r.Registration.Server = ""
		return r
	})
	save(tokenstore.GrantKey(v.srv.URL(), ""), func(stored tokenstore.Record) tokenstore.Record {
		stored.Grant.Registration = then
		return stored
	})
}
