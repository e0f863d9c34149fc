package keycloak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// signedIn is a run that has signed in as user.
func signedIn(t *testing.T, k *testenv.KeycloakServer, user string) *run {
	t.Helper()
	r := newRun(t, k, newBrowser(user).open)
	r.login()
	return r
}

// renew has the next process refresh, which must go well or need a sign-in.
func (r *run) renew() error {
	r.t.Helper()
	r.expire()
	session, err := r.again().Connect(r.t.Context())
	if err == nil {
		session.Close()
	}
	return err
}

func (r *run) mustRenew() {
	r.t.Helper()
	if err := r.renew(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) mustNeedLogin() {
	r.t.Helper()
	if err := r.renew(); !errors.Is(err, mcpclient.ErrLoginRequired) {
		r.t.Errorf("a refresh ends with %v", err)
	}
}

func TestIssuerWithPath(t *testing.T) {
	k := testenv.Keycloak(t, "")
	found := func(t *testing.T, r *run) string {
		t.Helper()
		d, err := r.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d.Configuration.Issuer != k.Issuer {
			t.Errorf("issuer %s", d.Configuration.Issuer)
		}
		return d.Configuration.AuthorizationServerURL
	}

	t.Run("with path insertion", func(t *testing.T) {
		r := newRun(t, k, nil)
		if at := found(t, r); at != k.Origin+"/.well-known/oauth-authorization-server/realms/astravue" {
			t.Errorf("found at %s", at)
		}
	})
	t.Run("behind a proxy for realms alone", func(t *testing.T) {
		r := newRun(t, k, newBrowser("olivia").open)
		r.Transport = testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.HasPrefix(k.Origin, "http://"+req.URL.Host) && !strings.HasPrefix(req.URL.Path, "/realms/") {
				// The page of an application that answers everything.
				return answer(req, http.StatusOK, "text/html", "<!doctype html><title>Astravue</title>"), nil
			}
			return http.DefaultTransport.RoundTrip(req)
		})
		if at := found(t, r); at != k.Issuer+"/.well-known/openid-configuration" {
			t.Errorf("found at %s", at)
		}
		whoami(t, r.connect())
	})

	// As Astravue documents it: the MCP server's host serves the metadata, of endpoints that live
	// in the realm.
	origin := strings.TrimSuffix(k.MCP.URL, "/mcp")
	documented := testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
		if strings.HasPrefix(req.URL.Path, "/.well-known/oauth-protected-resource") {
			doc, _ := json.Marshal(object{"resource": k.MCP.URL, "authorization_servers": []string{origin}})
			return answer(req, http.StatusOK, "application/json", string(doc)), nil
		}
		return http.DefaultTransport.RoundTrip(req)
	})
	t.Run("metadata at the server's root", func(t *testing.T) {
		r := newRun(t, k, newBrowser("olivia").open)
		r.Transport, r.Issuer = documented, k.Issuer
		if at := found(t, r); at != origin+"/.well-known/oauth-authorization-server" {
			t.Errorf("found at %s", at)
		}
		whoami(t, r.connect())
	})
	t.Run("metadata at the server's root, of an issuer that was not named", func(t *testing.T) {
		r := newRun(t, k, nil)
		r.Transport = documented
		mismatch := new(discovery.MismatchError)
		if _, err := r.Discover(t.Context()); !errors.As(err, &mismatch) || mismatch.Field != "issuer" || mismatch.Got != k.Issuer {
			t.Errorf("%v", err)
		}
	})
}

func answer(req *http.Request, status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status), Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

// TestResourceIgnored: by default it is a client scope that decides on the audience.
func TestResourceIgnored(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := newRun(t, k, newBrowser("olivia").open)
	r.Resource = "https://nobody.example/mcp"
	whoami(t, r.connect())
}

