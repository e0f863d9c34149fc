package attacks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

const boxMetadata = `{"client_name":"x","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`

var sandboxAttacks = slices.Concat([]attack{
	{id: "box-page-in-chromium", who: "a page of another site, in the browser of who runs a sandbox", gains: "the sandbox's 200 registrations, or its log, are full",
		does: "posts text, forms and bodies without a type, by fetch and by a form, in Chromium", play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			address := srv.AuthURL() + boxRegister
			evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprintf(w, `<form method=post enctype=text/plain action=%q target=f><input name='{"redirect_uris":["http://127.0.0.1/callback"],"x":"' value='"}'></form>
<iframe name=f></iframe><script>
const m = %q, post = (body, headers) => fetch(%q, {method: "POST", mode: "no-cors", credentials: "include", body, headers}).catch(() => {});
document.forms[0].submit();
Promise.all([post(m), post(m, {"Content-Type": "text/plain"}), post(new Blob([m])), post(new URLSearchParams({m})), post(new TextEncoder().encode(m)),
  navigator.sendBeacon(%q, m)]).then(() => setTimeout(() => document.body.append(Object.assign(document.createElement("p"), {id: "done"})), 200));
</script>`, address, boxMetadata, address, address)
			}))
			defer evil.Close()
			ctx := testenv.Chromium(t)
			if err := chromedp.Do(ctx, chromedp.Navigate(evil.URL), chromedp.WaitReady(chromedp.CSS("#done"))); err != nil {
				t.Fatal(err)
			}
			return srv.Counts().Clients > 0 || len(srv.Requests()) > 0, fmt.Sprintf("%d registrations, and the log has none of it", srv.Counts().Clients)
		}},
	{id: "box-code-guess", who: "anybody on this machine", gains: "a user's tokens", does: "guesses 300 codes while one is good", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{AutoApprove: true})
		code := boxCode(t, srv)
		for i := range 300 {
			if access, _ := boxToken(t, srv, "code", fmt.Sprintf("%s%d", code[:len(code)-4], i)); access != "" {
				return true, "one was good"
			}
		}
		access, _ := boxToken(t, srv, "code", code)
		return access == "", "none is good, and the right one still is"
	}},
	{id: "box-code-twice", who: "somebody who has seen a code and its verifier", gains: "tokens beside the user's", does: "sends the code again", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{AutoApprove: true})
		code := boxCode(t, srv)
		first, _ := boxToken(t, srv, "code", code)
		access, refused := boxToken(t, srv, "code", code)
		works, _ := boxProjects(t, srv, first)
		return access != "" || works, refused + ", and what the code gave is taken back (RFC 6749 §4.1.2)"
	}},
	{id: "box-code-other-client", who: "another client", gains: "tokens for a code that was not given to it", does: "sends the code with its own ID and secret", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{AutoApprove: true})
		id, secret := srv.App()
		access, refused := boxToken(t, srv, "code", boxCode(t, srv), "client_id", id, "client_secret", secret)
		return access != "", refused
	}},
	{id: "box-session-fixation", who: "somebody who can set a cookie in the victim's browser", gains: "the session that the victim gets at the sandbox", does: "sets a session and a browser cookie before the victim signs in", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		_, port, _ := strings.Cut(strings.TrimPrefix(srv.AuthURL(), "http://"), ":")
		victim := newWebBrowser(t)
		at, _ := url.Parse(srv.AuthURL() + boxRealm + "/x")
		planted := strings.Repeat("A", 52)
		victim.http.Jar.SetCookies(at, []*http.Cookie{{Name: "ASTRAVUE_SESSION_" + port, Value: planted}, {Name: "ASTRAVUE_BROWSER_" + port, Value: planted[:26]}})
		victim.consent(boxQuestion(srv), "mia")
		attacker := newWebBrowser(t)
		attacker.http.Jar.SetCookies(at, []*http.Cookie{{Name: "ASTRAVUE_SESSION_" + port, Value: planted}, {Name: "ASTRAVUE_BROWSER_" + port, Value: planted[:26]}})
		return strings.Contains(attacker.get(boxQuestion(srv, "prompt", "none")).next(), "code="), "the session is a new one"
	}},
	{id: "box-page-of-another-browser", who: "another browser", gains: "an approval", does: "sends the consent form of the victim's page, csrf and all", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		victim, attacker := newWebBrowser(t), newWebBrowser(t)
		p := victim.submit(victim.get(boxQuestion(srv)), url.Values{"username": {"mia"}, "password": {"mia-sandbox"}})
		got := attacker.submit(victim.get(p.next()), url.Values{"decision": {"approve"}})
		return strings.Contains(got.next(), "code="), fmt.Sprint(got.StatusCode)
	}},
	{id: "box-form-without-csrf", who: "a page of another port", gains: "an approval", does: "posts the consent form with a guessed csrf value", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		b := newWebBrowser(t)
		p := b.submit(b.get(boxQuestion(srv)), url.Values{"username": {"mia"}, "password": {"mia-sandbox"}})
		got := b.submit(b.get(p.next()), url.Values{"decision": {"approve"}, "csrf": {"x"}})
		return strings.Contains(got.next(), "code="), fmt.Sprint(got.StatusCode)
	}},
	{id: "box-response-splitting", who: "somebody who makes an authorization URL", gains: "headers of the redirect", does: "puts line ends into state", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{AutoApprove: true})
		resp, _ := boxSend(t, "GET", boxQuestion(srv, "state", "s\r\nSet-Cookie: x=1"), "")
		return strings.Contains(fmt.Sprint(resp.Header["Set-Cookie"]), "x=1"), "they are escaped"
	}},
	{id: "box-token-in-query", who: "somebody who reads addresses", gains: "tokens in addresses (RFC 6750 §2.3)", does: "sends the token as a parameter", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		tokens, err := srv.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		resp, _ := boxSend(t, "GET", srv.APIURL()+"/api/v1/projects?access_token="+tokens.AccessToken, "")
		return resp.StatusCode == 200, fmt.Sprint(resp.StatusCode)
	}},
	{id: "box-mcp-session", who: "another user", gains: "the victim's MCP session", does: "sends the session's ID with a token of their own", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{Protocol: "legacy"})
		mia, err := srv.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		adam, err := srv.Issue("adam", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		post := func(token, session, body string) *http.Response {
			resp, _ := boxSend(t, "POST", srv.URL(), body, "Authorization", "Bearer "+token, "Content-Type", "application/json",
				"Accept", "application/json, text/event-stream", "Mcp-Session-Id", session)
			return resp
		}
		resp := post(mia.AccessToken, "", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
		id := resp.Header.Get("Mcp-Session-Id")
		if id == "" {
			t.Fatal("no session")
		}
		resp = post(adam.AccessToken, id, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
		return resp.StatusCode == 200, fmt.Sprint(resp.StatusCode)
	}},
	{id: "box-mcp-text", who: "a page of another site", gains: "tool calls", does: "posts a call as text/plain, even with a token", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		mia, err := srv.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		resp, _ := boxSend(t, "POST", srv.URL(), `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`, "Authorization", "Bearer "+mia.AccessToken,
			"Content-Type", "text/plain", "Accept", "application/json, text/event-stream", "MCP-Protocol-Version", "2026-07-28")
		return resp.StatusCode == 200, fmt.Sprint(resp.StatusCode)
	}},
	{id: "box-big-body", who: "anybody on this machine", gains: "the sandbox's memory", does: "sends a form of 1 MiB to the token endpoint", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		resp, _ := boxSend(t, "POST", srv.AuthURL()+boxOIDC+"/token", "x="+strings.Repeat("a", 1<<20), "Content-Type", "application/x-www-form-urlencoded")
		return resp.StatusCode != http.StatusRequestEntityTooLarge, fmt.Sprint(resp.StatusCode)
	}},
	{id: "box-deep-json", who: "anybody on this machine", gains: "the sandbox's stack", does: "registers with 100,000 nested arrays", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		resp, _ := boxSend(t, "POST", srv.AuthURL()+boxRegister, `{"x":`+strings.Repeat("[", 100_000), "Content-Type", "application/json")
		return resp.StatusCode != http.StatusBadRequest, fmt.Sprint(resp.StatusCode)
	}},
	{id: "box-log", who: "somebody who reads the sandbox's log", gains: "a code, verifier or password, or lines of the log", does: "reads the log after a sign-in, and after paths with line ends", play: func(t *testing.T) (bool, string) {
		var log testenv.Buffer
		srv := newBox(t, sandbox.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		code, _ := url.Parse(newWebBrowser(t).consent(boxQuestion(srv, "state", "SECRET-STATE"), "mia"))
		boxToken(t, srv, "code", code.Query().Get("code"))
		boxSend(t, "GET", srv.AuthURL()+"/x%0Alevel=ERROR%20msg=forged", "")
		var all bytes.Buffer
		all.WriteString(log.String())
		for _, r := range srv.Requests() {
			fmt.Fprintf(&all, "%+v\n", r)
		}
		for _, s := range []string{code.Query().Get("code"), boxVerifier, "mia-sandbox", "SECRET-STATE"} {
			if strings.Contains(all.String(), s) {
				return true, "one is there"
			}
		}
		return strings.Contains(log.String(), "\nlevel=ERROR msg=forged"), "none of it"
	}},
	{id: "box-refresh-twice", who: "somebody who has seen a refresh token", gains: "tokens beside the user's", does: "sends the refresh token after the user has sent it", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		tokens, err := srv.Issue("mia", sandbox.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		boxToken(t, srv, "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken)
		access, refused := boxToken(t, srv, "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken)
		return access != "", refused + ", and the grant ends"
	}},
}, boxHosts(), boxPosts(), boxRedirects(), boxRegistered(), boxFetched(), boxMarkup(), boxParameters(), boxTokens(), boxPaths(), boxListens())

// boxHosts are Host headers of names that were made to resolve to this machine (DNS rebinding).
func boxHosts() (all []attack) {
	for i, host := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "localhost.", "0.0.0.0", "evil.example#127.0.0.1", "[fe80::1]", "2130706433"} {
		all = append(all, attack{id: fmt.Sprintf("box-rebinding-%d", i+1), who: "a page whose name resolves to this machine", gains: "all that the sandbox answers", does: "sends Host: " + host, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			statuses := map[int]bool{}
			for _, address := range []string{srv.AuthURL(), srv.APIURL()} {
				resp := webRaw(t, address, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
				statuses[resp.StatusCode] = true
			}
			return statuses[200], fmt.Sprintf("%d by both hosts", firstKey(statuses))
		}})
	}
	return all
}

