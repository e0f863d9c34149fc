package dcr

import (
	"net/url"
	"testing"

	"github.com/astravue/mcp-client-go/internal/secret"
)

func FuzzRegistrationAnswer(f *testing.F) {
	for _, s := range []string{
		`{"client_id":"c","client_secret":"s","client_secret_expires_at":0,"redirect_uris":["http://127.0.0.1/cb"]}`,
		`{"client_id":"c","registration_client_uri":"https://as.example/c","registration_access_token":"t","client_id_issued_at":1.5e9}`,
		`{"client_id":"c","registration_client_uri":"https://as.example:443@evil.example/c","registration_access_token":"t"}`,
		`{"client_id":1,"jwks":{"keys":[]}}`, `{"client_id":"a","Client_ID":"b"}`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		readError(400, body, secret.New("t"))
		c, err := parseClient(body, "https://as.example/register", wire{RedirectURIs: []string{"http://127.0.0.1/cb"}})
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if err != nil {
			return
		}
		if c.ID == "" || c.Secret.IsZero() && c.AuthMethod != "none" || c.AuthMethod == "" {
			t.Errorf("unusable client %+v", c)
		}
		if (c.ManagementURI == "") != c.ManagementToken.IsZero() {
			t.Errorf("half a management address: %+v", c)
		}
		if u, err := url.Parse(c.ManagementURI); c.ManagementURI != "" && (err != nil || u.Scheme != "https" || u.Hostname() != "as.example") {
			t.Errorf("management at %q", c.ManagementURI)
		}
	})
}
