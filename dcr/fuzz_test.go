package dcr

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/secret"
)

// FuzzRegistrationAnswer holds, for whatever a registration endpoint answers:
// a client that is accepted has an ID, a secret if it is to prove itself with
// one, and a management address only where we registered; all of it is what is
// written there; a member that nobody knows changes nothing, and one that comes
// twice, in whatever case, ends it. No error and no print shows a secret.
func FuzzRegistrationAnswer(f *testing.F) {
	const (
		sent     = "initial-access-token-0" // with the request
		canary   = "secret-of-the-answer-0"
		endpoint = "https://as.example/register"
	)
	for _, s := range []string{
		// RFC 7591 §3.2.1, RFC 7592 §3.
		`{"client_id":"s6BhdRkqt3","client_secret":"` + canary + `","client_id_issued_at":2893256800,"client_secret_expires_at":2893276800,
			"redirect_uris":["https://client.example.org/callback","https://client.example.org/callback2"],"grant_types":["authorization_code","refresh_token"],
			"client_name":"My Example Client","client_name#ja-Jpan-JP":"クライアント名","token_endpoint_auth_method":"client_secret_basic","logo_uri":"https://client.example.org/logo.png",
			"jwks_uri":"https://client.example.org/my_public_keys.jwks","registration_client_uri":"https://as.example/register/s6BhdRkqt3","registration_access_token":"` + canary + `"}`,
		// The form of Keycloak's, and of oidc-provider's.
		`{"redirect_uris":["http://127.0.0.1/callback","http://127.0.0.1:20000/callback"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token"],"response_types":["code","none"],
			"client_id":"11111111-2222-3333-4444-555555555555","client_name":"Acme Notes","scope":"openid profile","subject_type":"public","request_uris":[],"tls_client_certificate_bound_access_tokens":false,"dpop_bound_access_tokens":false,
			"client_id_issued_at":1763700000,"client_secret_expires_at":0,"registration_client_uri":"https://as.example/realms/x/clients-registrations/openid-connect/11111111","registration_access_token":"` + canary + `","backchannel_logout_session_required":false}`,
		`{"application_type":"native","client_id":"c","client_secret":"` + canary + `","client_secret_expires_at":0,"redirect_uris":["http://127.0.0.1/callback"],"id_token_signed_response_alg":"RS256","require_auth_time":false,"post_logout_redirect_uris":[]}`,
		`{"client_id":"c","registration_client_uri":"https://as.example:443@evil.example/c","registration_access_token":"` + canary + `","client_id_issued_at":1.5e9}`,
		`{"client_id":"c","registration_client_uri":"https://as.example.evil.example/c","registration_access_token":"` + canary + `","client_id_issued_at":253402300800}`,
		`{"client_id":"c","registration_client_uri":"http://as.example/c","registration_access_token":"` + canary + `"}`,
		`{"client_id":"c","client_secret":"` + canary + `","token_endpoint_auth_method":"private_key_jwt"}`,
		`{"client_id":"c","client_secret":{"x":"` + canary + `"},"client_secret_expires_at":"1e999"}`,
		`{"client_id":"c","client_secret":"` + canary + `","client_secret":"x"}`,
		`{"client_id":"c","client_secret":null,"redirect_uris":null,"token_endpoint_auth_method":"client_secret_post"}`,
		`{"client_id":"c","client_secret":"s","token_endpoint_auth_method":"` + sent + `"}`, `{"` + sent + `":1,"` + sent + `":1}`,
		`{"client_id":1,"jwks":{"keys":[]}}`, `{"client_id":"a","Client_ID":"b"}`, `{"Client_ID":"b"}`, `null`,
		`{"error":"insufficient_scope","error_description":"Policy 'Trusted Hosts' rejected request to client-registration service. Details: Host not trusted."}`,
		`{"error":"invalid_redirect_uri","error_description":"` + sent + `"}`,
		`{"error":"initial-access\u0000-token-0","error_description":"initial-access-\u202etoken-0` + strings.Repeat("é", 300) + `"}`,
		`{"error":"x","error_description":"` + strings.Repeat("x", 190) + sent + `"}`,
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, public bool) {
		// A secret can only be looked for where nothing else is called the same.
		shown := func(s string) bool {
			return strings.Count(string(body), canary) == 1 && strings.Contains(string(body), `secret":"`+canary) && strings.Contains(s, canary)
		}
		e := readError(400, body, secret.New(sent))
		if s := e.Error() + fmt.Sprintf("%+v %#v", *e, *e); strings.Contains(s, sent) || strings.ContainsAny(s, "\x00\x1b\u202e") || len([]rune(e.Description)) > 200 || len([]rune(e.Code)) > 200 {
			t.Errorf("the error %s", s)
		}

		w := wire{RedirectURIs: []string{"http://127.0.0.1/cb"}, AuthMethod: "client_secret_post"}
		if public {
			w.AuthMethod = "none"
		}
		c, err := parseClient(body, endpoint, w, secret.New(sent))
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if err != nil {
			if s := err.Error(); len(s) > 2000 || shown(s) || strings.Contains(s, sent) {
				t.Errorf("the error %s", s)
			}
			return
		}
		if shown(fmt.Sprintf("%v %+v %#v", c, *c, *c)) {
			t.Errorf("prints as %+v", *c)
		}

		var said map[string]any
		_ = json.Unmarshal(body, &said)
		text := func(name string) string { s, _ := said[name].(string); return s }
		if c.ID == "" || c.ID != text("client_id") || c.Secret.Reveal() != text("client_secret") {
			t.Errorf("client %q of %s", c.ID, body)
		}
		switch method := text("token_endpoint_auth_method"); {
		case c.Secret.IsZero() && c.AuthMethod != "none",
			!c.Secret.IsZero() && method != "" && c.AuthMethod != method,
			!c.Secret.IsZero() && method == "" && c.AuthMethod != "client_secret_basic" && (public || c.AuthMethod != "client_secret_post"),
			!slices.Contains([]string{"none", "client_secret_basic", "client_secret_post"}, c.AuthMethod):
			t.Errorf("authenticates with %q, of %s", c.AuthMethod, body)
		}
		if list, ok := said["redirect_uris"].([]any); ok != (said["redirect_uris"] != nil) || ok && len(list) != len(c.RedirectURIs) || !ok && !slices.Equal(c.RedirectURIs, w.RedirectURIs) {
			t.Errorf("redirect addresses %q of %s", c.RedirectURIs, body)
		}
		if (c.ManagementURI == "") != c.ManagementToken.IsZero() {
			t.Errorf("half a management address: %+v", c)
		}
		if c.ManagementURI != "" {
			u, err := url.Parse(c.ManagementURI)
			if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Host, "as.example") || u.User != nil || u.Fragment != "" ||
				c.ManagementURI != text("registration_client_uri") || c.ManagementToken.Reveal() != text("registration_access_token") {
				t.Errorf("management at %q, of %s", c.ManagementURI, body)
			}
		}
		for _, at := range []time.Time{c.SecretExpiry, c.IssuedAt} {
			if !at.IsZero() && (at.Unix() < 0 || at.UTC().Year() > 9999) {
				t.Errorf("a time in the year %d cannot be stored", at.UTC().Year())
			}
		}

		more := func(member string) []byte {
			return append([]byte("{"+member+","), strings.TrimLeft(string(body), " \t\r\n")[1:]...)
		}
		if again, err := parseClient(more(`"a name that no answer has":{"client_id":[1e999]}`), endpoint, w, secret.New(sent)); !reflect.DeepEqual(again, c) {
			t.Errorf("with an unknown member: %+v, %v", again, err)
		}
		if _, err := parseClient(more(`"CLIENT_\u0049d":"x"`), endpoint, w, secret.New(sent)); err == nil {
			t.Errorf("client_id twice is accepted in %s", body)
		}
	})
}