func firstKey(m map[int]bool) int {
	for k := range m {
		return k
	}
	return 0
}

// boxPosts are requests that a browser sends for any page without asking first, and such that say
// whose they are.
func boxPosts() (all []attack) {
	for _, f := range []struct{ id, does, contentType string }{
		{"text", "posts a registration as text/plain", "text/plain"},
		{"text-with-json", "posts a registration as text/plain; x=application/json", "text/plain; x=application/json"},
		{"form", "posts a registration as a form", "application/x-www-form-urlencoded"},
		{"multipart", "posts a registration as multipart/form-data", "multipart/form-data; boundary=x"},
		{"no-type", "posts a registration without a type, as fetch does with a Blob", ""},
		{"two-types", "posts a registration as text/plain, application/json", "text/plain, application/json"},
	} {
		all = append(all, attack{id: "box-register-" + f.id, who: "a page of another site", gains: "the sandbox's 200 registrations are full", does: f.does, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			var header []string
			if f.contentType != "" {
				header = []string{"Content-Type", f.contentType}
			}
			resp, _ := boxSend(t, "POST", srv.AuthURL()+boxRegister, boxMetadata, header...)
			return srv.Counts().Clients > 0, fmt.Sprint(resp.StatusCode)
		}})
	}
	for _, path := range []string{boxRegister, boxOIDC + "/token", boxOIDC + "/revoke", boxOIDC + "/logout", boxRealm + "/login-actions/authenticate", boxRealm + "/login-actions/consent", "/mcp", "/api/v1/projects"} {
		for _, site := range []string{"cross-site", "same-site"} {
			all = append(all, attack{id: "box-" + site + strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(path, boxRealm), "/protocol"), "/", "-"),
				who: "a page of another site or port", gains: "something changes", does: "has a browser post to " + path + " (" + site + ")", play: func(t *testing.T) (bool, string) {
					srv := newBox(t, sandbox.Options{})
					host := srv.AuthURL()
					if !strings.HasPrefix(path, boxRealm) {
						host = srv.APIURL()
					}
					resp, _ := boxSend(t, "POST", host+path, boxMetadata, "Content-Type", "application/json", "Sec-Fetch-Site", site)
					return resp.StatusCode != http.StatusForbidden, fmt.Sprintf("%d, before anything is read", resp.StatusCode)
				}})
		}
	}
	for _, path := range []string{boxRegister, boxOIDC + "/token", boxOIDC + "/auth", "/mcp", "/api/v1/projects"} {
		all = append(all, attack{id: "box-cors" + strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(path, boxRealm), "/protocol"), "/", "-"), who: "a page of another site", gains: "the answers of " + path, does: "asks by fetch, with a preflight", play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			host := srv.AuthURL()
			if !strings.HasPrefix(path, boxRealm) {
				host = srv.APIURL()
			}
			for _, method := range []string{"OPTIONS", "GET"} {
				resp, _ := boxSend(t, method, host+path, "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
				if resp.Header.Get("Access-Control-Allow-Origin") != "" {
					return true, "it may read them"
				}
			}
			return false, "no answer allows it"
		}})
	}
	return all
}