// TestWrongAudience: another sign-in would bring the same token, so there is none.
func TestWrongAudience(t *testing.T) {
	k := testenv.Keycloak(t, "")
	other := testenv.JWKSServer(t)
	other.Trust(t, k.Issuer, "openid", "profile", "email")
	r := newRun(t, k, newBrowser("olivia").open)
	r.Server = other.URL
	_, err := r.Connect(t.Context())
	refused := new(mcpclient.TokenRefusedError)
	if !errors.As(err, &refused) || refused.Resource != other.URL || refused.Issuer != k.Issuer {
		t.Errorf("%v", err)
	}
	if n := r.browsers(); n != 1 {
		t.Errorf("%d browsers were opened", n)
	}

	term := newTerminal(t, other.URL)
	term.must(func(address string) { newBrowser("olivia").open(t.Context(), address) }, "login", "--no-browser")
	if code, hint := term.run(nil, "tools").hint(); code != "token_refused" || !strings.Contains(hint, "audience") {
		t.Errorf("the command says %s: %s", code, hint)
	}

	// What the administrator does.
	a := asAdmin(t, k)
	var scopes []struct{ ID, Name string }
	a.do("GET", "/client-scopes", nil, &scopes)
	i := slices.IndexFunc(scopes, func(s struct{ ID, Name string }) bool { return s.Name == "mcp" })
	mappers := "/client-scopes/" + scopes[i].ID + "/protocol-mappers/models"
	a.do("POST", mappers, object{
		"name": "second", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
		"config": object{"included.custom.audience": other.URL, "access.token.claim": "true"},
	}, nil)
	t.Cleanup(func() {
		var all []struct{ ID, Name string }
		a.do("GET", mappers, nil, &all)
		for _, m := range all {
			if m.Name == "second" {
				a.do("DELETE", mappers+"/"+m.ID, nil, nil)
			}
		}
	})
	r.login()
	whoami(t, r.connect())
}

// TestRegistrationRefused: what each policy that can refuse us says, and what the user is told.
func TestRegistrationRefused(t *testing.T) {
	k := testenv.Keycloak(t, "")
	a := asAdmin(t, k)
	for _, c := range []struct {
		name, provider string
		config         object
		policy         string
	}{
		{"no trusted hosts, as preset", "trusted-hosts", object{
			"trusted-hosts": []string{}, "host-sending-registration-request-must-match": []string{"true"}, "client-uris-must-match": []string{"true"},
		}, "Trusted Hosts"},
		{"the computer is trusted, its redirect address is not", "trusted-hosts", object{
			"trusted-hosts": []string{"astravue.example"}, "host-sending-registration-request-must-match": []string{"false"}, "client-uris-must-match": []string{"true"},
		}, "Trusted Hosts"},
		{"as many clients as there may be", "max-clients", object{"max-clients": []string{strconv.Itoa(a.clients())}}, "Max Clients Limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			asAdmin(t, k).change(a.policy(c.provider), object{"config": c.config})
			r := newRun(t, k, newBrowser("olivia").open)
			_, err := r.Connect(t.Context())
			refused := new(dcr.Error)
			if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || refused.Policy != c.policy {
				t.Errorf("%v", err)
			}
			if errors.Is(err, mcpclient.ErrLoginRequired) || r.browsers() != 0 {
				t.Errorf("it is taken for something that a sign-in mends: %v", err)
			}
			got := newTerminal(t, k.MCP.URL).run(nil, "login", "--no-browser")
			code, hint := got.hint()
			if code != "registration_refused" || !strings.Contains(hint, "--client-id") || !strings.Contains(got.stderr, c.policy) {
				t.Errorf("the command says %s", got.stderr)
			}
		})
	}
}

// TestScopeInRegistration is why none is sent.
func TestScopeInRegistration(t *testing.T) {
	k := testenv.Keycloak(t, "")
	a := asAdmin(t, k)
	r := newRun(t, k, newBrowser("olivia").open)
	d, err := r.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	register := func(metadata object) (status int, scopes []string, answer object) {
		t.Helper()
		body, _ := json.Marshal(metadata)
		res, err := httpClient.Post(d.Configuration.AuthorizationServer.RegistrationEndpoint, "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		if id, ok := answer["client_id"].(string); ok {
			var defaults []struct{ Name string }
			path := a.client(id)
			a.do("GET", path+"/default-client-scopes", nil, &defaults)
			for _, s := range defaults {
				scopes = append(scopes, s.Name)
			}
			a.do("DELETE", path, nil, nil)
		}
		return res.StatusCode, scopes, answer
	}
	metadata := object{"client_name": "scopes", "redirect_uris": []string{"http://127.0.0.1/callback"}}
	if status, scopes, _ := register(metadata); status != http.StatusCreated || !slices.Contains(scopes, "mcp") {
		t.Errorf("without scope: %d, %q", status, scopes)
	}
	metadata["scope"] = "offline_access"
	if status, scopes, answer := register(metadata); status != http.StatusCreated || slices.Contains(scopes, "mcp") {
		t.Errorf("with scope the audience is kept: %d, %q, %v", status, scopes, answer)
	}
	metadata["scope"] = "openid nonsense"
	status, _, answer := register(metadata)
	if description, _ := answer["error_description"].(string); status != http.StatusForbidden || !strings.Contains(description, "Allowed Client Scopes") {
		t.Errorf("with an unknown scope: %d %v", status, answer)
	}
}

