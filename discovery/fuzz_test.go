package discovery_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	gopath "path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// print writes c as a server would.
func print(c discovery.Challenge) string {
	s, sep := c.Scheme, " "
	for _, p := range [][2]string{{"resource_metadata", c.ResourceMetadata}, {"scope", c.Scope}, {"error", c.Error}, {"error_description", c.ErrorDescription}} {
		if p[1] != "" {
			s += sep + p[0] + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p[1]) + `"`
			sep = ", "
		}
	}
	return s
}

func parse(lines ...string) discovery.Challenge {
	return discovery.ParseChallenge(http.Header{"Www-Authenticate": lines})
}

var quotedPair = regexp.MustCompile(`(?s)\\(.)`)

// FuzzParseChallenge holds that what is read of a header is in it, under its
// name, and can be printed and read again; that a line without a challenge hides
// none on the next; and that whatever a server quotes arrives, between the
// challenges of other schemes.
func FuzzParseChallenge(f *testing.F) {
	for _, line := range []string{
		// RFC 9728 §5.1, RFC 6750 §3.
		`Bearer resource_metadata="https://resource.example.com/.well-known/oauth-protected-resource"`,
		`Bearer realm="example", error="invalid_token", error_description="The access token expired"`,
		`DPoP error="use_dpop_nonce", algs="ES256", Bearer scope="openid email"`,
		`Negotiate YII==, Basic realm="\\", Bearer error=invalid_token`,
		"Bearer a=b\tc",
	} {
		f.Add(line, `a"b`, `\`)
	}
	f.Fuzz(func(t *testing.T, line, a, b string) {
		c := parse(line)
		unquoted := quotedPair.ReplaceAllString(line, "$1")
		for name, value := range map[string]string{
			"bearer": c.Scheme, "resource_metadata": c.ResourceMetadata, "scope": c.Scope, "error": c.Error, "error_description": c.ErrorDescription,
		} {
			switch {
			case value == "":
			case c.Scheme != "Bearer":
				t.Errorf("%q: %s without a challenge: %q", line, name, value)
			case !strings.Contains(strings.ToLower(line), name), name != "bearer" && !strings.Contains(line, value) && !strings.Contains(unquoted, value):
				t.Errorf("%q holds no %s %q", line, name, value)
			}
		}
		if c.Scheme != "" && parse(print(c)) != c {
			t.Errorf("%q: %+v is printed as %q and read as %+v", line, c, print(c), parse(print(c)))
		}

		if strings.ContainsAny(a+b, "\r\n") {
			return // net/http lets none through
		}
		server := discovery.Challenge{Scheme: "Bearer", ResourceMetadata: b, Scope: a, Error: a, ErrorDescription: b}
		second := `Basic realm="x", ` + print(server) + ", Negotiate"
		if got := parse(second); got != server {
			t.Errorf("%q is read as %+v", second, got)
		}
		if got := parse(print(server) + ", SCOPE=x"); a != "" && got != (discovery.Challenge{}) {
			t.Errorf("with a second scope %q is read as %+v", print(server), got)
		}
		want := c
		if c.Scheme == "" {
			want = server
		}
		if got := parse(line, second); got != want {
			t.Errorf("%q, then %q is read as %+v, want %+v", line, second, got, want)
		}
	})
}

func loopback(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	return strings.EqualFold(u.Hostname(), "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// answering is a client that hands each address to answer, once it is one that
// may be asked on behalf of a public server.
func answering(t *testing.T, answer func(u *url.URL) string) *http.Client {
	return &http.Client{Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
		if u := r.URL; r.Method != "GET" || u.Scheme != "https" && u.Host != "127.0.0.1:3000" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s was asked for", r.Method, u)
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer(r.URL))), Request: r}, nil
	})}
}

// members reads a JSON object without the code under test: its members, by
// their names in one case.
func members(doc string) map[string]any {
	var object map[string]any
	_ = json.Unmarshal([]byte(doc), &object)
	m := make(map[string]any, len(object))
	for name, value := range object {
		m[strings.ToLower(strings.ToUpper(name))] = value // the long s, too
	}
	return m
}

// states compares each field of what was read with the member of doc.
func states(t *testing.T, doc string, read any) {
	t.Helper()
	said := members(doc)
	v := reflect.ValueOf(read).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		got := v.Field(i)
		want := reflect.New(got.Type()) // null is none
		if data, err := json.Marshal(said[name]); err != nil || json.Unmarshal(data, want.Interface()) != nil {
			t.Errorf("%s is read as %#v of %s", name, got, doc)
		}
		if !reflect.DeepEqual(got.Interface(), want.Elem().Interface()) {
			t.Errorf("%s is read as %#v of %s", name, got, doc)
		}
	}
}

// law is a name that no document has.
const law = "a name that no document has"

// object returns doc with another member before its own.
func object(doc, member string) string {
	return "{" + member + "," + strings.TrimLeft(doc, " \t\r\n")[1:]
}

// sentence holds that an error is one: not the document, and nothing that moves
// the cursor.
func sentence(t *testing.T, err error) {
	t.Helper()
	if s := err.Error(); len(s) > 4<<10 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		t.Errorf("an error of %d bytes: %.300q", len(s), s)
	}
}

func seed(f *testing.F, names ...string) (docs []string) {
	for _, name := range names {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		docs = append(docs, string(data))
	}
	return docs
}

// FuzzResourceMetadata holds, for whatever a resource publishes and wherever
// its challenge points: what is accepted is about the server that was asked;
// it is sent on as it was written; the issuer is the first it names, and one
// that may be asked; a member that nobody knows changes nothing; one that comes
// twice, in whatever case, ends it.
func FuzzResourceMetadata(f *testing.F) {
	for _, doc := range append(seed(f, "astravue-resource.json"), resourceDoc,
		// RFC 9728 §3.2.
		`{"resource":"https://api.example.com/mcp","authorization_servers":["https://as1.example.com","https://as2.example.net"],
			"bearer_methods_supported":["header","body"],"scopes_supported":["profile","email","phone"],"resource_documentation":"https://resource.example.com/resource_documentation.html"}`,
		`{"resource":"HTTPS://API.example.com:443/mcp","authorization_servers":["https://AUTH.example.com:443/realms/x/"]}`,
		`{"resource":"https://api.example.com/","authorization_servers":["https://[2001:db8::1]:8443/a%2fb"]}`,
		`{"resource":"https://api.example.com/mcp#","authorization_servers":["https://auth.example.com"]}`,
		`{"resource":"https://api.example.com/mcp","authorization_servers":["https://auth.example.com?x"]}`,
		`{"Resource":"https://api.example.com/mcp","authorization_servers":["https://a",null,1e999]}`,
		`{"resource":"https://api.example.com/mcp","authorization_servers":["javascript:alert(1)"]}`,
		`{"resource":"https://api.example.com/mcp","authorization_servers":["http://127.0.0.1"],"RESOURCE":1}`,
	) {
		f.Add(doc, "")
		f.Add(doc, "https://API.example.com:443/.well-known/oauth-protected-resource?x")
	}
	f.Add(resourceDoc, "https://user@meta.example.com/r")
	f.Add(resourceDoc, "http://169.254.169.254/latest")
	f.Add(resourceDoc, root)
	f.Fuzz(func(t *testing.T, doc, challenge string) {
		said := members(doc)
		list, _ := said["authorization_servers"].([]any)
		var first string
		if len(list) > 0 {
			first, _ = list[0].(string)
		}
		as, _ := json.Marshal(map[string]any{"issuer": first, "authorization_endpoint": issuer + "/auth", "token_endpoint": issuer + "/token", "code_challenge_methods_supported": []string{"S256"}})
		discover := func(doc string) (*discovery.Configuration, error) {
			asked := 0
			return discovery.Discover(t.Context(), discovery.Request{
				Server:    server,
				Challenge: discovery.Challenge{Scheme: "Bearer", ResourceMetadata: challenge},
				HTTPClient: answering(t, func(u *url.URL) string {
					if asked++; asked > 6 {
						t.Errorf("%s is the address number %d", u, asked)
					}
					// One path of every issuer's is of this form, and none of a resource's.
					if strings.HasPrefix(u.Path, "/.well-known/oauth-authorization-server") {
						return string(as)
					}
					return doc
				}),
			})
		}
		c, err := discover(doc)
		if err != nil {
			if c != nil {
				t.Errorf("a configuration beside %v", err)
			}
			sentence(t, err)
			return
		}

		scheme, rest, _ := strings.Cut(c.Resource, "://")
		host, path := rest, ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			host, path = rest[:i], rest[i:]
		}
		host = strings.ToLower(host)
		if host = strings.TrimSuffix(strings.TrimSuffix(host, "443"), ":"); !strings.EqualFold(scheme, "https") || host != "api.example.com" {
			t.Errorf("resource %q is another host's", c.Resource)
		}
		if path != "/mcp" && !((path == "" || path == "/") && c.ProtectedResourceURL == root) {
			t.Errorf("resource %q, stated at %s", c.Resource, c.ProtectedResourceURL)
		}
		if c.Resource != said["resource"] || c.Resource != c.ProtectedResource.Resource {
			t.Errorf("resource %q of %s", c.Resource, doc)
		}
		states(t, doc, c.ProtectedResource)
		if u, err := url.Parse(c.Issuer); c.Issuer != first || err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(c.Issuer, "?#") {
			t.Errorf("issuer %q of %q", c.Issuer, list)
		}
		if !slices.Equal(c.Scopes, c.ProtectedResource.ScopesSupported) {
			t.Errorf("scopes %q", c.Scopes)
		}

		if again, err := discover(object(doc, `"`+law+`":{"resource":["x",1e999]}`)); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("with an unknown member: %+v, %v; without: %+v", again, err, c)
		}
		if _, err := discover(object(doc, `"\u0052esource":"https://api.example.com/mcp"`)); err == nil {
			t.Errorf("resource twice is accepted in %s", doc)
		}
	})
}

// FuzzServerMetadata holds, for whatever an authorization server publishes: the
// issuer is the one that was asked, or the one that the user pinned, and then
// every endpoint is there; addresses are https ones, or, where the MCP server is on loopback, on loopback too, without
// user or fragment; there is S256; all that was read is what is written there; a
// member that nobody knows changes nothing; one that comes twice, in whatever
// case, ends it.
func FuzzServerMetadata(f *testing.F) {
	docs := append(seed(f, "astravue-auth.json", "astravue-api.json", "keycloak.json"), serverDoc,
		// RFC 8414 §3.2, with what MCP asks for.
		`{"issuer":"https://server.example.com","authorization_endpoint":"https://server.example.com/authorize","token_endpoint":"https://server.example.com/token",
			"token_endpoint_auth_methods_supported":["client_secret_basic","private_key_jwt"],"token_endpoint_auth_signing_alg_values_supported":["RS256","ES256"],
			"userinfo_endpoint":"https://server.example.com/userinfo","jwks_uri":"https://server.example.com/jwks.json","registration_endpoint":"https://server.example.com/register",
			"scopes_supported":["openid","profile","email","address","phone","offline_access"],"response_types_supported":["code","code token"],
			"service_documentation":"http://server.example.com/service_documentation.html","ui_locales_supported":["en-US","en-GB","en-CA","fr-FR","fr-CA"],"code_challenge_methods_supported":["S256"]}`,
	)
	for i, doc := range docs {
		for _, at := range []string{"https://auth.astravue.com/realms/astravue", "https://api.astravue.com", "https://kc.example.com/realms/x", "https://server.example.com"} {
			doc = strings.ReplaceAll(doc, at, issuer)
		}
		docs[i] = doc
		f.Add(doc, i%2 == 0, i%3 == 0)
	}
	for _, swap := range [][2]string{
		{issuer + "/auth", "javascript:alert(1)"}, {issuer + "/token", "https://u:p@auth.example.com/token"}, {issuer + "/token", "http://127.0.0.1/token"},
		{issuer + "/token", "http://localhost.evil.example/token"},
		{issuer + "/token", "http://[::ffff:127.0.0.1]/token"}, {issuer + "/token", "http://169.254.169.254/token"},
		{issuer + "/revoke", "https://auth.example.com/#"}, {`"issuer"`, `"ISSUER"`}, {issuer + `"`, issuer + `/"`}, {issuer + `"`, pinned + `"`}, {`"S256"`, `"s256"`},
		{`"S256"`, `null`}, {`{`, `{"authorization_response_iss_parameter_supported":"true",`}, {`{`, `{"client_id_metadata_document_supported":true,`},
	} {
		f.Add(strings.Replace(serverDoc, swap[0], swap[1], 1), true, false)
		f.Add(strings.Replace(serverDoc, swap[0], swap[1], 1), false, true)
	}
	f.Add(strings.ReplaceAll(serverDoc, issuer, pinned), true, false)
	f.Fuzz(func(t *testing.T, doc string, pin, local bool) {
		server := server
		if local {
			server = "http://127.0.0.1:3000/mcp"
		}
		discover := func(doc string) (*discovery.Configuration, error) {
			r := discovery.Request{Server: server, HTTPClient: answering(t, func(u *url.URL) string {
				if u.Host == "api.example.com" || u.Host == "127.0.0.1:3000" {
					return `{"resource": "` + server + `", "authorization_servers": ["` + issuer + `"], "scopes_supported": ["read", "write"]}`
				}
				if pin && u.Host == "login.example.com" {
					return "{}" // the pinned issuer publishes nothing of use
				}
				if u.Host != "auth.example.com" {
					t.Errorf("%s was asked for", u)
				}
				return doc
			})}
			if pin {
				r.Issuer = pinned
			}
			return discovery.Discover(t.Context(), r)
		}
		c, err := discover(doc)
		if err != nil {
			if c != nil {
				t.Errorf("a configuration beside %v", err)
			}
			sentence(t, err)
			return
		}
		a := c.AuthorizationServer
		want := issuer
		if pin {
			want = pinned
		}
		if a.Issuer != want || c.Issuer != a.Issuer || c.IssuerUnlisted != pin {
			t.Errorf("issuer %q, and %q", c.Issuer, a.Issuer)
		}
		for i, e := range []string{a.AuthorizationEndpoint, a.TokenEndpoint, a.RegistrationEndpoint, a.RevocationEndpoint} {
			if e == "" && i >= 2 {
				continue
			}
			u, err := url.Parse(e)
			if err != nil || u.Scheme != "https" && !(local && u.Scheme == "http" && loopback(u)) || u.Hostname() == "" || u.User != nil || strings.Contains(e, "#") {
				t.Errorf("endpoint %q", e)
			}
			if pin && !(u.Scheme == "https" && strings.EqualFold(u.Hostname(), "login.example.com") && (u.Port() == "" || u.Port() == "443")) {
				t.Errorf("endpoint %q is not at the issuer that the document states", e)
			}
		}
		if !slices.Contains(a.CodeChallengeMethodsSupported, "S256") {
			t.Errorf("without PKCE: %q", a.CodeChallengeMethodsSupported)
		}
		states(t, doc, a)
		if c.Resource != server || !slices.Equal(c.Scopes, []string{"read", "write"}) {
			t.Errorf("the authorization server decides on resource %q and scopes %q", c.Resource, c.Scopes)
		}

		if again, err := discover(object(doc, `"`+law+`":{"issuer":["x",1e999]}`)); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("with an unknown member: %+v, %v; without: %+v", again, err, c)
		}
		if _, err := discover(object(doc, `"I\u017f\u017fuer":"`+issuer+`"`)); err == nil {
			t.Errorf("issuer twice is accepted in %s", doc)
		}
	})
}

// pinned is an issuer that a user trusts by name.
const pinned = "https://login.example.com"

// FuzzForeignEndpoint holds that an endpoint which a document found elsewhere
// gives to a pinned issuer with a path is below that path however it is read:
// as it is sent, with its dots taken out, and as browsers and servers read it
// that take a backslash for a slash, decode what was escaped, or drop parameters.
func FuzzForeignEndpoint(f *testing.F) {
	const host, base = "https://login.example.com", "/realms/y"
	for _, e := range []string{
		host + base + "/token", "HTTPS://LOGIN.example.com:443" + base + "/token?x=/../", host + base + "/a;b=c/token", host + base + "/日本",
		host + "/realms/z/token", host + base + "z/token", host + base, host + base + "//token", host + "//realms/y/token", host + "/Realms/y/token",
		host + base + "/../z/token", host + base + "/%2e%2E/z/token", host + base + "/..%2fz/token", host + base + `/..\z/token`, host + base + "/..%5cz/token",
		host + base + "/..;/z/token", host + base + "/..;a=b/z/token", host + base + "/%252e%252e/z/token", host + base + "/.. /z", host + base + "/\uff0e\uff0e/z",
		host + base + "/%c0%ae%c0%ae/z", host + "/realms/z/../y/token", host + "/realms/%79/token", host + ".:443" + base + "/token", host + "." + base + "/token",
		host + ":444" + base + "/token", "http://login.example.com" + base + "/token", "https://u@login.example.com" + base + "/token",
		"https://login.example.com@evil.example" + base + "/token", `https://login.example.com\@evil.example` + base + "/token", "//login.example.com" + base + "/token",
	} {
		f.Add(e)
	}
	dots := regexp.MustCompile(`(?i)%25|%2e|%2f|%5c|\\|;[^/]*`)
	f.Fuzz(func(t *testing.T, endpoint string) {
		doc, err := json.Marshal(map[string]any{
			"issuer": host + base, "code_challenge_methods_supported": []string{"S256"},
			"authorization_endpoint": host + base + "/auth", "token_endpoint": endpoint,
		})
		if err != nil {
			return
		}
		c, err := discovery.Discover(t.Context(), discovery.Request{Server: server, Issuer: host + base, HTTPClient: answering(t, func(u *url.URL) string {
			switch u.Host {
			case "api.example.com":
				return resourceDoc
			case "auth.example.com":
				return string(doc)
			}
			return "{}"
		})})
		if err != nil {
			sentence(t, err)
			return
		}
		u, err := url.Parse(c.AuthorizationServer.TokenEndpoint)
		if err != nil || u.Scheme != "https" || strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(u.Host), ":443"), ".") != "login.example.com" || u.User != nil {
			t.Fatalf("%q is at another origin", endpoint)
		}
		sent, read := u.EscapedPath(), u.EscapedPath()
		for range 3 { // decoded once, and again by those who decode twice
			read = dots.ReplaceAllStringFunc(read, func(s string) string {
				return map[string]string{"%25": "%", "%2e": ".", "%2f": "/", "%5c": "/", `\`: "/"}[strings.ToLower(s)]
			})
		}
		for _, p := range []string{sent, gopath.Clean(sent), gopath.Clean(read)} {
			if !strings.HasPrefix(p, base+"/") {
				t.Errorf("%q can be read as %q", endpoint, p)
			}
		}
	})
}