// boxRedirects are redirect addresses that are not the registered ones.
func boxRedirects() (all []attack) {
	for i, to := range []string{
		"https://evil.example/callback", "http://127.0.0.1@evil.example/callback", "http://evil.example@127.0.0.1/callback", "http://127.0.0.1.evil.example/callback", "http://127.0.0.1/callback/../x", "http://127.0.0.1/callback?x=1",
		"http://127.0.0.1/callback#x", "http://127.0.0.1/callback/", "http://127.0.0.1/Callback", "http://127.0.0.1:1/callback%2f..", "javascript:alert(1)", "//evil.example/callback", "http://127.0.0.1\\@evil.example/callback",
		"http://2130706433/callback", "https://127.0.0.1/callback", "http://127.0.0.1:80:80/callback", " http://127.0.0.1/callback", "http://127.0.0.1:1\r\nX: y/callback", "http://[::ffff:127.0.0.1]/callback",
	} {
		all = append(all, attack{id: fmt.Sprintf("box-redirect-%d", i+1), who: "somebody who makes an authorization URL", gains: "the code", does: "asks for the answer at " + to, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{AutoApprove: true})
			resp, _ := boxSend(t, "GET", boxQuestion(srv, "redirect_uri", to), "")
			return resp.Header.Get("Location") != "", fmt.Sprintf("%d, a page, and nobody is sent anywhere", resp.StatusCode)
		}})
	}
	all = append(all, attack{id: "box-redirect-twice", who: "somebody who makes an authorization URL", gains: "the code", does: "names two redirect addresses", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{AutoApprove: true})
		resp, _ := boxSend(t, "GET", boxQuestion(srv)+"&redirect_uri=https://evil.example/", "")
		return resp.Header.Get("Location") != "", fmt.Sprintf("%d, a page", resp.StatusCode)
	}})
	return all
}

