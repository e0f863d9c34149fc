package dcr_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/secret"
)

var native = dcr.Metadata{
	ClientName:   "Acme Notes",
	RedirectURIs: []string{"http://127.0.0.1/callback", "http://127.0.0.1:23456/callback"},
}

// A server answers the registrations it gets, in order, and keeps them.
type server struct {
	*httptest.Server
	answers []reply
	bodies  []map[string]any
	heads   []http.Header
	deleted []string // bearer of each DELETE
}

type reply struct {
	status int
	body   string
}

func newServer(t *testing.T, answers ...reply) *server {
	s := &server{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			s.deleted = append(s.deleted, r.URL.Path+" "+r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusNoContent)
			return
		}
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		s.bodies, s.heads = append(s.bodies, body), append(s.heads, r.Header)
		if len(s.bodies) > len(s.answers) {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		a := s.answers[len(s.bodies)-1]
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, strings.ReplaceAll(a.body, "SELF", "http://"+r.Host))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) register(t *testing.T, m dcr.Metadata) (*dcr.Client, error) {
	return dcr.Register(t.Context(), nil, s.URL+"/register", m)
}

func TestRequestOfANativeApplication(t *testing.T) {
	s := newServer(t, reply{201, `{"client_id":"c"}`})
	if _, err := s.register(t, native); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"client_name":                "Acme Notes",
		"redirect_uris":              []any{"http://127.0.0.1/callback", "http://127.0.0.1:23456/callback"},
		"application_type":           "native",
		"token_endpoint_auth_method": "none",
		"grant_types":                []any{"authorization_code", "refresh_token"},
		"response_types":             []any{"code"},
	}
	if !reflect.DeepEqual(s.bodies[0], want) { // so there is no scope
		t.Errorf("sent %v, want %v", s.bodies[0], want)
	}
	if s.heads[0].Get("Authorization") != "" {
		t.Error("a bearer was sent")
	}
}

func TestRequestWithEverything(t *testing.T) {
	s := newServer(t, reply{201, `{"client_id":"c"}`})
	if _, err := s.register(t, dcr.Metadata{
		RedirectURIs: []string{"https://app.example/cb"}, ApplicationType: "native", AuthMethod: "client_secret_post",
		ClientURI: "https://app.example", InitialAccessToken: secret.New("initial"),
	}); err != nil {
		t.Fatal(err)
	}
	got := s.bodies[0]
	if got["application_type"] != "native" || got["token_endpoint_auth_method"] != "client_secret_post" || got["client_uri"] != "https://app.example" || got["client_name"] != nil {
		t.Errorf("sent %v", got)
	}
	if s.heads[0].Get("Authorization") != "Bearer initial" {
		t.Errorf("Authorization %q", s.heads[0].Get("Authorization"))
	}
}