// TestErrorPage: Keycloak shows a page and redirects nowhere, and the wait ends all the same.
func TestErrorPage(t *testing.T) {
	k := testenv.Keycloak(t, "")
	for _, c := range []struct {
		name         string
		registration mcpclient.Registration
	}{
		{"unknown client", mcpclient.Registration{ClientID: "nobody"}},
		{"redirect address that is not registered", mcpclient.Registration{ClientID: "public", RedirectURL: "http://localhost/callback"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var page error
			seen := make(chan struct{})
			r := newRun(t, k, func(ctx context.Context, address string) error {
				defer close(seen)
				page = newBrowser("olivia").open(ctx, address)
				return page
			})
			r.Registration, r.SignInTimeout = c.registration, 3*time.Second
			err := r.Login(t.Context(), nil)
			step := new(mcpclient.StepError)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &step) || step.Step != mcpclient.StepCallback {
				t.Errorf("%v", err)
			}
			if <-seen; !errors.Is(page, errNoRedirect) {
				t.Errorf("the browser saw %v", page)
			}
		})
	}
	code, hint := newTerminal(t, k.MCP.URL).run(nil, "login", "--no-browser", "--client-id", "nobody", "--timeout", "2s").hint()
	if code != "timeout" || !strings.Contains(hint, "error page") {
		t.Errorf("the command says %s: %s", code, hint)
	}
}

// TestIssExcluded: the metadata promises iss for every client, so one for which it is switched
// off cannot sign in.
func TestIssExcluded(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := newRun(t, k, newBrowser("olivia").open)
	r.Registration.ClientID = "without-iss"
	issuer := new(authcode.IssuerError)
	if err := r.Login(t.Context(), nil); !errors.As(err, &issuer) || issuer.Want != k.Issuer || issuer.Got != "" {
		t.Errorf("%v", err)
	}
	got := newTerminal(t, k.MCP.URL).run(func(address string) { newBrowser("olivia").open(t.Context(), address) },
		"login", "--no-browser", "--client-id", "without-iss")
	if code, hint := got.hint(); code != "issuer_mismatch" || !strings.Contains(hint, "administrator") {
		t.Errorf("the command says %s", got.stderr)
	}
}

// TestScopeNotAssigned: scopes_supported lists every scope of the realm, of which a client may
// have few.
func TestScopeNotAssigned(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := newRun(t, k, newBrowser("olivia").open)
	r.Scopes = []string{"openid", "unassigned"}
	d, err := r.Discover(t.Context())
	if err != nil || !slices.Contains(d.Configuration.AuthorizationServer.ScopesSupported, "unassigned") || slices.Contains(d.Configuration.Scopes, "unassigned") {
		t.Fatalf("%+v, %v", d, err)
	}
	denied := new(authcode.AuthorizationError)
	if err := r.Login(t.Context(), nil); !errors.As(err, &denied) || denied.Code != "invalid_scope" {
		t.Errorf("%v", err)
	}
}

// TestConsentDenied: anonymous registration has the user asked, who may say no.
func TestConsentDenied(t *testing.T) {
	k := testenv.Keycloak(t, "")
	b := newBrowser("olivia")
	b.deny = true
	r := newRun(t, k, b.open)
	denied := new(authcode.AuthorizationError)
	if err := r.Login(t.Context(), nil); !errors.As(err, &denied) || !denied.Denied() {
		t.Errorf("%v", err)
	}
}