// boxRegistered are clients that should not be.
func boxRegistered() (all []attack) {
	for i, to := range []string{"javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http://evil.example/", "http://127.0.0.1@evil.example/", "https://evil.example/#x", "https://*.example/", "https:///x", "vbscript:x", "http://localhost.evil.example/", "blob:https://evil.example/x"} {
		all = append(all, attack{id: fmt.Sprintf("box-register-redirect-%d", i+1), who: "anybody on this machine", gains: "a client whose redirect does harm", does: "registers " + to, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			m, _ := json.Marshal(map[string]any{"redirect_uris": []string{to}})
			resp, _ := boxSend(t, "POST", srv.AuthURL()+boxRegister, string(m), "Content-Type", "application/json")
			return srv.Counts().Clients > 0, fmt.Sprint(resp.StatusCode)
		}})
	}
	all = append(all, attack{id: "box-register-full", who: "anybody on this machine", gains: "the sandbox's memory", does: "registers 250 clients", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		var last int
		for range 250 {
			resp, _ := boxSend(t, "POST", srv.AuthURL()+boxRegister, boxMetadata, "Content-Type", "application/json")
			last = resp.StatusCode
		}
		return srv.Counts().Clients > 200, fmt.Sprintf("%d after %d", last, srv.Counts().Clients)
	}}, attack{id: "box-register-management", who: "another client", gains: "somebody's registration", does: "deletes it with a guessed and with a spent token", play: func(t *testing.T) (bool, string) {
		srv := newBox(t, sandbox.Options{})
		_, text := boxSend(t, "POST", srv.AuthURL()+boxRegister, boxMetadata, "Content-Type", "application/json")
		var c struct {
			URI   string `json:"registration_client_uri"`
			Token string `json:"registration_access_token"`
		}
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		boxSend(t, "GET", c.URI, "", "Authorization", "Bearer "+c.Token) // spends it
		for _, token := range []string{"", "x", c.Token} {
			boxSend(t, "DELETE", c.URI, "", "Authorization", "Bearer "+token)
		}
		return srv.Counts().Clients != 1, "401 each time"
	}})
	return all
}

