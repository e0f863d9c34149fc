package keycloak

import (
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// A side is one of the two servers that are compared.
type side struct {
	t                       *testing.T
	origin, realm, resource string
	public, confidential    string // clients
	secret                  string
	callback                string // address
	callbacks               chan url.Values
	signIn                  func(address string) error
}

// A reply is what a probe compares: the shape of an answer and the words for machines in it.
type reply struct {
	Status      int
	Type        string
	Error       string
	Description string
	Members     []string // of the JSON object
	Redirect    []string // parameters of the redirect to the client
}

const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func (s *side) request(method, address, contentType, body string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := httpClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	r := reply{Status: res.StatusCode}
	r.Type, _, _ = mime.ParseMediaType(res.Header.Get("Content-Type"))
	if at, err := res.Location(); err == nil && strings.HasPrefix(at.String(), s.callback) {
		q := at.Query()
		r.Type = ""
		r.Redirect = slices.Sorted(maps.Keys(q))
		r.Error, r.Description = q.Get("error"), q.Get("error_description")
		if q.Get("iss") != s.realm {
			s.t.Errorf("iss is %q", q.Get("iss"))
		}
	}
	var members object
	if r.Type == "application/json" && json.NewDecoder(res.Body).Decode(&members) == nil {
		r.Members = slices.Sorted(maps.Keys(members))
		r.Error, _ = members["error"].(string)
		r.Description, _ = members["error_description"].(string)
	}
	return r
}

func (s *side) get(path string) reply { return s.request("GET", s.origin+path, "", "") }

// values makes parameters of "name=value" in place of those of base; "name=" takes one away.
func values(base url.Values, changes ...string) url.Values {
	v := maps.Clone(base)
	for _, c := range changes {
		name, value, _ := strings.Cut(c, "=")
		if v.Del(name); value != "" {
			v.Set(name, value)
		}
	}
	return v
}

func (s *side) authorize(changes ...string) reply {
	s.t.Helper()
	return s.request("GET", s.realm+"/protocol/openid-connect/auth?"+s.question(changes...).Encode(), "", "")
}

func (s *side) question(changes ...string) url.Values {
	return values(url.Values{
		"response_type": {"code"}, "client_id": {s.public}, "redirect_uri": {s.callback}, "scope": {"openid profile email"}, "state": {"the state"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "resource": {s.resource},
	}, changes...)
}

func (s *side) form(endpoint string, base url.Values, changes ...string) reply {
	s.t.Helper()
	return s.request("POST", s.realm+"/protocol/openid-connect/"+endpoint, "application/x-www-form-urlencoded", values(base, changes...).Encode())
}

// code signs in and returns a code.
func (s *side) code() string {
	s.t.Helper()
	if err := s.signIn(s.realm + "/protocol/openid-connect/auth?" + s.question().Encode()); err != nil {
		s.t.Fatal(err)
	}
	return (<-s.callbacks).Get("code")
}

func (s *side) exchange(changes ...string) reply {
	s.t.Helper()
	return s.form("token", url.Values{"grant_type": {"authorization_code"}, "client_id": {s.public}, "code": {s.code()},
		"redirect_uri": {s.callback}, "code_verifier": {verifier}, "resource": {s.resource}}, changes...)
}

func (s *side) renew(token string, changes ...string) reply {
	s.t.Helper()
	return s.form("token", url.Values{"grant_type": {"refresh_token"}, "client_id": {s.public}, "refresh_token": {token}}, changes...)
}

func (s *side) revoke(token string, changes ...string) reply {
	s.t.Helper()
	return s.form("revoke", url.Values{"client_id": {s.public}, "token": {token}}, changes...)
}

func (s *side) register(body string) reply {
	s.t.Helper()
	return s.request("POST", s.realm+"/clients-registrations/openid-connect", "application/json", body)
}

// registerAs sends a good registration as something that it may not be.
func (s *side) registerAs(contentType string) reply {
	s.t.Helper()
	return s.request("POST", s.realm+"/clients-registrations/openid-connect", contentType,
		`{"client_name":"probe","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`)
}

// grant yields the tokens of a new sign-in.
func (s *side) grant() (access, refresh string) {
	s.t.Helper()
	_, answer := post(s.t, s.realm+"/protocol/openid-connect/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {s.public}, "code": {s.code()},
		"redirect_uri": {s.callback}, "code_verifier": {verifier}, "resource": {s.resource}})
	access, _ = answer["access_token"].(string)
	refresh, _ = answer["refresh_token"].(string)
	if access == "" || refresh == "" {
		s.t.Fatalf("sign-in: %v", answer["error"])
	}
	return access, refresh
}

// spentToken is a refresh token that was used.
func (s *side) spentToken() (spent, next string) {
	s.t.Helper()
	_, spent = s.grant()
	_, answer := post(s.t, s.realm+"/protocol/openid-connect/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {s.public}, "refresh_token": {spent}})
	next, _ = answer["refresh_token"].(string)
	return spent, next
}

const (
	stricter = "the sandbox demands what a good client does, so that one which does not is found out"
	worded   = "the sandbox says more precisely what is wrong"
)

// probes must be answered alike, except where differs says why not.
var probes = []struct {
	name    string
	ask     func(*side) reply
	differs string
}{
	{"metadata, path inserted", func(s *side) reply { return s.get("/.well-known/oauth-authorization-server/realms/astravue") },
		"Keycloak has members for grants, logout and encryption that no MCP client uses"},
	{"OpenID metadata, path inserted", func(s *side) reply {
		r := s.get("/.well-known/openid-configuration/realms/astravue")
		return reply{Status: r.Status}
	}, ""},
	{"OpenID metadata, path appended", func(s *side) reply {
		r := s.get("/realms/astravue/.well-known/openid-configuration")
		return reply{Status: r.Status, Type: r.Type}
	}, ""},

	{"sign-in page", func(s *side) reply { return s.authorize() }, ""},
	{"unknown client", func(s *side) reply { return s.authorize("client_id=nobody") }, ""},
	{"no client", func(s *side) reply { return s.authorize("client_id=") }, ""},
	{"redirect address of another path", func(s *side) reply { return s.authorize("redirect_uri=http://127.0.0.1:5555/other") }, ""},
	{"redirect address of another host", func(s *side) reply { return s.authorize("redirect_uri=https://nobody.example/callback") }, ""},
	{"no redirect address", func(s *side) reply { return s.authorize("redirect_uri=") }, ""},
	{"no response_type", func(s *side) reply { return s.authorize("response_type=") }, ""},
	{"unknown response_type", func(s *side) reply { return s.authorize("response_type=magic") }, ""},
	{"unknown response_mode", func(s *side) reply { return s.authorize("response_mode=magic") }, ""},
	{"unknown scope", func(s *side) reply { return s.authorize("scope=openid nonsense") }, ""},
	{"short challenge", func(s *side) reply { return s.authorize("code_challenge=short") }, ""},
	{"no challenge", func(s *side) reply { return s.authorize("code_challenge=") }, ""},
	{"no PKCE", func(s *side) reply { return s.authorize("code_challenge=", "code_challenge_method=") }, stricter},
	{"plain PKCE", func(s *side) reply { return s.authorize("code_challenge_method=plain") }, stricter},
	{"prompt=none", func(s *side) reply { return s.authorize("prompt=none") }, ""},
	{"unknown prompt", func(s *side) reply { return s.authorize("prompt=magic") }, stricter},
	{"unknown resource", func(s *side) reply { return s.authorize("resource=https://nobody.example/mcp") },
		"Keycloak ignores resource, or with resource-indicators refuses it at the exchange; the sandbox does so at once"},

	{"exchange", func(s *side) reply { return s.exchange() }, ""},
	{"exchange without code", func(s *side) reply { return s.exchange("code=") }, ""},
	{"exchange of an unknown code", func(s *side) reply { return s.exchange("code=nonsense") }, ""},
	{"exchange with another verifier", func(s *side) reply { return s.exchange("code_verifier=" + challenge) }, ""},
	{"exchange with a malformed verifier", func(s *side) reply { return s.exchange("code_verifier=short") }, ""},
	{"exchange without verifier", func(s *side) reply { return s.exchange("code_verifier=") }, ""},
	{"exchange with another redirect address", func(s *side) reply { return s.exchange("redirect_uri=http://127.0.0.1:5556/callback") }, ""},
	{"exchange without redirect address", func(s *side) reply { return s.exchange("redirect_uri=") }, ""},
	{"exchange by another client", func(s *side) reply { return s.exchange("client_id="+s.confidential, "client_secret="+s.secret) }, ""},
	{"exchange without resource", func(s *side) reply { return s.exchange("resource=") }, stricter},
	{"code used twice", func(s *side) reply {
		code := "code=" + s.code()
		s.form("token", url.Values{"grant_type": {"authorization_code"}, "client_id": {s.public}, "redirect_uri": {s.callback}, "code_verifier": {verifier}, "resource": {s.resource}}, code)
		return s.form("token", url.Values{"grant_type": {"authorization_code"}, "client_id": {s.public}, "redirect_uri": {s.callback}, "code_verifier": {verifier}, "resource": {s.resource}}, code)
	}, ""},

	{"refresh", func(s *side) reply { _, token := s.grant(); return s.renew(token) }, ""},
	{"refresh without token", func(s *side) reply { return s.renew("", "refresh_token=") }, ""},
	{"refresh of nonsense", func(s *side) reply { return s.renew("nonsense") }, ""},
	{"refresh of an access token", func(s *side) reply { token, _ := s.grant(); return s.renew(token) }, ""},
	{"refresh by another client", func(s *side) reply {
		_, token := s.grant()
		return s.renew(token, "client_id="+s.confidential, "client_secret="+s.secret)
	}, ""},
	{"refresh of a spent token", func(s *side) reply { spent, _ := s.spentToken(); return s.renew(spent) }, ""},
	{"refresh after reuse", func(s *side) reply { spent, next := s.spentToken(); s.renew(spent); return s.renew(next) }, ""},
	{"refresh after revocation", func(s *side) reply { _, token := s.grant(); s.revoke(token); return s.renew(token) }, ""},

	{"no grant_type", func(s *side) reply { return s.renew("x", "grant_type=") }, ""},
	{"unknown grant_type", func(s *side) reply { return s.renew("x", "grant_type=magic") }, ""},
	{"unknown client at the token endpoint", func(s *side) reply { return s.renew("x", "client_id=nobody") }, ""},
	{"no client at the token endpoint", func(s *side) reply { return s.renew("x", "client_id=") }, ""},
	{"wrong secret", func(s *side) reply { return s.renew("x", "client_id="+s.confidential, "client_secret=wrong") }, ""},
	{"no secret", func(s *side) reply { return s.renew("x", "client_id="+s.confidential) }, ""},
	{"doubled parameter", func(s *side) reply {
		return s.request("POST", s.realm+"/protocol/openid-connect/token", "application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=x&refresh_token=x&client_id="+s.public)
	}, ""},
	{"JSON at the token endpoint", func(s *side) reply {
		return s.request("POST", s.realm+"/protocol/openid-connect/token", "application/json", "{}")
	}, worded},

	{"revocation of a refresh token", func(s *side) reply { _, token := s.grant(); return s.revoke(token) }, ""},
	{"revocation of an access token", func(s *side) reply { token, _ := s.grant(); return s.revoke(token) }, ""},
	{"revocation of nonsense", func(s *side) reply { return s.revoke("nonsense") },
		"Keycloak answers 200 with an error in it; the sandbox 200 with nothing, as RFC 7009 §2.2 has it"},
	{"revocation of nothing", func(s *side) reply { return s.revoke("", "token=") }, ""},
	{"revocation by an unknown client", func(s *side) reply { return s.revoke("x", "client_id=nobody") }, ""},
	{"revocation with a wrong secret", func(s *side) reply { return s.revoke("x", "client_id="+s.confidential, "client_secret=wrong") }, ""},
	{"revocation by another client", func(s *side) reply {
		_, token := s.grant()
		return s.revoke(token, "client_id="+s.confidential, "client_secret="+s.secret)
	}, ""},

	{"registration of a public client", func(s *side) reply {
		return s.register(`{"client_name":"probe","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`)
	}, "the sandbox repeats application_type, as RFC 7591 §3.2.1 asks of what was registered"},
	{"registration with a fragment", func(s *side) reply {
		return s.register(`{"client_name":"probe","redirect_uris":["http://127.0.0.1/callback#x"]}`)
	}, ""},
	{"registration without redirect address", func(s *side) reply { return s.register(`{"client_name":"probe"}`) }, stricter},
	{"registration with a wildcard", func(s *side) reply {
		return s.register(`{"client_name":"probe","redirect_uris":["http://127.0.0.1/*"]}`)
	}, stricter},
	{"registration of a client ID", func(s *side) reply {
		return s.register(`{"client_name":"probe","client_id":"me","redirect_uris":["http://127.0.0.1/callback"]}`)
	}, ""},
	{"registration of an unknown method", func(s *side) reply {
		return s.register(`{"client_name":"probe","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"magic"}`)
	}, worded},
	{"registration that is no JSON", func(s *side) reply { return s.register("nonsense") }, ""},
	{"registration as text/plain", func(s *side) reply { return s.registerAs("text/plain") }, ""},
	{"registration as a form", func(s *side) reply { return s.registerAs("application/x-www-form-urlencoded") }, ""},
	{"registration of no type", func(s *side) reply { return s.registerAs("") }, stricter},
	{"registration with a charset", func(s *side) reply { return reply{Status: s.registerAs("application/json; charset=utf-8").Status} }, ""},
	{"registration of a malformed type", func(s *side) reply { return reply{Status: s.registerAs("application/json;").Status} }, ""},
	{"registration of a JSON type of its own", func(s *side) reply { return s.registerAs("application/problem+json") }, ""},
	{"multipart at the token endpoint", func(s *side) reply {
		return s.request("POST", s.realm+"/protocol/openid-connect/token", "multipart/form-data; boundary=x", "--x--")
	}, worded},
	{"text at the token endpoint", func(s *side) reply {
		return s.request("POST", s.realm+"/protocol/openid-connect/token", "text/plain", "grant_type=refresh_token")
	}, worded},
	{"text at the revocation endpoint", func(s *side) reply {
		return s.request("POST", s.realm+"/protocol/openid-connect/revoke", "text/plain", "token=x")
	}, worded},
}

// TestProbes compares the sandbox with Keycloak.
func TestProbes(t *testing.T) {
	k := testenv.Keycloak(t, "")
	box := testenv.Sandbox(t, sandbox.Options{})
	callbacks := make(chan url.Values, 1)
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			callbacks <- r.URL.Query()
		}
	}))
	defer callback.Close()
	app, secret := box.App()
	olivia := newBrowser("olivia")
	guest := newBrowser("olivia")
	guest.password = "olivia-sandbox"
	for _, p := range probes {
		t.Run(p.name, func(t *testing.T) {
			keycloak := &side{t: t, origin: k.Origin, realm: k.Issuer, resource: k.MCP.URL,
				public: "public", confidential: "astravue-app", secret: "acme-reports-secret",
				signIn: func(address string) error { return olivia.open(t.Context(), address) }}
			local := &side{t: t, origin: box.AuthURL(), realm: box.Issuer(), resource: box.URL(),
				public: box.PublicClient(), confidential: app, secret: secret,
				signIn: func(address string) error { return guest.open(t.Context(), address) }}
			for _, s := range []*side{keycloak, local} {
				s.callback, s.callbacks = callback.URL+"/callback", callbacks
			}
			diff := cmp.Diff(p.ask(keycloak), p.ask(local))
			switch {
			case p.differs == "" && diff != "":
				t.Errorf("(-Keycloak +sandbox)\n%s", diff)
			case p.differs != "" && diff == "":
				t.Errorf("there is no difference any more: %s", p.differs)
			}
		})
	}
}