func TestApplicationType(t *testing.T) {
	for uri, want := range map[string]string{
		"http://127.0.0.1/cb": "native", "http://[::1]:80/cb": "native", "http://localhost:3142/cb": "native", "com.example.app:/cb": "native",
		"https://app.example/cb": "web", "http://app.example/cb": "web", "https://localhost.app.example/cb": "web",
	} {
		s := newServer(t, reply{201, `{"client_id":"c"}`})
		if _, err := s.register(t, dcr.Metadata{RedirectURIs: []string{uri}}); err != nil || s.bodies[0]["application_type"] != want {
			t.Errorf("%s: %v, want %s (%v)", uri, s.bodies[0]["application_type"], want, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	sent := native.RedirectURIs
	for name, tc := range map[string]struct {
		asked  string // AuthMethod
		status int
		body   string
		want   dcr.Client
	}{
		"least": {"", 201, `{"client_id":"c"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"200":   {"", 200, `{"client_id":"c"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"all": {"", 201, `{"client_id":"c","client_secret":"s","client_id_issued_at":1700000000,"client_secret_expires_at":1800000000,
			"token_endpoint_auth_method":"client_secret_post","redirect_uris":["http://127.0.0.1/callback"],
			"registration_client_uri":"SELF/manage/c","registration_access_token":"m"}`,
			dcr.Client{ID: "c", Secret: secret.New("s"), AuthMethod: "client_secret_post", RedirectURIs: sent[:1],
				IssuedAt: time.Unix(1700000000, 0), SecretExpiry: time.Unix(1800000000, 0), ManagementURI: "SELF/manage/c", ManagementToken: secret.New("m")}},
		"wrong types of what nobody needs": {"", 201, `{"client_id":"c","jwks":"x","contacts":{},"grant_types":7,"client_name":[],"client_id_issued_at":"soon","client_secret_expires_at":{}}`,
			dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"null members":                  {"", 201, `{"client_id":"c","client_secret":null,"redirect_uris":null,"token_endpoint_auth_method":null,"registration_client_uri":null}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"times in strings":              {"", 201, `{"client_id":"c","client_id_issued_at":"1700000000","client_secret_expires_at":"0"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent, IssuedAt: time.Unix(1700000000, 0)}},
		"times out of reach":            {"", 201, `{"client_id":"c","client_id_issued_at":-1,"client_secret_expires_at":1e300}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"secret that never expires":     {"", 201, `{"client_id":"c","client_secret":"s","client_secret_expires_at":0}`, dcr.Client{ID: "c", Secret: secret.New("s"), AuthMethod: "client_secret_basic", RedirectURIs: sent}},
		"secret, method none":           {"", 201, `{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"none"}`, dcr.Client{ID: "c", Secret: secret.New("s"), AuthMethod: "none", RedirectURIs: sent}},
		"secret, method null":           {"", 201, `{"client_id":"c","client_secret":"s","token_endpoint_auth_method":null}`, dcr.Client{ID: "c", Secret: secret.New("s"), AuthMethod: "client_secret_basic", RedirectURIs: sent}},
		"secret, asked for post":        {"client_secret_post", 201, `{"client_id":"c","client_secret":"s"}`, dcr.Client{ID: "c", Secret: secret.New("s"), AuthMethod: "client_secret_post", RedirectURIs: sent}},
		"no secret, method basic":       {"", 201, `{"client_id":"c","token_endpoint_auth_method":"client_secret_basic"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"management on another host":    {"", 201, `{"client_id":"c","registration_client_uri":"https://evil.example/c","registration_access_token":"m"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"management by another scheme":  {"", 201, `{"client_id":"c","registration_client_uri":"file:///c","registration_access_token":"m"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"management without a token":    {"", 201, `{"client_id":"c","registration_client_uri":"SELF/c"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"management token, no address":  {"", 201, `{"client_id":"c","registration_access_token":"m"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"redirect addresses of others":  {"", 201, `{"client_id":"c","redirect_uris":["https://x.example","http://127.0.0.1:23456/callback"]}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: []string{"https://x.example", sent[1]}}},
		"names in another case":         {"", 201, `{"client_id":"c","Client_Secret":"s"}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
		"numbers that float64 can't do": {"", 201, `{"client_id":"c","x":1e999}`, dcr.Client{ID: "c", AuthMethod: "none", RedirectURIs: sent}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, reply{tc.status, tc.body})
			m := native
			m.AuthMethod = tc.asked
			got, err := s.register(t, m)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.ManagementURI = strings.Replace(tc.want.ManagementURI, "SELF", s.URL, 1)
			if !reflect.DeepEqual(*got, tc.want) {
				t.Errorf("got  %+v %q %q\nwant %+v", *got, got.Secret.Reveal(), got.ManagementToken.Reveal(), tc.want)
			}
		})
	}
}

func TestUnusableAnswers(t *testing.T) {
	const key = "secret-0"
	duplicate := &oauthhttp.DuplicateError{}
	for name, tc := range map[string]struct {
		body string
		want any // error, pointer for errors.As, or nil for any
	}{
		"empty":                 {``, oauthhttp.ErrNotJSON},
		"HTML":                  {`<html>secret-0`, oauthhttp.ErrNotJSON},
		"truncated":             {`{"client_id":"secret-0`, oauthhttp.ErrNotJSON},
		"array":                 {`[]`, oauthhttp.ErrNotJSON},
		"trailing data":         {`{"client_id":"c"} secret-0`, oauthhttp.ErrNotJSON},
		"duplicate":             {`{"client_id":"c","CLIENT_ID":"secret-0"}`, &duplicate},
		"too large":             {`{"client_id":"c"` + strings.Repeat(" ", 1<<20) + `}`, oauthhttp.ErrTooLarge},
		"no client_id":          {`{"client_secret":"secret-0"}`, nil},
		"empty client_id":       {`{"client_id":""}`, nil},
		"number as client_id":   {`{"client_id":7}`, nil},
		"number as secret":      {`{"client_id":"c","client_secret":7}`, nil},
		"string as addresses":   {`{"client_id":"c","redirect_uris":"http://127.0.0.1/callback"}`, nil},
		"method we cannot do":   {`{"client_id":"c","client_secret":"secret-0","token_endpoint_auth_method":"private_key_jwt"}`, nil},
		"none of our addresses": {`{"client_id":"c","redirect_uris":["https://x.example"]}`, new(*dcr.RedirectURIError)},
		"no addresses":          {`{"client_id":"c","redirect_uris":[]}`, new(*dcr.RedirectURIError)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, reply{201, tc.body})
			c, err := s.register(t, native)
			if err == nil || c != nil {
				t.Fatalf("got %+v, %v", c, err)
			}
			switch want := tc.want.(type) {
			case nil:
			case error:
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			default:
				if !errors.As(err, want) {
					t.Errorf("error %v, want %T", err, want)
				}
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), key) && duplicate.Name == "" {
				t.Errorf("shows a secret: %v", err)
			}
			if len(s.bodies) != 1 {
				t.Errorf("%d requests", len(s.bodies))
			}
		})
	}
}

func TestUselessRegistrationIsDeleted(t *testing.T) {
	s := newServer(t, reply{201, `{"client_id":"c","redirect_uris":["https://x.example"],"registration_client_uri":"SELF/manage/c","registration_access_token":"m"}`})
	_, err := s.register(t, native)
	var e *dcr.RedirectURIError
	if !errors.As(err, &e) || !slices.Equal(e.Sent, native.RedirectURIs) || !slices.Equal(e.Registered, []string{"https://x.example"}) {
		t.Errorf("error %#v", err)
	}
	if !slices.Equal(s.deleted, []string{"/manage/c Bearer m"}) {
		t.Errorf("deleted %q", s.deleted)
	}
}

func TestRefusals(t *testing.T) {
	const keycloak = `{"error":"insufficient_scope","error_description":"Policy 'Trusted Hosts' rejected request to client-registration service. Details: Host not trusted."}`
	for name, tc := range map[string]struct {
		reply
		want dcr.Error
	}{
		"redirect address": {reply{400, `{"error":"invalid_redirect_uri","error_description":"no"}`}, dcr.Error{Status: 400, Code: dcr.InvalidRedirectURI, Description: "no"}},
		"Keycloak's 403":   {reply{403, keycloak}, dcr.Error{Status: 403, Code: "insufficient_scope", Description: keycloak[len(`{"error":"insufficient_scope","error_description":"`) : len(keycloak)-2], Policy: "Trusted Hosts"}},
		"401":              {reply{401, `{"error":"invalid_token"}`}, dcr.Error{Status: 401, Code: "invalid_token"}},
		"404 HTML":         {reply{404, `<html>`}, dcr.Error{Status: 404}},
		"429":              {reply{429, ``}, dcr.Error{Status: 429}},
		"500":              {reply{500, `{"error":7,"error_description":[]}`}, dcr.Error{Status: 500}},
		"redirect":         {reply{307, ``}, dcr.Error{Status: 307}},
		"202":              {reply{202, `{"client_id":"c"}`}, dcr.Error{Status: 202}},
		"large":            {reply{400, strings.Repeat("x", 2<<20)}, dcr.Error{Status: 400}},
		"hostile text":     {reply{400, `{"error":"x","error_description":"\u001b[2J` + strings.Repeat("y", 300) + `"}`}, dcr.Error{Status: 400, Code: "x", Description: "[2J" + strings.Repeat("y", 196) + "…"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, tc.reply)
			_, err := s.register(t, native)
			var e *dcr.Error
			if !errors.As(err, &e) || *e != tc.want {
				t.Errorf("got  %#v\nwant %#v", err, &tc.want)
			}
			if len(s.bodies) != 1 {
				t.Errorf("%d requests", len(s.bodies))
			}
		})
	}
}

func TestRetryWithTheTwoDocumentedMembers(t *testing.T) {
	refusal := reply{400, `{"error":"invalid_client_metadata"}`}
	m := native
	m.ClientURI, m.InitialAccessToken = "https://app.example", secret.New("initial")

	s := newServer(t, refusal, reply{201, `{"client_id":"c","client_secret":"s"}`})
	c, err := s.register(t, m)
	if err != nil || c.AuthMethod != "client_secret_basic" { // none was not asked for this time
		t.Fatalf("got %+v, %v", c, err)
	}
	want := map[string]any{"client_name": "Acme Notes", "redirect_uris": []any{native.RedirectURIs[0], native.RedirectURIs[1]}}
	if len(s.bodies) != 2 || !reflect.DeepEqual(s.bodies[1], want) {
		t.Errorf("sent %v, want %v", s.bodies, want)
	}
	if s.heads[1].Get("Authorization") != "Bearer initial" {
		t.Error("the retry lacks the initial access token")
	}

	s = newServer(t, refusal, refusal, reply{201, `{"client_id":"c"}`})
	_, err = s.register(t, m)
	var e *dcr.Error
	if !errors.As(err, &e) || e.Code != dcr.InvalidClientMetadata || len(s.bodies) != 2 {
		t.Errorf("error %v after %d requests", err, len(s.bodies))
	}
}

func TestNothingToRegister(t *testing.T) {
	if _, err := dcr.Register(t.Context(), nil, "", native); !errors.Is(err, dcr.ErrUnsupported) {
		t.Errorf("no endpoint: %v", err)
	}
	s := newServer(t)
	if _, err := s.register(t, dcr.Metadata{ClientName: "x"}); err == nil || len(s.bodies) != 0 {
		t.Errorf("no redirect address: %v, %d requests", err, len(s.bodies))
	}
	var e *oauthhttp.URLError
	if _, err := dcr.Register(t.Context(), nil, "http://as.example/register", native); !errors.As(err, &e) {
		t.Errorf("http: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dcr.Register(ctx, nil, s.URL, native); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDelete(t *testing.T) {
	s := newServer(t)
	c := &dcr.Client{ManagementURI: s.URL + "/manage/c", ManagementToken: secret.New("m")}
	if err := dcr.Delete(t.Context(), nil, c); err != nil || !slices.Equal(s.deleted, []string{"/manage/c Bearer m"}) {
		t.Errorf("error %v, deleted %q", err, s.deleted)
	}
	for _, c := range []*dcr.Client{{}, {ManagementURI: s.URL}, {ManagementToken: secret.New("m")}} {
		if err := dcr.Delete(t.Context(), nil, c); !errors.Is(err, dcr.ErrUnsupported) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_token","error_description":"unknown registration-token-0"}`)
	}))
	c = &dcr.Client{ManagementURI: gone.URL, ManagementToken: secret.New("registration-token-0")}
	var e *dcr.Error
	if err := dcr.Delete(t.Context(), nil, c); !errors.As(err, &e) || e.Status != 401 || e.Code != "invalid_token" || strings.Contains(e.Error(), "token-0") {
		t.Errorf("refused: %v", err)
	}
	gone.Close()
	if err := dcr.Delete(t.Context(), nil, c); err == nil || errors.As(err, &e) && e == nil {
		t.Errorf("gone: %v", err)
	}
}

func TestClientIsNotPrinted(t *testing.T) {
	c := dcr.Client{Secret: secret.New("hidden-0"), ManagementToken: secret.New("hidden-1")}
	m := dcr.Metadata{InitialAccessToken: secret.New("hidden-2")}
	js, err := json.Marshal([]any{c, m})
	if out := fmt.Sprintf("%v %+v %#v %s %s %v", c, &c, c, m, js, err); strings.Contains(out, "hidden") {
		t.Errorf("printed: %s", out)
	}
}

func ExampleRegister() {
	as := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"client_id": "notes-1", "redirect_uris": ["http://127.0.0.1/callback"]}`)
	}))
	defer as.Close()

	client, err := dcr.Register(context.Background(), nil, as.URL+"/register", dcr.Metadata{
		ClientName:   "Acme Notes",
		RedirectURIs: []string{"http://127.0.0.1/callback", "http://127.0.0.1:23456/callback"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.ID, client.AuthMethod, client.RedirectURIs)
	// Output: notes-1 none [http://127.0.0.1/callback]
}

func ExampleDelete() {
	as := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer as.Close()

	client := &dcr.Client{ManagementURI: as.URL + "/register/notes-1", ManagementToken: secret.New("registration token")}
	fmt.Println(dcr.Delete(context.Background(), nil, client))
	// Output:
	// DELETE /register/notes-1
	// <nil>
}
