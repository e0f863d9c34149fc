package discovery_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/astravue/mcp-client-go/discovery"
)

func discover(t *testing.T, w world, r discovery.Request) (*discovery.Configuration, []string, error) {
	t.Helper()
	hc, requests := w.serve(t)
	r.HTTPClient = hc
	if r.Server == "" {
		r.Server = server
	}
	c, err := discovery.Discover(t.Context(), r)
	if (c == nil) == (err == nil) {
		t.Fatalf("Discover = %v, %v", c, err)
	}
	return c, requests(), err
}

func TestOrderOfAddresses(t *testing.T) {
	const announced = "https://meta.example.com/resource"
	challenge := discovery.Challenge{Scheme: "Bearer", ResourceMetadata: announced}
	origin := but(resourceDoc, server, "https://api.example.com")
	huge := doc(`{"x": "` + strings.Repeat("x", 2<<20) + `"}`)
	for _, test := range []struct {
		name  string
		r     discovery.Request
		world world
		want  []string
	}{
		{"path first", discovery.Request{}, good, []string{path, rfc8414}},
		{"challenge before path", discovery.Request{Challenge: challenge}, good.with(world{announced: doc(resourceDoc)}), []string{announced, rfc8414}},
		{"challenge is 404", discovery.Request{Challenge: challenge}, good, []string{announced, path, rfc8414}},
		{"challenge is http", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://api.example.com/x"}}, good, []string{path, rfc8414}},
		{"challenge on loopback", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://127.0.0.1/x"}}, good, []string{path, rfc8414}},
		{"challenge is a script", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "javascript:alert(1)"}}, good, []string{path, rfc8414}},
		{"challenge is relative", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "/x"}}, good, []string{path, rfc8414}},
		{"challenge is no URL", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "https://%zz"}}, good, []string{path, rfc8414}},
		{"challenge names the path", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: path}}, world{root: doc(resourceDoc), rfc8414: doc(serverDoc)}, []string{path, root, rfc8414}},
		{"challenge names the root", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: root}}, good.with(world{root: origin}), []string{root, rfc8414}},

		{"path is 404", discovery.Request{}, good.with(world{path: nil, root: doc(resourceDoc)}), []string{path, root, rfc8414}},
		{"path is 500", discovery.Request{}, good.with(world{path: page(500, "application/json", resourceDoc), root: origin}), []string{path, root, rfc8414}},
		{"path is 401", discovery.Request{}, good.with(world{path: page(401, "application/json", resourceDoc), root: origin}), []string{path, root, rfc8414}},
		{"path is HTML", discovery.Request{}, good.with(world{path: page(200, "text/html", "<!doctype html>"), root: origin}), []string{path, root, rfc8414}},
		{"path is HTML called JSON", discovery.Request{}, good.with(world{path: doc("<html>"), root: origin}), []string{path, root, rfc8414}},
		{"path is cut off", discovery.Request{}, good.with(world{path: doc(resourceDoc[:40]), root: origin}), []string{path, root, rfc8414}},
		{"path is empty", discovery.Request{}, good.with(world{path: doc(""), root: origin}), []string{path, root, rfc8414}},
		{"path is null", discovery.Request{}, good.with(world{path: doc("null"), root: origin}), []string{path, root, rfc8414}},
		{"path is a list", discovery.Request{}, good.with(world{path: doc("[" + resourceDoc + "]"), root: origin}), []string{path, root, rfc8414}},
		{"path is huge", discovery.Request{}, good.with(world{path: huge, root: origin}), []string{path, root, rfc8414}},
		{"path has a name twice", discovery.Request{}, good.with(world{path: but(resourceDoc, "{", `{"RESOURCE": "https://evil.example",`), root: origin}), []string{path, root, rfc8414}},
		{"path has no resource", discovery.Request{}, good.with(world{path: but(resourceDoc, `"resource"`, `"x"`), root: origin}), []string{path, root, rfc8414}},
		{"path announces nobody", discovery.Request{}, good.with(world{path: but(resourceDoc, `"authorization_servers"`, `"x"`), root: origin}), []string{path, root, rfc8414}},
		{"path is redirected", discovery.Request{}, good.with(world{path: http.RedirectHandler(announced, http.StatusFound).ServeHTTP, announced: doc(resourceDoc)}), []string{path, announced, rfc8414}},
		{"path is redirected to http", discovery.Request{}, good.with(world{path: http.RedirectHandler("http://api.example.com/", http.StatusFound).ServeHTTP, root: origin}), []string{path, root, rfc8414}},
		{"path is redirected in a circle", discovery.Request{}, good.with(world{path: http.RedirectHandler(path, http.StatusFound).ServeHTTP, root: origin}), []string{path, path, path, path, root, rfc8414}},

		{"RFC 8414 is 404", discovery.Request{}, good.with(world{rfc8414: nil, insert: doc(serverDoc)}), []string{path, rfc8414, insert}},
		{"only OpenID Connect, as old Keycloaks", discovery.Request{}, good.with(world{rfc8414: nil, oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 is HTML, next 500", discovery.Request{}, good.with(world{rfc8414: page(200, "text/html", "<p>"), insert: page(500, "", ""), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no issuer", discovery.Request{}, good.with(world{rfc8414: but(serverDoc, `"issuer"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no token endpoint", discovery.Request{}, good.with(world{rfc8414: but(serverDoc, `"token_endpoint"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no authorization endpoint", discovery.Request{}, good.with(world{rfc8414: but(serverDoc, `"authorization_endpoint"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has a wrong type", discovery.Request{}, good.with(world{rfc8414: but(serverDoc, `["plain", "S256"]`, `"S256"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"wrong types where nobody looks", discovery.Request{}, good.with(world{rfc8414: but(serverDoc, "{", `{"jwks_uri": 7, "response_types_supported": {},`)}), []string{path, rfc8414}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, requests, err := discover(t, test.world, test.r)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(requests, test.want) {
				t.Errorf("requests\n%s\nwant\n%s", strings.Join(requests, "\n"), strings.Join(test.want, "\n"))
			}
			if c.Server != server || c.Resource != c.ProtectedResource.Resource || c.Issuer != issuer || c.AuthorizationServer.TokenEndpoint != issuer+"/token" {
				t.Errorf("found %+v", c)
			}
			// Redirects aside, the documents are where the last two requests went.
			if last := test.want[len(test.want)-1]; c.AuthorizationServerURL != last {
				t.Errorf("AuthorizationServerURL = %q, want %q", c.AuthorizationServerURL, last)
			}
		})
	}
}

// A document that is not to be believed ends the search: the world has a good
// one at every other address, and none of them is asked for.
func TestStops(t *testing.T) {
	everywhere := world{path: doc(resourceDoc), root: doc(resourceDoc), rfc8414: doc(serverDoc), insert: doc(serverDoc), oidc: doc(serverDoc)}
	mismatch := func(at, field, want, got string) func(error) bool {
		return func(err error) bool {
			var e *discovery.MismatchError
			return errors.As(err, &e) && *e == discovery.MismatchError{Document: at, Field: field, Want: want, Got: got}
		}
	}
	badURL := func(at, field string) func(error) bool {
		return func(err error) bool {
			var e *discovery.URLError
			return errors.As(err, &e) && e.Document == at && e.Field == field && e.Err != nil
		}
	}
	noPKCE := func(err error) bool { return errors.Is(err, discovery.ErrNoPKCE) }
	announce := func(issuer string) world {
		return world{path: doc(`{"resource": "` + server + `", "authorization_servers": ["` + issuer + `"]}`)}
	}
	for _, test := range []struct {
		name string
		bad  world
		is   func(error) bool
		want []string
	}{
		{"another resource", world{path: but(resourceDoc, server, "https://evil.example/mcp")}, mismatch(path, "resource", server, "https://evil.example/mcp"), []string{path}},
		{"origin in the document of the path", world{path: but(resourceDoc, server, "https://api.example.com")}, mismatch(path, "resource", server, "https://api.example.com"), []string{path}},
		{"sibling in the root document", world{path: nil, root: but(resourceDoc, server, server+"2")}, mismatch(root, "resource", server, server+"2"), []string{path, root}},
		{"slash after the resource", world{path: but(resourceDoc, server, server+"/")}, mismatch(path, "resource", server, server+"/"), []string{path}},

		{"another issuer", world{rfc8414: but(serverDoc, issuer, "https://evil.example")}, mismatch(rfc8414, "issuer", issuer, "https://evil.example"), []string{path, rfc8414}},
		{"slash after the issuer", world{rfc8414: but(serverDoc, issuer, issuer+"/")}, mismatch(rfc8414, "issuer", issuer, issuer+"/"), []string{path, rfc8414}},
		{"issuer in another case", world{rfc8414: but(serverDoc, issuer, "https://AUTH.example.com/realms/x")}, mismatch(rfc8414, "issuer", issuer, "https://AUTH.example.com/realms/x"), []string{path, rfc8414}},
		{"another issuer at the last address", world{rfc8414: nil, insert: nil, oidc: but(serverDoc, issuer, "https://evil.example")}, mismatch(oidc, "issuer", issuer, "https://evil.example"), []string{path, rfc8414, insert, oidc}},

		{"no PKCE", world{rfc8414: but(serverDoc, `"code_challenge_methods_supported"`, `"x"`)}, noPKCE, []string{path, rfc8414}},
		{"plain PKCE", world{rfc8414: but(serverDoc, `"plain", "S256"`, `"plain"`)}, noPKCE, []string{path, rfc8414}},

		{"token endpoint over http", world{rfc8414: but(serverDoc, issuer+"/token", "http://auth.example.com/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"token endpoint on loopback", world{rfc8414: but(serverDoc, issuer+"/token", "http://localhost/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"token endpoint with password", world{rfc8414: but(serverDoc, issuer+"/token", "https://a:b@auth.example.com/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"script for the browser", world{rfc8414: but(serverDoc, issuer+"/auth", "javascript:alert(1)")}, badURL(rfc8414, "authorization_endpoint"), []string{path, rfc8414}},
		{"file for the browser", world{rfc8414: but(serverDoc, issuer+"/auth", "file://localhost/etc/passwd")}, badURL(rfc8414, "authorization_endpoint"), []string{path, rfc8414}},
		{"relative registration endpoint", world{rfc8414: but(serverDoc, issuer+"/clients", "/clients")}, badURL(rfc8414, "registration_endpoint"), []string{path, rfc8414}},
		{"revocation endpoint with fragment", world{rfc8414: but(serverDoc, issuer+"/revoke", issuer+"/revoke#x")}, badURL(rfc8414, "revocation_endpoint"), []string{path, rfc8414}},

		{"announced over http", announce("http://auth.example.com"), badURL(path, "authorization_servers"), []string{path}},
		{"announced on loopback", announce("http://127.0.0.1:1"), badURL(path, "authorization_servers"), []string{path}},
		{"announced with a query", announce(issuer + "?x"), badURL(path, "authorization_servers"), []string{path}},
		{"announced empty", announce(""), badURL(path, "authorization_servers"), []string{path}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, requests, err := discover(t, everywhere.with(test.bad), discovery.Request{})
			if !test.is(err) {
				t.Errorf("got %v", err)
			}
			if !slices.Equal(requests, test.want) {
				t.Errorf("requests\n%s\nwant\n%s", strings.Join(requests, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestNotFoundListsEveryAddress(t *testing.T) {
	check := func(t *testing.T, err error, want ...string) {
		t.Helper()
		var e *discovery.NotFoundError
		if !errors.As(err, &e) {
			t.Fatalf("got %v", err)
		}
		var tried []string
		for _, a := range e.Tried {
			tried = append(tried, a.URL)
			if a.Err == nil || !errors.Is(err, a.Err) {
				t.Errorf("%s: error %v is not in the chain", a.URL, a.Err)
			}
		}
		if !slices.Equal(tried, want) {
			t.Errorf("tried %q, want %q", tried, want)
		}
	}
	t.Run("resource", func(t *testing.T) {
		_, requests, err := discover(t, world{path: page(200, "text/html", "<p>")},
			discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://api.example.com/x"}})
		check(t, err, "http://api.example.com/x", path, root)
		if want := []string{path, root}; !slices.Equal(requests, want) { // no guess at /authorize
			t.Errorf("requests %q, want %q", requests, want)
		}
	})
	t.Run("authorization server", func(t *testing.T) {
		_, _, err := discover(t, world{path: doc(resourceDoc)}, discovery.Request{})
		check(t, err, rfc8414, insert, oidc)
	})
	t.Run("no other announced server is tried", func(t *testing.T) {
		_, _, err := discover(t, good.with(world{path: but(resourceDoc, `["`, `["https://down.example",  "`)}), discovery.Request{})
		check(t, err, "https://down.example/.well-known/oauth-authorization-server", "https://down.example/.well-known/openid-configuration")
	})
}

// A server's text neither floods nor steers a terminal.
func TestErrorTexts(t *testing.T) {
	hostile := "https://evil.example/\x1b[2J\u202e\n" + strings.Repeat("é", 100_000)
	for _, err := range []error{
		&discovery.MismatchError{Document: hostile, Field: "issuer", Want: hostile, Got: hostile},
		&discovery.URLError{Document: hostile, Field: "token_endpoint", Err: errReached},
		&discovery.NotFoundError{What: "metadata", Tried: []discovery.Attempt{{URL: hostile, Err: errReached}}},
	} {
		text := err.Error()
		if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%T: %.300q", err, text)
		}
	}
	if err := error(&discovery.URLError{Err: errReached}); !errors.Is(err, errReached) {
		t.Error("URLError hides its cause")
	}
}

func TestPinnedIssuer(t *testing.T) {
	const other = "https://other.example"
	const otherURL = other + "/.well-known/oauth-authorization-server"
	otherDoc := strings.Replace(serverDoc, issuer, other, 1)
	two := world{path: but(resourceDoc, `["`, `["`+other+`", "`), rfc8414: doc(serverDoc), otherURL: doc(otherDoc)}
	for _, test := range []struct {
		name   string
		pin    string
		world  world
		issuer string // "": a mismatch
		want   []string
	}{
		{"first of two", "", two, other, []string{path, otherURL}},
		{"first, with an empty one behind", "", good.with(world{path: but(resourceDoc, `"]`, `", ""]`)}), issuer, []string{path, rfc8414}},
		{"pinned of two", issuer, two, issuer, []string{path, rfc8414}},
		{"announced server states its own", other, good, issuer, []string{path, rfc8414}},
		{"announced server states the pinned", other, good.with(world{rfc8414: doc(otherDoc)}), other, []string{path, rfc8414}},
		{"announced server states a third", other, good.with(world{rfc8414: but(serverDoc, issuer, "https://evil.example")}), "", []string{path, rfc8414}},
		{"not pinned and stated", "", good.with(world{rfc8414: doc(otherDoc)}), "", []string{path, rfc8414}},
		{"no resource document", issuer, good.with(world{path: nil}), issuer, []string{path, root, rfc8414}},
		{"no resource document, pinned states another", other, world{otherURL: doc(serverDoc)}, "", []string{path, root, otherURL}},
		{"resource announces nobody", issuer, good.with(world{path: doc(`{"resource": "` + server + `"}`)}), issuer, []string{path, rfc8414}},
		{"another resource stops all the same", issuer, good.with(world{path: but(resourceDoc, server, other)}), "", []string{path}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, requests, err := discover(t, test.world, discovery.Request{Issuer: test.pin})
			switch {
			case test.issuer == "":
				if !errors.As(err, new(*discovery.MismatchError)) {
					t.Errorf("got %v, %v", c, err)
				}
			case err != nil:
				t.Fatal(err)
			case c.Issuer != test.issuer || c.AuthorizationServer.Issuer != test.issuer || c.Resource != server:
				t.Errorf("found %+v, want issuer %s", c, test.issuer)
			}
			if !slices.Equal(requests, test.want) {
				t.Errorf("requests %q, want %q", requests, test.want)
			}
		})
	}
	t.Run("not an issuer", func(t *testing.T) {
		for _, pin := range []string{"http://auth.example.com", "auth.example.com", issuer + "?x"} {
			if _, _, err := discover(t, world{}, discovery.Request{Issuer: pin}); err == nil || errors.As(err, new(*discovery.NotFoundError)) {
				t.Errorf("%s: %v", pin, err)
			}
		}
	})
}

func TestResourceParameter(t *testing.T) {
	for _, test := range []struct {
		name     string
		r        discovery.Request
		world    world
		resource string
	}{
		{"as the document writes it", discovery.Request{}, good.with(world{path: but(resourceDoc, server, "https://API.example.com:443/mcp")}), "https://API.example.com:443/mcp"},
		{"the origin", discovery.Request{}, good.with(world{path: nil, root: but(resourceDoc, server, "https://api.example.com")}), "https://api.example.com"},
		{"the origin with a slash", discovery.Request{}, good.with(world{path: nil, root: but(resourceDoc, server, "https://api.example.com/")}), "https://api.example.com/"},
		{"canonical without a document", discovery.Request{Server: "HTTPS://api.example.com:443/mcp", Issuer: issuer}, good.with(world{path: nil}), server},
		{"none", discovery.Request{NoResource: true}, good, ""},
		{"none without a document", discovery.Request{NoResource: true, Issuer: issuer}, good.with(world{path: nil}), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.world, test.r)
			if err != nil {
				t.Fatal(err)
			}
			if c.Resource != test.resource {
				t.Errorf("Resource = %q, want %q", c.Resource, test.resource)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	silent := good.with(world{path: but(resourceDoc, `"scopes_supported"`, `"x"`)})
	bearer := discovery.Challenge{Scheme: "Bearer", Scope: "a  b"}
	for _, test := range []struct {
		name  string
		r     discovery.Request
		world world
		want  []string
	}{
		{"challenge", discovery.Request{Challenge: bearer, DefaultScopes: []string{"d"}}, good, []string{"a", "b"}},
		{"resource", discovery.Request{DefaultScopes: []string{"d"}}, good, []string{"read", "write"}},
		{"default", discovery.Request{DefaultScopes: []string{"d"}}, silent, []string{"d"}},
		{"default without a document", discovery.Request{Issuer: issuer, DefaultScopes: []string{"d"}}, good.with(world{path: nil}), []string{"d"}},
		{"none, whatever the authorization server lists", discovery.Request{}, silent.with(world{rfc8414: but(serverDoc, "{", `{"scopes_supported": ["admin"],`)}), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.world, test.r)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(c.Scopes, test.want) {
				t.Errorf("Scopes = %q, want %q", c.Scopes, test.want)
			}
		})
	}
}

func TestDocumentedLayouts(t *testing.T) {
	const (
		astravue = "https://api.astravue.com/mcp"
		api      = "https://api.astravue.com"
		realm    = "https://auth.astravue.com/realms/astravue"
	)
	base := world{api + "/.well-known/oauth-protected-resource": file(t, "astravue-resource.json")}
	asURL := api + "/.well-known/oauth-authorization-server"
	for _, test := range []struct {
		name   string
		r      discovery.Request
		world  world
		issuer string
		token  string
		scopes []string
	}{
		{"Astravue, issuer on the API host", discovery.Request{Server: astravue, Issuer: realm}, base.with(world{asURL: file(t, "astravue-api.json")}),
			api, realm + "/protocol/openid-connect/token", []string{"openid", "profile", "email"}},
		{"Astravue, issuer on the authorization host", discovery.Request{Server: astravue, Issuer: realm}, base.with(world{asURL: file(t, "astravue-auth.json")}),
			realm, realm + "/protocol/openid-connect/token", []string{"openid", "profile", "email"}},
		{"Keycloak before 26.4", discovery.Request{Server: "https://mcp.example.com/"}, world{
			"https://mcp.example.com/.well-known/oauth-protected-resource":     doc(`{"resource": "https://mcp.example.com/", "authorization_servers": ["https://kc.example.com/realms/x"]}`),
			"https://kc.example.com/realms/x/.well-known/openid-configuration": file(t, "keycloak.json"),
		}, "https://kc.example.com/realms/x", "https://kc.example.com/realms/x/protocol/openid-connect/token", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.world, test.r)
			if err != nil {
				t.Fatal(err)
			}
			if c.Resource != test.r.Server || c.Issuer != test.issuer || c.AuthorizationServer.TokenEndpoint != test.token || !slices.Equal(c.Scopes, test.scopes) {
				t.Errorf("found %+v", c)
			}
			a := c.AuthorizationServer
			if a.RegistrationEndpoint == "" || a.RevocationEndpoint == "" || !a.AuthorizationResponseIssParameterSupported || a.ClientIDMetadataDocumentSupported {
				t.Errorf("metadata %+v", a)
			}
		})
	}
	t.Run("the pair is an exception for its name only", func(t *testing.T) {
		_, _, err := discover(t, base.with(world{asURL: file(t, "astravue-auth.json")}), discovery.Request{Server: astravue})
		if !errors.As(err, new(*discovery.MismatchError)) {
			t.Errorf("got %v", err)
		}
	})
}

func TestServerAddress(t *testing.T) {
	for _, s := range []string{"", "api.example.com/mcp", "http://api.example.com/mcp", "ftp://127.0.0.1/", "https:///mcp", "https://a:b@api.example.com/", "https://api.example.com/#x", "https://%zz/", "\x00", "https://"} {
		if _, err := discovery.Discover(t.Context(), discovery.Request{Server: s, HTTPClient: refuse}); err == nil || errors.Is(err, errReached) {
			t.Errorf("Discover(%q): %v", s, err)
		}
		if _, _, err := discovery.Probe(t.Context(), refuse, s); err == nil || errors.Is(err, errReached) {
			t.Errorf("Probe(%q): %v", s, err)
		}
	}
}

func TestSlowServer(t *testing.T) {
	t.Run("the context ends the search", func(t *testing.T) {
		hc, requests := good.with(world{path: hang, root: doc(resourceDoc)}).serve(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := discovery.Discover(ctx, discovery.Request{Server: server, HTTPClient: hc})
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*discovery.NotFoundError)) {
			t.Errorf("got %v", err)
		}
		if slices.Contains(requests(), root) {
			t.Error("the search went on")
		}
	})
	t.Run("the client's timeout ends one request", func(t *testing.T) {
		hc, _ := good.with(world{path: hang, root: doc(resourceDoc)}).serve(t)
		hc.Timeout = time.Second
		c, err := discovery.Discover(t.Context(), discovery.Request{Server: server, HTTPClient: hc})
		if err != nil || c.ProtectedResourceURL != root {
			t.Errorf("got %v, %v", c, err)
		}
	})
}

// roundTripper answers without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var (
	errReached = errors.New("the network was reached")
	refuse     = &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errReached })}
)
