package sandbox_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/sandbox"
)

const (
	verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // RFC 7636 Appendix B
	redirect = "http://127.0.0.1:3142/callback"
)

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func start(t testing.TB, o sandbox.Options) *sandbox.Server {
	t.Helper()
	s, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// a person is a browser: cookies and forms, and no redirect followed to the
// application.
type person struct {
	t  testing.TB
	hc *http.Client
}

func newPerson(t testing.TB) *person {
	jar, _ := cookiejar.New(nil)
	return &person{t, &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.Path, "/callback") {
			return http.ErrUseLastResponse
		}
		return nil
	}}}
}

// a view is what the browser shows.
type view struct {
	p        *person
	url      *url.URL
	status   int
	header   http.Header
	body     string
	callback url.Values // where the browser was sent back to the application
}

func (p *person) do(req *http.Request) *view {
	p.t.Helper()
	resp, err := p.hc.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	v := &view{p: p, url: resp.Request.URL, status: resp.StatusCode, header: resp.Header, body: string(b)}
	if loc := resp.Header.Get("Location"); loc != "" {
		u, err := url.Parse(loc)
		if err != nil {
			p.t.Fatal(err)
		}
		v.callback = u.Query()
	}
	return v
}

func (p *person) open(address string) *view {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.do(req)
}

var (
	formTag   = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">(.*?)</form>`)
	hiddenTag = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// submit fills the page's first form.
func (v *view) submit(fields ...string) *view {
	v.p.t.Helper()
	m := formTag.FindStringSubmatch(v.body)
	if m == nil {
		v.p.t.Fatalf("no form on the page (%d): %s", v.status, v.body)
	}
	f := url.Values{}
	for _, h := range hiddenTag.FindAllStringSubmatch(m[2], -1) {
		f.Set(html.UnescapeString(h[1]), html.UnescapeString(h[2]))
	}
	for i := 0; i < len(fields); i += 2 {
		f.Set(fields[i], fields[i+1])
	}
	to, err := v.url.Parse(html.UnescapeString(m[1]))
	if err != nil {
		v.p.t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodPost, to.String(), strings.NewReader(f.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.p.do(req)
}

func (v *view) signIn(user string) *view {
	v.p.t.Helper()
	return v.submit("username", user, "password", user+"-sandbox")
}

func (v *view) approve() url.Values {
	v.p.t.Helper()
	v = v.submit("decision", "approve")
	if v.callback.Get("code") == "" {
		v.p.t.Fatalf("no code: %d %v %s", v.status, v.callback, v.body)
	}
	return v.callback
}

func authorizeURL(s *sandbox.Server, change ...string) string {
	q := url.Values{"response_type": {"code"}, "client_id": {s.PublicClient()}, "redirect_uri": {redirect}, "scope": {"openid profile email"},
		"state": {"st&te=1"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"}, "resource": {s.Resource()}}
	edit(q, change)
	return s.AuthURL() + "/realms/astravue/protocol/openid-connect/auth?" + q.Encode()
}

// edit sets parameters, or removes those set to "-".
func edit(q url.Values, change []string) {
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == "-" {
			q.Del(change[i])
		} else {
			q.Set(change[i], change[i+1])
		}
	}
}

// an answer of a JSON endpoint.
type answer struct {
	status int
	header http.Header
	m      map[string]any
}

func (a answer) str(name string) string { s, _ := a.m[name].(string); return s }

func call(t testing.TB, method, address, bearer, contentType, body string) answer {
	t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	json.NewDecoder(bytes.NewReader(b)).Decode(&a.m)
	return a
}

func post(t testing.TB, address string, f url.Values) answer {
	t.Helper()
	return call(t, http.MethodPost, address, "", "application/x-www-form-urlencoded", f.Encode())
}

func tokenURL(s *sandbox.Server) string {
	return s.AuthURL() + "/realms/astravue/protocol/openid-connect/token"
}

func exchange(t testing.TB, s *sandbox.Server, code string, change ...string) answer {
	t.Helper()
	f := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {s.PublicClient()}, "redirect_uri": {redirect},
		"code_verifier": {verifier}, "resource": {s.Resource()}}
	edit(f, change)
	return post(t, tokenURL(s), f)
}

func refresh(t testing.TB, s *sandbox.Server, token string, change ...string) answer {
	t.Helper()
	f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {s.PublicClient()}}
	edit(f, change)
	return post(t, tokenURL(s), f)
}

// use calls the MCP endpoint and returns its status.
func use(t testing.TB, s *sandbox.Server, token string) int {
	t.Helper()
	return rpc(t, s, token, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`).status
}

func rpc(t testing.TB, s *sandbox.Server, token, message string) answer {
	t.Helper()
	return call(t, http.MethodPost, s.URL(), token, "application/json", message)
}

// tokens signs in with an auto-approving sandbox.
func signedIn(t testing.TB, s *sandbox.Server) answer {
	t.Helper()
	v := newPerson(t).open(authorizeURL(s))
	a := exchange(t, s, v.callback.Get("code"))
	if a.status != http.StatusOK {
		t.Fatalf("exchange: %d %v", a.status, a.m)
	}
	return a
}
