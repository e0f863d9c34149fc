package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

func discover(t *testing.T, p pages, r discovery.Request) (*discovery.Configuration, []string, error) {
	t.Helper()
	hc, requests := p.serve(t)
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
	t.Parallel() // with the tests that wait
	const announced = "https://meta.example.com/resource"
	challenge := discovery.Challenge{Scheme: "Bearer", ResourceMetadata: announced}
	origin := but(resourceDoc, server, "https://api.example.com")
	huge := doc(`{"x": "` + strings.Repeat("x", 2<<20) + `"}`)
	for _, test := range []struct {
		name  string
		r     discovery.Request
		pages pages
		want  []string
	}{
		{"path first", discovery.Request{}, good, []string{path, rfc8414}},
		{"challenge before path", discovery.Request{Challenge: challenge}, good.with(pages{announced: doc(resourceDoc)}), []string{announced, rfc8414}},
		{"challenge is 404", discovery.Request{Challenge: challenge}, good, []string{announced, path, rfc8414}},
		{"challenge is http", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://api.example.com/x"}}, good, []string{path, rfc8414}},
		{"challenge on loopback", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://127.0.0.1/x"}}, good, []string{path, rfc8414}},
		{"challenge is a script", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "javascript:alert(1)"}}, good, []string{path, rfc8414}},
		{"challenge is relative", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "/x"}}, good, []string{path, rfc8414}},
		{"challenge is no URL", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "https://%zz"}}, good, []string{path, rfc8414}},
		{"challenge names the path", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: path}}, pages{root: doc(resourceDoc), rfc8414: doc(serverDoc)}, []string{path, root, rfc8414}},
		{"challenge names the root", discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: root}}, good.with(pages{root: origin}), []string{root, rfc8414}},

		{"path is 404", discovery.Request{}, good.with(pages{path: nil, root: doc(resourceDoc)}), []string{path, root, rfc8414}},
		{"path is 500", discovery.Request{}, good.with(pages{path: page(500, "application/json", resourceDoc), root: origin}), []string{path, root, rfc8414}},
		{"path is 401", discovery.Request{}, good.with(pages{path: page(401, "application/json", resourceDoc), root: origin}), []string{path, root, rfc8414}},
		{"path is HTML", discovery.Request{}, good.with(pages{path: page(200, "text/html", "<!doctype html>"), root: origin}), []string{path, root, rfc8414}},
		{"path is HTML called JSON", discovery.Request{}, good.with(pages{path: doc("<html>"), root: origin}), []string{path, root, rfc8414}},
		{"path is cut off", discovery.Request{}, good.with(pages{path: doc(resourceDoc[:40]), root: origin}), []string{path, root, rfc8414}},
		{"path is empty", discovery.Request{}, good.with(pages{path: doc(""), root: origin}), []string{path, root, rfc8414}},
		{"path is null", discovery.Request{}, good.with(pages{path: doc("null"), root: origin}), []string{path, root, rfc8414}},
		{"path is a list", discovery.Request{}, good.with(pages{path: doc("[" + resourceDoc + "]"), root: origin}), []string{path, root, rfc8414}},
		{"path is huge", discovery.Request{}, good.with(pages{path: huge, root: origin}), []string{path, root, rfc8414}},
		{"path has a name twice", discovery.Request{}, good.with(pages{path: but(resourceDoc, "{", `{"RESOURCE": "https://evil.example",`), root: origin}), []string{path, root, rfc8414}},
		{"path has no resource", discovery.Request{}, good.with(pages{path: but(resourceDoc, `"resource"`, `"x"`), root: origin}), []string{path, root, rfc8414}},
		{"path announces nobody", discovery.Request{}, good.with(pages{path: but(resourceDoc, `"authorization_servers"`, `"x"`), root: origin}), []string{path, root, rfc8414}},
		{"path is redirected", discovery.Request{}, good.with(pages{path: http.RedirectHandler(announced, http.StatusFound).ServeHTTP, announced: doc(resourceDoc)}), []string{path, announced, rfc8414}},
		{"path is redirected to http", discovery.Request{}, good.with(pages{path: http.RedirectHandler("http://api.example.com/", http.StatusFound).ServeHTTP, root: origin}), []string{path, root, rfc8414}},
		{"path is redirected in a circle", discovery.Request{}, good.with(pages{path: http.RedirectHandler(path, http.StatusFound).ServeHTTP, root: origin}), []string{path, path, path, path, root, rfc8414}},

		{"RFC 8414 is 404", discovery.Request{}, good.with(pages{rfc8414: nil, insert: doc(serverDoc)}), []string{path, rfc8414, insert}},
		{"only OpenID Connect, as old Keycloaks", discovery.Request{}, good.with(pages{rfc8414: nil, oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 is HTML, next 500", discovery.Request{}, good.with(pages{rfc8414: page(200, "text/html", "<p>"), insert: page(500, "", ""), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no issuer", discovery.Request{}, good.with(pages{rfc8414: but(serverDoc, `"issuer"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no token endpoint", discovery.Request{}, good.with(pages{rfc8414: but(serverDoc, `"token_endpoint"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has no authorization endpoint", discovery.Request{}, good.with(pages{rfc8414: but(serverDoc, `"authorization_endpoint"`, `"x"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"RFC 8414 has a wrong type", discovery.Request{}, good.with(pages{rfc8414: but(serverDoc, `["plain", "S256"]`, `"S256"`), oidc: doc(serverDoc)}), []string{path, rfc8414, insert, oidc}},
		{"wrong types where nobody looks", discovery.Request{}, good.with(pages{rfc8414: but(serverDoc, "{", `{"jwks_uri": 7, "response_types_supported": {},`)}), []string{path, rfc8414}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, requests, err := discover(t, test.pages, test.r)
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

// A document that is not to be believed ends the search. There is a good one at
// every other address, and none of them is asked for.
func TestStops(t *testing.T) {
	t.Parallel() // with the tests that wait
	everywhere := pages{path: doc(resourceDoc), root: doc(resourceDoc), rfc8414: doc(serverDoc), insert: doc(serverDoc), oidc: doc(serverDoc)}
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
	announce := func(issuer string) pages {
		return pages{path: doc(`{"resource": "` + server + `", "authorization_servers": ["` + issuer + `"]}`)}
	}
	for _, test := range []struct {
		name string
		bad  pages
		is   func(error) bool
		want []string
	}{
		{"another resource", pages{path: but(resourceDoc, server, "https://evil.example/mcp")}, mismatch(path, "resource", server, "https://evil.example/mcp"), []string{path}},
		{"origin in the document of the path", pages{path: but(resourceDoc, server, "https://api.example.com")}, mismatch(path, "resource", server, "https://api.example.com"), []string{path}},
		{"sibling in the root document", pages{path: nil, root: but(resourceDoc, server, server+"2")}, mismatch(root, "resource", server, server+"2"), []string{path, root}},
		{"slash after the resource", pages{path: but(resourceDoc, server, server+"/")}, mismatch(path, "resource", server, server+"/"), []string{path}},

		{"another issuer", pages{rfc8414: but(serverDoc, issuer, "https://evil.example")}, mismatch(rfc8414, "issuer", issuer, "https://evil.example"), []string{path, rfc8414}},
		{"slash after the issuer", pages{rfc8414: but(serverDoc, issuer, issuer+"/")}, mismatch(rfc8414, "issuer", issuer, issuer+"/"), []string{path, rfc8414}},
		{"issuer in another case", pages{rfc8414: but(serverDoc, issuer, "https://AUTH.example.com/realms/x")}, mismatch(rfc8414, "issuer", issuer, "https://AUTH.example.com/realms/x"), []string{path, rfc8414}},
		{"another issuer at the last address", pages{rfc8414: nil, insert: nil, oidc: but(serverDoc, issuer, "https://evil.example")}, mismatch(oidc, "issuer", issuer, "https://evil.example"), []string{path, rfc8414, insert, oidc}},

		{"no PKCE", pages{rfc8414: but(serverDoc, `"code_challenge_methods_supported"`, `"x"`)}, noPKCE, []string{path, rfc8414}},
		{"plain PKCE", pages{rfc8414: but(serverDoc, `"plain", "S256"`, `"plain"`)}, noPKCE, []string{path, rfc8414}},

		{"token endpoint over http", pages{rfc8414: but(serverDoc, issuer+"/token", "http://auth.example.com/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"token endpoint on loopback", pages{rfc8414: but(serverDoc, issuer+"/token", "http://localhost/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"token endpoint with password", pages{rfc8414: but(serverDoc, issuer+"/token", "https://a:b@auth.example.com/token")}, badURL(rfc8414, "token_endpoint"), []string{path, rfc8414}},
		{"script for the browser", pages{rfc8414: but(serverDoc, issuer+"/auth", "javascript:alert(1)")}, badURL(rfc8414, "authorization_endpoint"), []string{path, rfc8414}},
		{"file for the browser", pages{rfc8414: but(serverDoc, issuer+"/auth", "file://localhost/etc/passwd")}, badURL(rfc8414, "authorization_endpoint"), []string{path, rfc8414}},
		{"relative registration endpoint", pages{rfc8414: but(serverDoc, issuer+"/clients", "/clients")}, badURL(rfc8414, "registration_endpoint"), []string{path, rfc8414}},
		{"revocation endpoint with fragment", pages{rfc8414: but(serverDoc, issuer+"/revoke", issuer+"/revoke#x")}, badURL(rfc8414, "revocation_endpoint"), []string{path, rfc8414}},

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
		_, requests, err := discover(t, pages{path: page(200, "text/html", "<p>")},
			discovery.Request{Challenge: discovery.Challenge{ResourceMetadata: "http://api.example.com/x"}})
		check(t, err, "http://api.example.com/x", path, root)
		if want := []string{path, root}; !slices.Equal(requests, want) { // no guess at /authorize
			t.Errorf("requests %q, want %q", requests, want)
		}
	})
	t.Run("authorization server", func(t *testing.T) {
		_, _, err := discover(t, pages{path: doc(resourceDoc)}, discovery.Request{})
		check(t, err, rfc8414, insert, oidc)
	})
	t.Run("no other announced server is tried", func(t *testing.T) {
		_, _, err := discover(t, good.with(pages{path: but(resourceDoc, `["`, `["https://down.example",  "`)}), discovery.Request{})
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
	const (
		other    = "https://other.example/realms/y"
		otherURL = "https://other.example/.well-known/oauth-authorization-server/realms/y"
		second   = "https://other.example/.well-known/openid-configuration/realms/y"
		third    = other + "/.well-known/openid-configuration"
		evil     = "https://evil.example"
	)
	otherDoc := strings.ReplaceAll(serverDoc, issuer, other)
	two := pages{path: but(resourceDoc, `["`, `["`+other+`", "`), rfc8414: doc(serverDoc), otherURL: doc(otherDoc)}
	elsewhere := func(old, new string) pages { return good.with(pages{rfc8414: but(otherDoc, old, new)}) }
	published := pages{otherURL: doc(otherDoc)}
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	mismatch := func(err error) bool { return errors.As(err, new(*discovery.MismatchError)) }
	missing := func(what string) func(error) bool {
		return func(err error) bool {
			e := new(discovery.NotFoundError)
			return errors.As(err, &e) && e.What == what
		}
	}
	for _, test := range []struct {
		name   string
		pin    string
		pages  pages
		issuer string // "": an error
		is     func(error) bool
		want   []string
	}{
		{"first of two", "", two, other, nil, []string{path, otherURL}},
		{"first, with an empty one behind", "", good.with(pages{path: but(resourceDoc, `"]`, `", ""]`)}), issuer, nil, []string{path, rfc8414}},
		{"pinned of two", issuer, two, issuer, nil, []string{path, rfc8414}},
		{"not pinned, and another is stated", "", elsewhere("{", "{"), "", mismatch, []string{path, rfc8414}},

		{"announced server states its own, pinned has its own", other, good.with(published), other, nil, []string{path, rfc8414, otherURL}},
		{"announced server states its own, pinned has none", other, good, "", mismatch, []string{path, rfc8414, otherURL, second, third}},
		{"announced server states the pinned", other, elsewhere("{", "{"), other, nil, []string{path, rfc8414}},
		{"and is asked before it", other, elsewhere("{", "{").with(published), other, nil, []string{path, rfc8414}},
		{"announced server states a third", other, elsewhere(other, evil).with(published), other, nil, []string{path, rfc8414, otherURL}},
		{"announced server has another's token endpoint", other, elsewhere(other+"/token", evil+"/token").with(published), other, nil, []string{path, rfc8414, otherURL}},
		{"and pinned has none", other, elsewhere(other+"/token", evil+"/token"), "", is(discovery.ErrForeignEndpoint), []string{path, rfc8414, otherURL, second, third}},
		{"and pinned is down", other, elsewhere(other+"/token", evil+"/token").with(pages{otherURL: page(503, "", ""), second: page(200, "text/html", "<p>"), third: page(500, "", "")}), "",
			missing(discovery.ServerMetadata), []string{path, rfc8414, otherURL, second, third}},
		{"announced server is down", other, good.with(pages{rfc8414: page(500, "", ""), insert: page(404, "", ""), oidc: page(200, "text/html", "<p>")}).with(published), other, nil,
			[]string{path, rfc8414, insert, oidc, otherURL}},
		{"announced server is no address", other, good.with(pages{path: but(resourceDoc, issuer, "http://auth.example.com")}).with(published), other, nil, []string{path, otherURL}},
		{"pinned states another", other, good.with(pages{otherURL: doc(serverDoc)}), "", mismatch, []string{path, rfc8414, otherURL}},

		{"no resource document", issuer, good.with(pages{path: nil}), issuer, nil, []string{path, root, rfc8414}},
		{"resource document is gone", issuer, good.with(pages{path: page(410, "", "")}), issuer, nil, []string{path, root, rfc8414}},
		{"no resource document, pinned states another", other, pages{otherURL: doc(serverDoc)}, "", mismatch, []string{path, root, otherURL}},
		{"resource announces nobody", issuer, good.with(pages{path: doc(`{"resource": "` + server + `"}`)}), issuer, nil, []string{path, rfc8414}},
		{"another resource stops all the same", issuer, good.with(pages{path: but(resourceDoc, server, evil)}), "", mismatch, []string{path}},
		{"resource is out of order", issuer, good.with(pages{path: page(503, "", "")}), "", missing(discovery.ResourceMetadata), []string{path, root}},
		{"resource is a page", issuer, good.with(pages{path: page(200, "text/html", "<p>")}), "", missing(discovery.ResourceMetadata), []string{path, root}},
		{"resource's document is of no use", issuer, good.with(pages{path: doc("{}")}), "", missing(discovery.ResourceMetadata), []string{path, root}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, requests, err := discover(t, test.pages, discovery.Request{Issuer: test.pin})
			switch {
			case test.issuer == "":
				if !test.is(err) {
					t.Errorf("got %v, %v", c, err)
				}
			case err != nil:
				t.Fatal(err)
			case c.Issuer != test.issuer || c.AuthorizationServer.Issuer != test.issuer || c.Resource != server:
				t.Errorf("found %+v, want issuer %s", c, test.issuer)
			default:
				listed := c.ProtectedResource != nil && slices.Contains(c.ProtectedResource.AuthorizationServers, test.issuer)
				if c.IssuerUnlisted != (test.pin != "" && !listed) {
					t.Errorf("IssuerUnlisted is %v", c.IssuerUnlisted)
				}
			}
			if !slices.Equal(requests, test.want) {
				t.Errorf("requests\n%s\nwant\n%s", strings.Join(requests, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
	t.Run("without resource metadata by choice, nobody knows who is listed", func(t *testing.T) {
		c, _, err := discover(t, good, discovery.Request{Issuer: issuer, NoResource: true})
		if err != nil || c.IssuerUnlisted {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("not an issuer", func(t *testing.T) {
		for _, pin := range []string{"http://auth.example.com", "auth.example.com", issuer + "?x"} {
			if _, _, err := discover(t, pages{}, discovery.Request{Issuer: pin}); err == nil || errors.As(err, new(*discovery.NotFoundError)) {
				t.Errorf("%s: %v", pin, err)
			}
		}
	})
}

// A document found elsewhere may state the pinned issuer only if all of its
// endpoints are there.
func TestForeignEndpoints(t *testing.T) {
	t.Parallel() // with the tests that wait
	const pin, bare = "https://login.example/realms/y", "https://login.example"
	const template = "https://login.example/{tenantid}/v2.0"
	names := []string{"authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint", "userinfo_endpoint", "device_authorization_endpoint"}
	var document atomic.Value // a string
	document.Store("")
	hc, _ := good.with(pages{rfc8414: func(w http.ResponseWriter, r *http.Request) { doc(document.Load().(string))(w, r) }}).serve(t)
	refused := func(t *testing.T, issuer string, change map[string]any) error {
		t.Helper()
		m := map[string]any{"issuer": issuer, "code_challenge_methods_supported": []string{"S256"}}
		for _, name := range names {
			m[name] = issuer + "/" + name
		}
		for name, v := range change {
			m[name] = v
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		document.Store(string(data))
		c, err := discovery.Discover(t.Context(), discovery.Request{Server: server, Issuer: issuer, HTTPClient: hc})
		if (c == nil) == (err == nil) {
			t.Fatalf("Discover = %v, %v", c, err)
		}
		if err == nil && (c.Issuer != issuer || c.AuthorizationServerURL != rfc8414) {
			t.Errorf("found %+v", c)
		}
		return err
	}
	foreign := []string{
		"https://evil.example/realms/y/x", "https://login.example.evil.example/realms/y/x", "https://evil.login.example/realms/y/x",
		"https://login.example:444/realms/y/x",
		"https://login.example/realms/z/x", "https://login.example/realms/yy/x", "https://login.example/realms/y", "https://login.example/realms/y/",
		"https://login.example/realms/Y/x", "https://login.example/", "https://login.example/realms/%79/x", "https://login.example//realms/y/x", "https://login.example/realms/y//x",
		"https://login.example/realms/y/../z/x", "https://login.example/realms/z/../y/x", "https://login.example/realms/y/./x", "https://login.example/realms/y/%2e%2E/z/x",
		"https://login.example/realms/y/..%2fz/x", `https://login.example/realms/y/..\z/x`, "https://login.example/realms/y/..%5Cz/x", "https://login.example/realms/y%2fx",
		"https://login.example/realms/y/%252e%252e/z", "https://login.example/realms/y/..;/z/x", "https://login.example/realms/y/.;a/z", "https://login.example/realms/y/..%20/z",
		"https://login.example/realms/y/%00/x", "https://login.example/realms/y/%EF%BC%8E%EF%BC%8E/z", "https://login.example/realms/y/%c0%ae%c0%ae/z",
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for _, e := range foreign {
				if err := refused(t, pin, map[string]any{name: e}); !errors.Is(err, discovery.ErrForeignEndpoint) {
					t.Errorf("%s: %v", e, err)
				}
			}
			for _, e := range []string{"http://login.example/realms/y/x", "https://u@login.example/realms/y/x", "https://login.example@evil.example/realms/y/x", "/realms/y/x", "//login.example/realms/y/x", "javascript:x"} {
				if err := refused(t, pin, map[string]any{name: e}); !errors.As(err, new(*discovery.URLError)) {
					t.Errorf("%s: %v", e, err)
				}
			}
			for _, e := range []string{pin + "/x", "HTTPS://LOGIN.example:443/realms/y/x", "https://login.example./realms/y/x", pin + "/a;b=c/x?y=/../z", pin + "/%E6%97%A5"} {
				if err := refused(t, pin, map[string]any{name: e}); err != nil {
					t.Errorf("%s: %v", e, err)
				}
			}
			// Without a path of its own an issuer is the whole origin.
			for _, issuer := range []string{bare, bare + "/", template} {
				if err := refused(t, issuer, map[string]any{name: "https://login.example/any/x"}); err != nil {
					t.Errorf("%s: %v", issuer, err)
				}
				if err := refused(t, issuer, map[string]any{name: "https://evil.example/any/x"}); !errors.Is(err, discovery.ErrForeignEndpoint) {
					t.Errorf("%s: %v", issuer, err)
				}
			}
		})
	}
	t.Run("of no kind", func(t *testing.T) {
		for _, v := range []any{7, []string{pin + "/x"}, map[string]any{}, true} {
			if err := refused(t, pin, map[string]any{"userinfo_endpoint": v}); !errors.As(err, new(*discovery.URLError)) {
				t.Errorf("%v: %v", v, err)
			}
		}
		if err := refused(t, pin, map[string]any{"userinfo_endpoint": nil, "device_authorization_endpoint": "", "revocation_endpoint": nil}); err != nil {
			t.Error(err)
		}
	})
	t.Run("what nobody here uses may be anywhere", func(t *testing.T) {
		const at = "https://keys.example/x"
		if err := refused(t, pin, map[string]any{"jwks_uri": at, "introspection_endpoint": at, "end_session_endpoint": at, "pushed_authorization_request_endpoint": at}); err != nil {
			t.Error(err)
		}
	})
	t.Run("a pin with steps in its path is below nothing", func(t *testing.T) {
		if err := refused(t, "https://login.example/a/../y", nil); !errors.Is(err, discovery.ErrForeignEndpoint) {
			t.Error(err)
		}
	})
	t.Run("at the issuer's own addresses they may be anywhere", func(t *testing.T) {
		const at = "https://tokens.example/token"
		c, _, err := discover(t, good.with(pages{rfc8414: but(serverDoc, issuer+"/token", at)}), discovery.Request{Issuer: issuer})
		if err != nil || c.AuthorizationServer.TokenEndpoint != at {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// A permission is for documents of the server's own host, and is no pin.
func TestMayState(t *testing.T) {
	const api, realm, evil = "https://api.example.com", issuer, "https://evil.example"
	const asURL, evilURL = api + "/.well-known/oauth-authorization-server", evil + "/.well-known/oauth-authorization-server"
	announce := func(issuer string) pages { return pages{path: but(resourceDoc, realm, issuer)} }
	own := strings.Replace(serverDoc, issuer, api, 1) // endpoints at the realm
	for _, test := range []struct {
		name   string
		pages  pages
		issuer string // "": not this one
		is     func(error) bool
	}{
		{"states itself", announce(api).with(pages{asURL: doc(own)}), api, nil},
		{"states the other", announce(api).with(pages{asURL: doc(serverDoc)}), realm, nil},
		{"the other is announced", announce(realm).with(pages{rfc8414: doc(serverDoc)}), realm, nil},
		{"a third is announced", announce(evil).with(pages{evilURL: but(serverDoc, realm+`"`, evil+`"`)}), evil, nil},
		{"a third states the other", announce(evil).with(pages{evilURL: doc(serverDoc)}), "", func(err error) bool { return errors.As(err, new(*discovery.MismatchError)) }},
		{"states the other, with a token endpoint of its own", announce(api).with(pages{asURL: but(serverDoc, realm+"/token", api+"/token")}), "",
			func(err error) bool { return errors.Is(err, discovery.ErrForeignEndpoint) }},
		{"nobody is announced", pages{rfc8414: doc(serverDoc)}, "", func(err error) bool { return errors.As(err, new(*discovery.NotFoundError)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, requests, err := discover(t, test.pages, discovery.Request{MayState: realm})
			switch {
			case test.issuer == "" && !test.is(err):
				t.Errorf("got %+v, %v", c, err)
			case test.issuer != "" && (err != nil || c.Issuer != test.issuer || c.IssuerUnlisted):
				t.Errorf("got %+v, %v", c, err)
			}
			if test.issuer == "" && slices.Contains(requests, rfc8414) {
				t.Error("the other is looked for where nothing names it")
			}
		})
	}
	t.Run("with a pin it is not looked at", func(t *testing.T) {
		c, _, err := discover(t, announce(api).with(pages{asURL: doc(serverDoc)}), discovery.Request{Issuer: api, MayState: realm})
		if !errors.As(err, new(*discovery.MismatchError)) {
			t.Errorf("got %+v, %v", c, err)
		}
	})
}

func TestResourceParameter(t *testing.T) {
	for _, test := range []struct {
		name     string
		r        discovery.Request
		pages    pages
		resource string
	}{
		{"as the document writes it", discovery.Request{}, good.with(pages{path: but(resourceDoc, server, "https://API.example.com:443/mcp")}), "https://API.example.com:443/mcp"},
		{"the origin", discovery.Request{}, good.with(pages{path: nil, root: but(resourceDoc, server, "https://api.example.com")}), "https://api.example.com"},
		{"the origin with a slash", discovery.Request{}, good.with(pages{path: nil, root: but(resourceDoc, server, "https://api.example.com/")}), "https://api.example.com/"},
		{"canonical without a document", discovery.Request{Server: "HTTPS://api.example.com:443/mcp", Issuer: issuer}, good.with(pages{path: nil}), server},
		{"none", discovery.Request{NoResource: true}, good, ""},
		{"none without a document", discovery.Request{NoResource: true, Issuer: issuer}, good.with(pages{path: nil}), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.pages, test.r)
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
	silent := good.with(pages{path: but(resourceDoc, `"scopes_supported"`, `"x"`)})
	bearer := discovery.Challenge{Scheme: "Bearer", Scope: "a  b"}
	for _, test := range []struct {
		name  string
		r     discovery.Request
		pages pages
		want  []string
	}{
		{"challenge", discovery.Request{Challenge: bearer, DefaultScopes: []string{"d"}}, good, []string{"a", "b"}},
		{"resource", discovery.Request{DefaultScopes: []string{"d"}}, good, []string{"read", "write"}},
		{"default", discovery.Request{DefaultScopes: []string{"d"}}, silent, []string{"d"}},
		{"default without a document", discovery.Request{Issuer: issuer, DefaultScopes: []string{"d"}}, good.with(pages{path: nil}), []string{"d"}},
		{"none, whatever the authorization server lists", discovery.Request{}, silent.with(pages{rfc8414: but(serverDoc, "{", `{"scopes_supported": ["admin"],`)}), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.pages, test.r)
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
	base := pages{api + "/.well-known/oauth-protected-resource": file(t, "astravue-resource.json")}
	asURL := api + "/.well-known/oauth-authorization-server"
	for _, test := range []struct {
		name   string
		r      discovery.Request
		pages  pages
		issuer string
		token  string
		scopes []string
	}{
		{"Astravue, issuer on the API host", discovery.Request{Server: astravue, MayState: realm}, base.with(pages{asURL: file(t, "astravue-api.json")}),
			api, realm + "/protocol/openid-connect/token", []string{"openid", "profile", "email"}},
		{"Astravue, issuer on the authorization host", discovery.Request{Server: astravue, MayState: realm}, base.with(pages{asURL: file(t, "astravue-auth.json")}),
			realm, realm + "/protocol/openid-connect/token", []string{"openid", "profile", "email"}},
		{"Astravue, pinned to the authorization host", discovery.Request{Server: astravue, Issuer: realm}, base.with(pages{asURL: file(t, "astravue-auth.json")}),
			realm, realm + "/protocol/openid-connect/token", []string{"openid", "profile", "email"}},
		{"Keycloak before 26.4, behind a gateway that answers for it", discovery.Request{Server: "https://mcp.example.com/", Issuer: "https://kc.example.com/realms/x"}, pages{
			"https://mcp.example.com/.well-known/oauth-protected-resource":   doc(`{"resource": "https://mcp.example.com/", "authorization_servers": ["https://mcp.example.com"]}`),
			"https://mcp.example.com/.well-known/oauth-authorization-server": file(t, "keycloak.json"),
		}, "https://kc.example.com/realms/x", "https://kc.example.com/realms/x/protocol/openid-connect/token", nil},
		{"Keycloak before 26.4", discovery.Request{Server: "https://mcp.example.com/"}, pages{
			"https://mcp.example.com/.well-known/oauth-protected-resource":     doc(`{"resource": "https://mcp.example.com/", "authorization_servers": ["https://kc.example.com/realms/x"]}`),
			"https://kc.example.com/realms/x/.well-known/openid-configuration": file(t, "keycloak.json"),
		}, "https://kc.example.com/realms/x", "https://kc.example.com/realms/x/protocol/openid-connect/token", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.pages, test.r)
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
	// Real servers whose metadata states another issuer than was asked for, as
	// public reports have them. The tenants are made up.
	const s256 = `"code_challenge_methods_supported": ["S256"], `
	announces := func(other string) http.HandlerFunc { return but(resourceDoc, issuer, other) }
	const (
		atlassian = "https://auth.atlassian.com"
		entra     = "https://login.microsoftonline.com"
		template  = entra + "/{tenantid}/v2.0"
		tenant    = entra + "/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0"
	)
	entraDoc := func(issuer, userinfo string) http.HandlerFunc {
		return doc(`{"issuer": "` + issuer + `", ` + s256 + `"authorization_endpoint": "` + entra + `/organizations/oauth2/v2.0/authorize",
			"token_endpoint": "` + entra + `/organizations/oauth2/v2.0/token", "device_authorization_endpoint": "` + entra + `/organizations/oauth2/v2.0/devicecode",
			"userinfo_endpoint": "` + userinfo + `", "jwks_uri": "` + entra + `/organizations/discovery/v2.0/keys"}`)
	}
	const organizations = entra + "/organizations/v2.0"
	for _, test := range []struct {
		name  string
		pin   string
		pages pages
		is    error // nil: it works
	}{
		{"Atlassian: a tenant announced, the host stated", atlassian, pages{
			path: announces(atlassian + "/VCeD"),
			atlassian + "/.well-known/oauth-authorization-server/VCeD": doc(`{"issuer": "` + atlassian + `", ` + s256 + `"authorization_endpoint": "` + atlassian + `/authorize",
				"token_endpoint": "` + atlassian + `/oauth/token", "registration_endpoint": "` + atlassian + `/VCeD/dcr/register"}`),
		}, nil},
		{"Atlassian's older server: one issuer on two hosts is not reachable, since a hostile document looks just so", "https://cf.mcp.atlassian.com", pages{
			path: announces("https://mcp.atlassian.com"),
			"https://mcp.atlassian.com/.well-known/oauth-authorization-server": doc(`{"issuer": "https://cf.mcp.atlassian.com", ` + s256 + `"authorization_endpoint": "https://mcp.atlassian.com/v1/authorize",
				"token_endpoint": "https://cf.mcp.atlassian.com/v1/token", "registration_endpoint": "https://cf.mcp.atlassian.com/v1/register"}`),
		}, discovery.ErrForeignEndpoint},
		{"Entra: the template of all tenants", template, pages{
			path: announces(organizations), organizations + "/.well-known/openid-configuration": entraDoc(template, entra+"/organizations/openid/userinfo"),
		}, nil},
		{"Entra as it is: userinfo on another host is not reachable by the template", template, pages{
			path: announces(organizations), organizations + "/.well-known/openid-configuration": entraDoc(template, "https://graph.microsoft.com/oidc/userinfo"),
		}, discovery.ErrForeignEndpoint},
		{"Entra as it is, by the tenant's own issuer", tenant, pages{
			path: announces(organizations), organizations + "/.well-known/openid-configuration": entraDoc(template, "https://graph.microsoft.com/oidc/userinfo"),
			tenant + "/.well-known/openid-configuration": entraDoc(tenant, "https://graph.microsoft.com/oidc/userinfo"),
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _, err := discover(t, test.pages, discovery.Request{Issuer: test.pin})
			if !errors.Is(err, test.is) || err == nil && (c.Issuer != test.pin || !c.IssuerUnlisted) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
	t.Run("the pair is an exception for its name only", func(t *testing.T) {
		_, _, err := discover(t, base.with(pages{asURL: file(t, "astravue-auth.json")}), discovery.Request{Server: astravue})
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
	t.Parallel() // it waits
	t.Run("the context ends the search", func(t *testing.T) {
		t.Parallel()
		hc, requests := good.with(pages{path: hang, root: doc(resourceDoc)}).serve(t)
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
		t.Parallel()
		hc, _ := good.with(pages{path: hang, root: doc(resourceDoc)}).serve(t)
		hc.Timeout = time.Second
		c, err := discovery.Discover(t.Context(), discovery.Request{Server: server, HTTPClient: hc})
		if err != nil || c.ProtectedResourceURL != root {
			t.Errorf("got %v, %v", c, err)
		}
	})
}

var (
	errReached = errors.New("the network was reached")
	refuse     = &http.Client{Transport: testenv.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, errReached })}
)

func TestResourcesThatAServerLists(t *testing.T) {
	for list, want := range map[string]bool{
		`null`: true, `[]`: true, `"all"`: true, `7`: true, `{}`: true, `["https://other.example/mcp",7]`: true,
		`["https://other.example/mcp","https://API.example.com:443/mcp"]`: true, `["https://other.example/mcp"]`: false,
		`["https://api.example.com/mcp/"]`: false, `["https://api.example.com"]`: false, `["%"]`: false,
	} {
		var a discovery.AuthorizationServer
		if err := json.Unmarshal([]byte(`{"issuer":"i","protected_resources":`+list+`,"token_endpoint":"t"}`), &a); err != nil || a.Issuer != "i" || a.TokenEndpoint != "t" {
			t.Errorf("%s: %+v, %v", list, a, err)
		}
		if got := a.MayServe("https://api.example.com/mcp"); got != want {
			t.Errorf("%s: %v", list, got)
		}
	}
}
