package attacks

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/sandbox"
)

const (
	boxRealm    = "/realms/astravue"
	boxOIDC     = boxRealm + "/protocol/openid-connect"
	boxRegister = boxRealm + "/clients-registrations/openid-connect"
	boxBack     = "http://127.0.0.1:1/callback"
	boxVerifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

// boxBearer puts a token on requests.
type boxBearer string

func (b boxBearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(req)
}

func newBox(t *testing.T, o sandbox.Options) *sandbox.Server {
	t.Helper()
	srv, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// boxSend sends a request, and returns the answer and its text. It follows no redirect.
func boxSend(t *testing.T, method, address, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

// boxQuestion is an authorization request with other parameters than the good ones.
func boxQuestion(srv *sandbox.Server, change ...string) string {
	sum := sha256.Sum256([]byte(boxVerifier))
	q := url.Values{"response_type": {"code"}, "client_id": {srv.PublicClient()}, "redirect_uri": {boxBack}, "scope": {"openid profile email"},
		"state": {"s"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "resource": {srv.Resource()}}
	for i := 0; i < len(change); i += 2 {
		if q.Del(change[i]); change[i+1] != "" {
			q.Set(change[i], change[i+1])
		}
	}
	return srv.AuthURL() + boxOIDC + "/auth?" + q.Encode()
}

// boxCode returns the code that a sandbox that approves by itself gives out.
func boxCode(t *testing.T, srv *sandbox.Server) string {
	t.Helper()
	resp, text := boxSend(t, "GET", boxQuestion(srv), "")
	to, err := resp.Location()
	if err != nil {
		t.Fatal(err, text)
	}
	return to.Query().Get("code")
}

// boxToken asks the token endpoint, and returns the error, or the access token.
func boxToken(t *testing.T, srv *sandbox.Server, change ...string) (access, refused string) {
	t.Helper()
	f := url.Values{"grant_type": {"authorization_code"}, "client_id": {srv.PublicClient()}, "redirect_uri": {boxBack}, "code_verifier": {boxVerifier}, "resource": {srv.Resource()}}
	for i := 0; i < len(change); i += 2 {
		if f.Del(change[i]); change[i+1] != "" {
			f.Set(change[i], change[i+1])
		}
	}
	_, text := boxSend(t, "POST", srv.AuthURL()+boxOIDC+"/token", f.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	var a struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	return a.AccessToken, a.Error
}

// boxProjects reports whether a token reads the user's projects.
func boxProjects(t *testing.T, srv *sandbox.Server, token string) (read bool, status int) {
	t.Helper()
	resp, _ := boxSend(t, "GET", srv.APIURL()+"/api/v1/projects", "", "Authorization", "Bearer "+token)
	return resp.StatusCode == http.StatusOK, resp.StatusCode
}