// boxFetched are client IDs that have the sandbox ask other servers (client ID metadata documents).
func boxFetched() (all []attack) {
	for i, id := range []string{
		"https://evil.example/client", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/x", "http://127.0.0.1.evil.example/x", "http://localhost.evil.example/x", "http://evil.example#@127.0.0.1/x",
		"http://127.0.0.1@evil.example/x", "http://0.0.0.0/x", "http://2130706433/x", "http://0x7f.1/x", "http://[::]/x", "http://evil.example\\@127.0.0.1/x", "file:///etc/passwd", "http://127.0.0.1:1?x", "gopher://127.0.0.1/x",
	} {
		all = append(all, attack{id: fmt.Sprintf("box-fetch-%d", i+1), who: "somebody who makes an authorization URL", gains: "requests of the sandbox's to " + id, does: "names that address as client ID", play: func(t *testing.T) (bool, string) {
			var asked []string
			srv := newBox(t, sandbox.Options{HTTPClient: &http.Client{Transport: boxNobody(func(address string) { asked = append(asked, address) })}})
			resp, _ := boxSend(t, "GET", boxQuestion(srv, "client_id", id), "")
			return len(asked) > 0, fmt.Sprintf("%d, nobody is asked", resp.StatusCode)
		}})
	}
	for _, f := range []struct {
		id, does string
		serve    func(other string) http.HandlerFunc
	}{
		{"redirect", "redirects the fetch to another server of this machine", func(other string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, http.StatusFound) }
		}},
		{"refresh", "answers with a Refresh header", func(other string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Refresh", "0; url="+other) }
		}},
		{"endless", "answers without end", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
						return
					}
				}
			}
		}},
		{"other-id", "states another client's ID", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, `{"client_id":"astravue-sandbox-cli","client_name":"x","redirect_uris":["https://evil.example/"]}`)
			}
		}},
	} {
		all = append(all, attack{id: "box-fetch-" + f.id, who: "a client's own server", gains: "requests of the sandbox's, its memory, or another client's name", does: f.does, play: func(t *testing.T) (bool, string) {
			asked := 0
			other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
			defer other.Close()
			client := httptest.NewServer(f.serve(other.URL))
			defer client.Close()
			srv := newBox(t, sandbox.Options{AutoApprove: true})
			resp, _ := boxSend(t, "GET", boxQuestion(srv, "client_id", client.URL+"/client", "redirect_uri", "https://evil.example/"), "")
			return asked > 0 || resp.Header.Get("Location") != "", fmt.Sprintf("%d, a page", resp.StatusCode)
		}})
	}
	return all
}

type boxNobody func(address string)

func (n boxNobody) RoundTrip(req *http.Request) (*http.Response, error) {
	n(req.URL.String())
	return nil, http.ErrServerClosed
}