func TestOfflineAccess(t *testing.T) {
	k := testenv.Keycloak(t, "")
	a := asAdmin(t, k)
	offline := func(t *testing.T, user string) (*run, error) {
		r := newRun(t, k, newBrowser(user).open)
		r.Scopes = []string{"offline_access"}
		return r, r.Login(t.Context(), nil)
	}
	t.Run("with the role", func(t *testing.T) {
		r, err := offline(t, "olivia")
		if err != nil {
			t.Fatal(err)
		}
		g := r.grant()
		if !g.RefreshForever || !g.RefreshExpiresAt.IsZero() || !slices.Contains(g.ScopesGranted, "offline_access") {
			t.Errorf("refresh_expires_in 0 is read as %t, %s; granted are %q", g.RefreshForever, g.RefreshExpiresAt, g.ScopesGranted)
		}
		// It outlives the browser's session. (To log the user out would also end what was issued in
		// an earlier second: "Stale token".)
		var sessions []struct{ ID string }
		a.do("GET", a.user("olivia")+"/sessions", nil, &sessions)
		for _, s := range sessions {
			a.do("DELETE", "/sessions/"+s.ID, nil, nil)
		}
		r.mustRenew()
		if g := r.grant(); !g.RefreshForever {
			t.Error("after the refresh it is forever no more")
		}
		if res, err := r.Logout(t.Context()); err != nil || res.Revocation != mcpclient.Revoked {
			t.Errorf("logout: %+v, %v", res, err)
		}
		if status, _ := refreshStatus(t, g); status != http.StatusBadRequest {
			t.Errorf("after the logout a refresh is answered %d", status)
		}
	})
	t.Run("without the role", func(t *testing.T) {
		// It is asked for in vain, and found out at the very end.
		r, err := offline(t, "mia")
		refused := new(authcode.TokenError)
		if !errors.As(err, &refused) || refused.Code != "not_allowed" {
			t.Errorf("%v", err)
		}
		if st, err := r.Status(t.Context()); err != nil || st.SignedIn {
			t.Errorf("status: %+v, %v", st, err)
		}
	})
}

// TestRotationOff: a refresh token stays good, and is used again.
func TestRotationOff(t *testing.T) {
	k := testenv.Keycloak(t, "")
	asAdmin(t, k).change("", object{"revokeRefreshToken": false})
	r := signedIn(t, k, "olivia")
	first := r.grant()
	r.mustRenew()
	r.mustRenew()
	if status, description := refreshStatus(t, first); status != http.StatusOK {
		t.Errorf("the first refresh token: %d %q", status, description)
	}
	r.mustRenew()
}

// TestReuse: a refresh token that comes a second time ends the session, and the good one with it.
func TestReuse(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := signedIn(t, k, "olivia")
	first := r.grant()
	r.mustRenew()
	if status, description := refreshStatus(t, first); status != http.StatusBadRequest || description != "Maximum allowed refresh token reuse exceeded" {
		t.Errorf("reuse: %d %q", status, description)
	}
	r.mustNeedLogin()
}

// TestEnded: an administrator ends things, and only a sign-in helps.
func TestEnded(t *testing.T) {
	k := testenv.Keycloak(t, "")
	for _, c := range []struct {
		name string
		end  func(a *admin, g *tokenstore.Grant)
	}{
		{"the user's sessions", func(a *admin, _ *tokenstore.Grant) { a.do("POST", a.user("mia")+"/logout", nil, nil) }},
		{"what was issued before now", func(a *admin, _ *tokenstore.Grant) {
			time.Sleep(1100 * time.Millisecond) // its clock has whole seconds
			a.change("", object{"notBefore": time.Now().Unix()})
		}},
		{"the user", func(a *admin, _ *tokenstore.Grant) { a.change(a.user("mia"), object{"enabled": false}) }},
		{"the user's consent", func(a *admin, g *tokenstore.Grant) {
			a.do("DELETE", a.user("mia")+"/consents/"+g.ClientID, nil, nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := signedIn(t, k, "mia")
			r.mustRenew()
			c.end(asAdmin(t, k), r.grant())
			r.mustNeedLogin()
		})
	}

	t.Run("the client", func(t *testing.T) {
		r := signedIn(t, k, "mia")
		a := asAdmin(t, k)
		gone := r.grant().ClientID
		a.do("DELETE", a.client(gone), nil, nil)
		r.mustNeedLogin()
		r.login()
		if id := r.grant().ClientID; id == gone {
			t.Error("the next sign-in is one of the same client")
		}
		whoami(t, r.connect())
	})
	t.Run("the client, before a sign-in with it", func(t *testing.T) {
		r := signedIn(t, k, "mia")
		a := asAdmin(t, k)
		a.do("DELETE", a.client(r.grant().ClientID), nil, nil)
		r.login()
		if r.browsers() != 2 {
			t.Errorf("%d browsers were opened", r.browsers())
		}
		whoami(t, r.connect())
	})
}

// TestRealmDisabled is an outage: nobody is asked to sign in, and nothing is lost.
func TestRealmDisabled(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := signedIn(t, k, "olivia")
	a := asAdmin(t, k)
	a.do("PUT", "", object{"enabled": false}, nil)
	err := r.renew()
	asAdmin(t, k).do("PUT", "", object{"enabled": true}, nil)
	retry := new(refresh.RetryError)
	if !errors.As(err, &retry) || errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Fatalf("%v", err)
	}
	time.Sleep(time.Until(retry.At))
	r.mustRenew()
}