// boxMarkup is HTML in texts that pages show.
func boxMarkup() (all []attack) {
	const script = `"><script>alert(1)</script>`
	for _, f := range []struct {
		id, does string
		page     func(t *testing.T, srv *sandbox.Server) (text string)
	}{
		{"client-name", "registers under a name in HTML", func(t *testing.T, srv *sandbox.Server) string {
			m, _ := json.Marshal(map[string]any{"client_name": script, "client_uri": script, "redirect_uris": []string{boxBack}, "token_endpoint_auth_method": "none"})
			_, text := boxSend(t, "POST", srv.AuthURL()+boxRegister, string(m), "Content-Type", "application/json")
			var c struct {
				ID string `json:"client_id"`
			}
			_ = json.Unmarshal([]byte(text), &c)
			b := newWebBrowser(t)
			p := b.get(boxQuestion(srv, "client_id", c.ID))
			consent := b.submit(p, url.Values{"username": {"mia"}, "password": {"mia-sandbox"}})
			return p.raw + b.get(consent.next()).raw
		}},
		{"client-id", "sends a script as client ID", func(t *testing.T, srv *sandbox.Server) string {
			_, text := boxSend(t, "GET", boxQuestion(srv, "client_id", script), "")
			return text
		}},
		{"hint", "sends a script as login hint", func(t *testing.T, srv *sandbox.Server) string {
			_, text := boxSend(t, "GET", boxQuestion(srv, "login_hint", script), "")
			return text
		}},
		{"user", "signs in with a script as user name", func(t *testing.T, srv *sandbox.Server) string {
			b := newWebBrowser(t)
			return b.submit(b.get(boxQuestion(srv)), url.Values{"username": {script}, "password": {"x"}}).raw
		}},
		{"state", "sends a script as state", func(t *testing.T, srv *sandbox.Server) string {
			_, text := boxSend(t, "GET", boxQuestion(srv, "state", script), "")
			return text
		}},
		{"error", "asks for a page that is not there, with a script in its path", func(t *testing.T, srv *sandbox.Server) string {
			_, text := boxSend(t, "GET", srv.AuthURL()+"/"+url.PathEscape(script), "")
			return text
		}},
	} {
		all = append(all, attack{id: "box-markup-" + f.id, who: "somebody who makes an authorization URL or registers", gains: "a script in the sandbox's page", does: f.does, play: func(t *testing.T) (bool, string) {
			return strings.Contains(f.page(t, newBox(t, sandbox.Options{})), "<script>"), "it is shown as text, or not at all"
		}})
	}
	for _, h := range []struct{ id, header, want string }{
		{"frame", "Content-Security-Policy", "frame-ancestors 'none'"}, {"old-frame", "X-Frame-Options", "DENY"}, {"referrer", "Referrer-Policy", "same-origin"}, {"cache", "Cache-Control", "no-store"},
	} {
		all = append(all, attack{id: "box-page-" + h.id, who: "a page of another site", gains: "clicks, addresses or copies of the sign-in page", does: "frames the page, reads its address in a Referer, looks into caches (" + h.header + ")", play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			resp, _ := boxSend(t, "GET", boxQuestion(srv), "")
			return !strings.Contains(resp.Header.Get(h.header), h.want), h.want
		}})
	}
	return all
}

// boxParameters are parameters of an authorization request that weaken it, and what tokens it may
// not be exchanged for.
func boxParameters() (all []attack) {
	for _, f := range []struct{ id, name, value string }{
		{"plain", "code_challenge_method", "plain"}, {"no-method", "code_challenge_method", ""}, {"no-challenge", "code_challenge", ""}, {"short-challenge", "code_challenge", "x"},
		{"request", "request", "eyJhbGciOiJub25lIn0.e30."}, {"request-uri", "request_uri", "https://evil.example/r"}, {"fragment", "response_mode", "fragment"}, {"form-post", "response_mode", "form_post"}, {"web-message", "response_mode", "web_message"},
		{"token", "response_type", "token"}, {"hybrid", "response_type", "code id_token"}, {"none-login", "prompt", "none login"}, {"resource", "resource", "https://evil.example/mcp"}, {"scope", "scope", "openid admin"},
	} {
		all = append(all, attack{id: "box-ask-" + f.id, who: "somebody who makes an authorization URL", gains: "a code that is easier to use", does: "sends " + f.name + "=" + f.value, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{AutoApprove: true})
			resp, _ := boxSend(t, "GET", boxQuestion(srv, f.name, f.value), "")
			to, err := resp.Location()
			if err != nil {
				t.Fatal(err)
			}
			q := to.Query()
			return q.Get("code") != "" || to.Fragment != "", q.Get("error")
		}})
	}
	for _, f := range []struct{ id, name, value string }{
		{"no-verifier", "code_verifier", ""}, {"other-verifier", "code_verifier", strings.Repeat("A", 43)}, {"challenge-as-verifier", "code_verifier", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"},
		{"short-verifier", "code_verifier", "x"}, {"other-redirect", "redirect_uri", "http://127.0.0.1:2/callback"}, {"no-redirect", "redirect_uri", ""}, {"other-resource", "resource", "https://evil.example/mcp"}, {"password", "grant_type", "password"}, {"client-credentials", "grant_type", "client_credentials"},
	} {
		all = append(all, attack{id: "box-exchange-" + f.id, who: "somebody who has seen a code", gains: "tokens", does: "exchanges it with " + f.name + "=" + f.value, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{AutoApprove: true})
			access, refused := boxToken(t, srv, "code", boxCode(t, srv), f.name, f.value)
			return access != "", refused
		}})
	}
	return all
}

// boxTokens are tokens that are not good.
func boxTokens() (all []attack) {
	for _, f := range []struct {
		id, does string
		token    func(t *testing.T, srv *sandbox.Server, good sandbox.Tokens) string
	}{
		{"none", "takes the signature off (alg none)", func(t *testing.T, _ *sandbox.Server, good sandbox.Tokens) string {
			return boxResigned(t, good.AccessToken, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType)
		}},
		{"public-key", "signs with the public key as a secret (HS256)", func(t *testing.T, srv *sandbox.Server, good sandbox.Tokens) string {
			_, text := boxSend(t, "GET", srv.AuthURL()+boxOIDC+"/certs", "")
			return boxResigned(t, good.AccessToken, jwt.SigningMethodHS256, []byte(text))
		}},
		{"empty-key", "signs with an empty secret", func(t *testing.T, _ *sandbox.Server, good sandbox.Tokens) string {
			return boxResigned(t, good.AccessToken, jwt.SigningMethodHS256, []byte{})
		}},
		{"no-signature", "cuts the signature off", func(_ *testing.T, _ *sandbox.Server, good sandbox.Tokens) string {
			return good.AccessToken[:strings.LastIndex(good.AccessToken, ".")+1]
		}},
		{"id-token", "sends an ID token", func(_ *testing.T, _ *sandbox.Server, good sandbox.Tokens) string { return good.IDToken }},
		{"refresh-token", "sends a refresh token", func(_ *testing.T, _ *sandbox.Server, good sandbox.Tokens) string { return good.RefreshToken }},
		{"other-sandbox", "sends another sandbox's token", func(t *testing.T, _ *sandbox.Server, _ sandbox.Tokens) string {
			other, err := newBox(t, sandbox.Options{}).Issue("mia", sandbox.IssueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return other.AccessToken
		}},
		{"other-resource", "sends a token for another resource", func(t *testing.T, srv *sandbox.Server, _ sandbox.Tokens) string {
			other, err := srv.Issue("mia", sandbox.IssueOptions{Resource: "https://other.example/mcp"})
			if err != nil {
				t.Fatal(err)
			}
			return other.AccessToken
		}},
		{"expired", "sends a token that has expired", func(_ *testing.T, srv *sandbox.Server, good sandbox.Tokens) string {
			srv.Advance(31 * time.Minute)
			return good.AccessToken
		}},
	} {
		all = append(all, attack{id: "box-token-" + f.id, who: "anybody", gains: "a user's projects", does: f.does, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			good, err := srv.Issue("mia", sandbox.IssueOptions{})
			if err != nil {
				t.Fatal(err)
			}
			read, status := boxProjects(t, srv, f.token(t, srv, good))
			return read, fmt.Sprint(status)
		}})
	}
	return all
}

// boxResigned signs the claims of a token anew.
func boxResigned(t *testing.T, token string, method jwt.SigningMethod, key any) string {
	t.Helper()
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err != nil {
		t.Fatal(err)
	}
	out, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// boxPaths are where another program would have its administration.
func boxPaths() (all []attack) {
	for _, path := range []string{"/admin", "/faults", "/advance", "/issue", "/requests", "/debug/pprof/", "/debug/vars", boxRealm + "/users", "/..%2f..%2fetc/passwd", "/metrics"} {
		all = append(all, attack{id: "box-path-" + strings.Trim(strings.NewReplacer("/", "-", "%2f", "-", ".", "").Replace(path), "-"), who: "anybody on this machine", gains: "what only the test's program may do", does: "asks for " + path, play: func(t *testing.T) (bool, string) {
			srv := newBox(t, sandbox.Options{})
			won := false
			for _, host := range []string{srv.AuthURL(), srv.APIURL()} {
				for _, method := range []string{"GET", "POST"} {
					resp, _ := boxSend(t, method, host+path, "")
					won = won || resp.StatusCode != http.StatusNotFound
				}
			}
			return won, "404"
		}})
	}
	return all
}

// boxListens are addresses that others could reach.
func boxListens() (all []attack) {
	for i, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "evil.example:0", "localhost.evil.example:0"} {
		all = append(all, attack{id: fmt.Sprintf("box-listen-%d", i+1), who: "somebody who is on the network", gains: "a server whose passwords are on its pages", does: "waits for a sandbox that listens on " + listen, play: func(t *testing.T) (bool, string) {
			srv, err := sandbox.Start(sandbox.Options{Listen: listen})
			if err == nil {
				_ = srv.Close()
			}
			return err == nil, "it does not start"
		}})
	}
	return all
}