// TestPortTaken: Keycloak takes any port of a loopback address that was registered without one.
func TestPortTaken(t *testing.T) {
	k := testenv.Keycloak(t, "")
	r := signedIn(t, k, "olivia")
	registered := r.grant().ClientID
	port := func() string {
		u, _ := url.Parse(r.opened[len(r.opened)-1]) // is on the host of the redirect address
		return u.Host
	}
	first := port()
	taken, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.login()
	if second := port(); second == first {
		t.Errorf("still at %s", second)
	}
	if id := r.grant().ClientID; id != registered {
		t.Error("another client was registered")
	}
	taken.Close()
	r.login()
	if third := port(); third != first {
		t.Errorf("the port that is free again is not used again: %s, then %s", first, third)
	}
}

// TestOneClientForAll: 200 clients are all that a realm takes.
func TestOneClientForAll(t *testing.T) {
	k := testenv.Keycloak(t, "")
	a := asAdmin(t, k)
	r := signedIn(t, k, "olivia")
	clients := a.clients()
	r.login()
	if _, err := r.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.login()
	other := newRun(t, k, newBrowser("mia").open)
	other.store, other.Store, other.Account = r.store, r.store, "mia"
	other.login()
	if now := a.clients(); now != clients {
		t.Errorf("%d clients have become %d", clients, now)
	}
}

// TestResourceIndicators is the experimental feature: the resource is one that an MCP server has
// as its resource_url, and that the token has as its audience.
func TestResourceIndicators(t *testing.T) {
	k := testenv.Keycloak(t, "resource-indicators")
	t.Run("known", func(t *testing.T) {
		r := signedIn(t, k, "olivia")
		r.mustRenew()
		whoami(t, r.connect())
	})
	t.Run("unknown", func(t *testing.T) {
		r := newRun(t, k, newBrowser("olivia").open)
		r.Resource = k.MCP.URL + "/" // it is compared to the letter
		refused := new(authcode.TokenError)
		if err := r.Login(t.Context(), nil); !errors.As(err, &refused) || refused.Code != "invalid_target" {
			t.Errorf("%v", err)
		}
	})
	t.Run("none at the sign-in, so none at a refresh", func(t *testing.T) {
		r := newRun(t, k, newBrowser("olivia").open)
		r.Resource = mcpclient.NoResource
		r.login()
		r.mustRenew()
		g := r.grant()
		status, answer := post(t, g.TokenEndpoint, url.Values{"grant_type": {"refresh_token"},
			"refresh_token": {g.RefreshToken.Reveal()}, "client_id": {g.ClientID}, "resource": {k.MCP.URL}})
		if status != http.StatusBadRequest || answer["error"] != "invalid_target" {
			t.Errorf("with one: %d %v", status, answer["error"])
		}
	})
}

// TestRestart: while Keycloak is down nothing is lost; when it is back with new keys and knows of
// no session, only a sign-in helps.
func TestRestart(t *testing.T) {
	k := testenv.Keycloak(t, "resource-indicators")
	r := newRun(t, k, newBrowser("olivia").open)
	r.Registration.ClientID = "public"
	r.login()
	k.Stop()
	err := r.renew()
	retry := new(refresh.RetryError)
	if !errors.As(err, &retry) || errors.Is(err, mcpclient.ErrLoginRequired) {
		t.Errorf("while it is down: %v", err)
	}
	k.Start(t)
	defer k.Stop()
	r.mustNeedLogin()
	r.login()
}
