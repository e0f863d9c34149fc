package attacks

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/sandbox"
)

const webPageOther = "a page of another site"

var webappAttacks = slices.Concat([]attack{
	{id: "web-login-link", who: webPageOther, gains: "a sign-in that replaces the session of whoever follows a link",
		does: "links to GET /login", play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			b := newWebBrowser(t)
			b.signIn(a, "mia")
			before := a.begun()
			p := b.get(a.url+"/login", "Sec-Fetch-Site", "cross-site")
			return a.begun() > before || b.cookie(a, "sign-in") != "" || b.sees(a) != "mia",
				fmt.Sprintf("%d, home; no sign-in begins", p.StatusCode)
		}},
	{id: "web-login-head", who: webPageOther, gains: "a sign-in that a prefetch begins", does: "has the browser send HEAD /login", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		p := b.do("HEAD", a.url+"/login", nil, "Sec-Fetch-Site", "cross-site")
		return a.begun() > 0, fmt.Sprintf("%d, and no sign-in begins", p.StatusCode)
	}},
	{id: "web-login-flood-get", who: "anybody", gains: "200 requests cost Astravue 800", does: "sends GET /login 200 times", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		for range 200 {
			b.get(a.url + "/login")
		}
		n := 0
		for _, c := range a.srv.Counts().Requests {
			n += c
		}
		return n > 0, fmt.Sprintf("%d requests to Astravue", n)
	}},
	{id: "web-login-flood", who: "anybody", gains: "Astravue is asked as often as the attacker likes", does: "sends POST /login 60 times at once while Astravue is slow", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		defer a.srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Delay: time.Minute})()
		ctx, stop := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer stop()
		webAtOnce(60, func() { webIgnored(ctx, "POST", a.url+"/login", "") })
		return a.begun() > 10, "ten are begun, and the others wait for a turn"
	}},
	{id: "web-callback-flood", who: "anybody", gains: "codes are sent to Astravue as often as the attacker likes, with one cookie", does: "begins one sign-in, and comes back 60 times with the right state and a made-up code", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		onward, err := url.Parse(b.do("POST", a.url+"/login", url.Values{}).next())
		if err != nil {
			t.Fatal(err)
		}
		back := a.url + "/callback?" + url.Values{"code": {"x"}, "state": {onward.Query().Get("state")}, "iss": {a.srv.Issuer()}}.Encode()
		ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer stop()
		cookie := "sign-in=" + b.cookie(a, "sign-in")
		webAtOnce(60, func() { webIgnored(ctx, "GET", back, cookie) })
		return a.spent() > 10, "ten at most are sent in a second"
	}},
	{id: "web-callback-guess", who: "anybody", gains: "somebody else's sign-in", does: "sends nine callbacks with made-up states", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		b.do("POST", a.url+"/login", url.Values{})
		for i := range 9 {
			b.get(fmt.Sprintf("%s/callback?code=x&state=%d", a.url, i))
		}
		return a.spent() > 0 || b.sees(a) != "nobody", "no code is sent"
	}},
	{id: "web-login-csrf", who: "an attacker with an account", gains: "the victim works in the attacker's account", does: "has a browser without a sign-in open the attacker's callback", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		back := newWebBrowser(t).approve(a, "adam")
		victim := newWebBrowser(t)
		p := victim.get(back, "Sec-Fetch-Site", "cross-site")
		return victim.sees(a) != "nobody" || a.spent() > 0, fmt.Sprintf("%d, no code is sent", p.StatusCode)
	}},
	{id: "web-login-csrf-under-way", who: "an attacker with an account", gains: "the victim works in the attacker's account", does: "has a browser with a sign-in under way open the attacker's callback", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		back := newWebBrowser(t).approve(a, "adam")
		victim := newWebBrowser(t)
		own := victim.approve(a, "mia")
		p := victim.get(back)
		won := victim.sees(a) != "nobody" || a.spent() > 0
		victim.get(own)
		return won || victim.sees(a) != "mia", fmt.Sprintf("%d, and the victim's own goes on", p.StatusCode)
	}},
	{id: "web-login-csrf-signed-in", who: "an attacker with an account", gains: "a session that is there is replaced", does: "has a browser with a session open the attacker's callback", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		back := newWebBrowser(t).approve(a, "adam")
		victim := newWebBrowser(t)
		victim.signIn(a, "mia")
		p := victim.get(back)
		return victim.sees(a) != "mia", fmt.Sprintf("%d, and the session stays", p.StatusCode)
	}},
	{id: "web-pending-other-id", who: "somebody who has seen a victim's callback and cookie", gains: "the victim's tokens under an ID of the attacker's", does: "puts the victim's pending value under the attacker's ID", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		victim, attacker := newWebBrowser(t), newWebBrowser(t)
		back := victim.approve(a, "mia")
		attacker.approve(a, "adam")
		id, _, _ := strings.Cut(attacker.cookie(a, "sign-in"), ".")
		_, sealed, _ := strings.Cut(victim.cookie(a, "sign-in"), ".")
		attacker.setCookie(a, "sign-in", id+"."+sealed)
		p := attacker.get(back)
		return attacker.sees(a) == "mia" || a.spent() > 0, fmt.Sprintf("%d, no code is sent", p.StatusCode)
	}},
	{id: "web-callback-8-at-once", who: "somebody who has seen a victim's callback and cookie", gains: "a second session", does: "sends the callback eight times at once", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		back := b.approve(a, "mia")
		cookie := b.cookie(a, "sign-in")
		var mu sync.Mutex
		sessions := 0
		webAtOnce(8, func() {
			other := newWebBrowser(t)
			other.setCookie(a, "sign-in", cookie)
			other.get(back)
			if other.sees(a) == "mia" {
				mu.Lock()
				sessions++
				mu.Unlock()
			}
		})
		return sessions > 1 || a.spent() > 1, fmt.Sprintf("%d session, %d code sent", sessions, a.spent())
	}},
	{id: "web-callback-replay", who: "somebody who has seen a victim's callback and cookie", gains: "a session", does: "sends the callback again after the victim", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b, thief := newWebBrowser(t), newWebBrowser(t)
		back := b.approve(a, "mia")
		thief.setCookie(a, "sign-in", b.cookie(a, "sign-in"))
		b.get(back)
		p := thief.get(back)
		return thief.sees(a) != "nobody" || a.spent() > 1, fmt.Sprintf("%d, no code is sent", p.StatusCode)
	}},
	{id: "web-session-fixation", who: "somebody who can set a cookie in the victim's browser", gains: "the session that the victim gets", does: "sets a session cookie before the victim signs in", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		attacker, victim := newWebBrowser(t), newWebBrowser(t)
		attacker.signIn(a, "adam")
		victim.setCookie(a, "session", attacker.cookie(a, "session"))
		victim.get(victim.approve(a, "mia"))
		return victim.cookie(a, "session") == attacker.cookie(a, "session") || attacker.sees(a) == "mia", "the victim's session is a new one; the planted one is ended"
	}},
	{id: "web-session-after-sign-out", who: "somebody who kept the cookie of a session", gains: "the session, and requests to Astravue without end", does: "sends the cookie 20 times after a sign-out", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b, thief := newWebBrowser(t), newWebBrowser(t)
		b.signIn(a, "mia")
		thief.setCookie(a, "session", b.cookie(a, "session"))
		b.submit(b.get(a.url), url.Values{})
		a.srv.ClearRequests()
		won := false
		for range 20 {
			cookie := thief.cookie(a, "session")
			won = won || thief.sees(a) != "nobody"
			thief.setCookie(a, "session", cookie)
		}
		got := a.srv.Counts().Requests
		return won || got[sandbox.StepMCP]+got[sandbox.StepRefresh] > 0, "nobody is signed in, and no token is sent"
	}},
	{id: "web-cookie-of-another-port", who: "a service on another port of the application's host", gains: "the session cookie",
		does:   "has the victim open a page of its own",
		stands: "Cookies ignore ports (RFC 6265 §8.5), so an application needs a host of its own: main.go says so.",
		play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			b := newWebBrowser(t)
			b.signIn(a, "mia")
			stolen := ""
			evil := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if c, err := r.Cookie("session"); err == nil {
					stolen = c.Value
				}
			}))
			defer evil.Close()
			b.get(evil.URL)
			thief := newWebBrowser(t)
			thief.setCookie(a, "session", stolen)
			return thief.sees(a) == "mia", "the thief sees the victim's board"
		}},
	{id: "web-log-secrets", who: "somebody who reads the log", gains: "a code, state, token or cookie", does: "reads the log after sign-ins that end well, twice, in a refusal and in an outage", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		back := b.approve(a, "mia")
		secrets := []string{b.cookie(a, "sign-in")}
		u, _ := url.Parse(back)
		secrets = append(secrets, u.Query().Get("code"), u.Query().Get("state"))
		b.get(strings.Replace(back, "state=", "state=x", 1))
		b.get(back)
		b.get(back)
		secrets = append(secrets, b.cookie(a, "session"))
		undo := a.srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: 500, Body: "oops"})
		b.get(a.url)
		undo()
		back = b.approve(a, "mia")
		undo = a.srv.Fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Drop: true})
		b.get(back)
		undo()
		if a.log.String() == "" {
			t.Fatal("there is no log")
		}
		for _, s := range secrets {
			if s == "" {
				t.Fatal("a secret is not known")
			}
			if strings.Contains(a.log.String(), s) {
				return true, "one is there"
			}
		}
		return false, "none is there"
	}},
	{id: "web-log-lines", who: "anybody", gains: "lines of the log", does: "sends a callback whose error holds line ends", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		b := newWebBrowser(t)
		onward, _ := url.Parse(b.do("POST", a.url+"/login", url.Values{}).next())
		b.get(a.url + "/callback?" + url.Values{"error": {"x"}, "error_description": {"a\nlevel=ERROR msg=forged\x1b[2J"}, "state": {onward.Query().Get("state")}, "iss": {a.srv.Issuer()}}.Encode())
		b.get(a.url + "/%0Alevel=ERROR%20msg=forged")
		return strings.Contains(a.log.String(), "\nlevel=ERROR msg=forged") || strings.Contains(a.log.String(), "\x1b"), "they stay in their field, escaped"
	}},
	{id: "web-page-script", who: "a colleague of the victim's", gains: "a script in the victim's page", does: "names tasks and themselves in HTML", play: func(t *testing.T) (bool, string) {
		a := newWebApp(t)
		const script = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
		webNameTask(t, a, script)
		b := newWebBrowser(t)
		b.signIn(a, "mia")
		p := b.get(a.url)
		if !strings.Contains(p.text, script) {
			t.Fatal("the task is not on the board")
		}
		return strings.Contains(p.raw, "<script>alert") || strings.Contains(p.raw, "<img src=x"), "they are shown as text"
	}},
	{id: "web-httpoxy", who: "somebody who sends requests to the application where it runs under CGI", gains: "the application's requests, tokens included", does: "sends a Proxy header, which CGI makes HTTP_PROXY", play: func(t *testing.T) (bool, string) {
		asked := 0
		evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++ }))
		defer evil.Close()
		a := newWebApp(t, "REQUEST_METHOD=GET", "HTTP_PROXY="+evil.URL, "http_proxy=", "NO_PROXY=", "no_proxy=")
		p := newWebBrowser(t).do("POST", a.url+"/login", url.Values{})
		return asked > 0, fmt.Sprintf("%d: net/http refuses to ask anybody rather than to go by way of it", p.StatusCode)
	}},
}, webCrossSite(), webSessions(), webRedirects(), webCookies(), webHosts(), webHeaders())

// webAtOnce runs f n times at once.
func webAtOnce(n int, f func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(f)
	}
	wg.Wait()
}

// webIgnored sends a request whose answer nobody wants.
func webIgnored(ctx context.Context, method, address, cookie string) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		panic(err) // the row's own
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if resp, err := c.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// webNameTask makes a task of Mia's, as a colleague may.
func webNameTask(t *testing.T, a *webApp, title string) {
	t.Helper()
	tokens, err := a.srv.Issue("olivia", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "colleague"}, nil).Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: a.srv.URL(), HTTPClient: &http.Client{Transport: boxBearer(tokens.AccessToken)}, DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "create_project_task",
		Arguments: map[string]any{"project_id": "project-1", "title": title, "assignee_id": "mia"}})
	if err != nil || res.IsError {
		t.Fatalf("create a task: %v %+v", err, res)
	}
}

// webCrossSite has other sites' pages post what only the application's own may.
func webCrossSite() (all []attack) {
	for _, from := range []struct{ id, who, does, header, value string }{
		{"cross-site", webPageOther, "posts a form", "Sec-Fetch-Site", "cross-site"},
		{"same-site", "a page of a neighbouring host or port", "posts a form, with the user's cookies,", "Sec-Fetch-Site", "same-site"},
		{"origin", webPageOther + ", in a browser without Sec-Fetch-Site", "posts a form", "Origin", "https://evil.example"},
		{"null-origin", webPageOther + ", in a sandboxed frame", "posts a form", "Origin", "null"},
		{"origin-prefix", "a page of a host whose name begins with the application's", "posts a form", "Origin", "http://127.0.0.1.evil.example"},
	} {
		all = append(all,
			attack{id: "web-login-" + from.id, who: from.who, gains: "a sign-in that the user did not begin", does: from.does + " to /login", play: func(t *testing.T) (bool, string) {
				a := newWebApp(t)
				b := newWebBrowser(t)
				b.signIn(a, "mia")
				before := a.begun()
				p := b.do("POST", a.url+"/login", url.Values{}, from.header, from.value)
				return a.begun() > before || b.cookie(a, "sign-in") != "", fmt.Sprintf("%d, no sign-in begins", p.StatusCode)
			}},
			attack{id: "web-logout-" + from.id, who: from.who, gains: "the end of the user's session", does: from.does + " to /logout", play: func(t *testing.T) (bool, string) {
				a := newWebApp(t)
				b := newWebBrowser(t)
				b.signIn(a, "mia")
				p := b.do("POST", a.url+"/logout", url.Values{}, from.header, from.value)
				return b.sees(a) != "mia", fmt.Sprintf("%d, and the session stays", p.StatusCode)
			}})
	}
	for _, m := range []struct{ id, method, header, value string }{
		{"get", "GET", "", ""}, {"head", "HEAD", "", ""},
		{"override-header", "GET", "X-HTTP-Method-Override", "POST"}, {"override-query", "GET", "", ""},
	} {
		all = append(all, attack{id: "web-logout-by-" + m.id, who: webPageOther, gains: "the end of the user's session", does: "links to /logout (" + m.id + ")", play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			b := newWebBrowser(t)
			b.signIn(a, "mia")
			header := []string{"Sec-Fetch-Site", "cross-site"}
			if m.header != "" {
				header = append(header, m.header, m.value)
			}
			p := b.do(m.method, a.url+"/logout?_method=POST", nil, header...)
			return b.sees(a) != "mia", fmt.Sprintf("%d, and the session stays", p.StatusCode)
		}})
	}
	return all
}

// webSessions are cookies that were not made by the application.
func webSessions() (all []attack) {
	for _, f := range []struct {
		id, does string
		make     func(good string) string
	}{
		{"bare", "sends a user's ID alone", func(good string) string { return strings.Split(good, ".")[0] }},
		{"unsigned", "leaves the signature out", func(good string) string { return good[:strings.LastIndex(good, ".")+1] }},
		{"prolonged", "sets the end of its session to the year 5138", func(good string) string {
			p := strings.Split(good, ".")
			return p[0] + ".99999999999." + p[2]
		}},
		{"other-user", "puts another user's ID before its own signature", func(good string) string {
			if good[0] == 'X' {
				return "Y" + good[1:]
			}
			return "X" + good[1:]
		}},
		{"moved-dot", "moves the dot between ID and time", func(good string) string {
			p := strings.Split(good, ".")
			return p[0] + p[1][:1] + "." + p[1][1:] + "." + p[2]
		}},
		{"negative", "counts time from before", func(good string) string { p := strings.Split(good, "."); return p[0] + ".-1." + p[2] }},
		{"more-parts", "appends a part", func(good string) string { return good + ".x" }},
		{"bits", "changes the last character of the signature", func(good string) string {
			last := "A"
			if strings.HasSuffix(good, "A") || strings.HasSuffix(good, "B") || strings.HasSuffix(good, "C") || strings.HasSuffix(good, "D") {
				last = "Q"
			}
			return good[:len(good)-1] + last
		}},
	} {
		all = append(all, attack{id: "web-session-" + f.id, who: "a user", gains: "another user's session, or a longer one", does: f.does, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			victim, thief := newWebBrowser(t), newWebBrowser(t)
			victim.signIn(a, "mia")
			thief.setCookie(a, "session", f.make(victim.cookie(a, "session")))
			return thief.sees(a) != "nobody", "nobody is signed in"
		}})
	}
	for _, f := range []struct{ id, does, value string }{
		{"empty", "sends an empty pending value", "."},
		{"garbage", "sends a made-up pending value", "ID.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		{"no-id", "sends a pending value without the ID", ".AAAA"},
		{"no-base64", "sends a pending value that is no base64", "ID.%%%"},
	} {
		all = append(all, attack{id: "web-pending-" + f.id, who: "anybody", gains: "a session without a sign-in", does: f.does, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			b := newWebBrowser(t)
			b.setCookie(a, "sign-in", f.value)
			p := b.get(a.url + "/callback?code=x&state=&iss=x")
			return a.spent() > 0 || b.sees(a) != "nobody" || p.StatusCode >= 500, fmt.Sprintf("%d, no code is sent", p.StatusCode)
		}})
	}
	return append(all, attack{id: "web-session-of-another-key", who: "somebody who runs another one of these applications", gains: "a session", does: "sends a cookie that its own application signed", play: func(t *testing.T) (bool, string) {
		a, own := newWebApp(t), newWebApp(t)
		b, thief := newWebBrowser(t), newWebBrowser(t)
		b.signIn(own, "mia")
		thief.setCookie(a, "session", b.cookie(own, "session"))
		return thief.sees(a) != "nobody", "nobody is signed in"
	}})
}

// webRedirects are addresses that could send a browser elsewhere.
func webRedirects() (all []attack) {
	for i, path := range []string{
		"//evil.example", "/\\evil.example", "/%2f%2fevil.example", "//evil.example/%2e%2e", "/login?next=https://evil.example", "/.//evil.example/../..//evil.example",
		"/login/../..//evil.example", "/callback?redirect=//evil.example", "/login//evil.example", "http://evil.example/login", "/%5cevil.example",
	} {
		all = append(all, attack{id: fmt.Sprintf("web-redirect-%d", i+1), who: "somebody who sends a link", gains: "a browser that trusts the application goes to the attacker's page", does: "GET " + path, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			host := strings.TrimPrefix(a.url, "http://")
			resp := webRaw(t, a.url, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			to := resp.Header.Get("Location")
			at, err := url.Parse(a.url + "/")
			if err != nil {
				t.Fatal(err)
			}
			at, err = at.Parse(to)
			// Browsers take a backslash for a slash.
			return to != "" && (err != nil || at.Host != host || strings.HasPrefix(strings.ReplaceAll(to, `\`, "/"), "//")),
				fmt.Sprintf("%d, to nowhere else", resp.StatusCode)
		}})
	}
	return all
}

// webCookies are more of them than an application expects.
func webCookies() (all []attack) {
	for _, f := range []struct{ id, does, value string }{
		{"long", "sends a session cookie of 64 KiB", "session=" + strings.Repeat("a", 64<<10)},
		{"longer", "sends a session cookie of 2 MiB", "session=" + strings.Repeat("a", 2<<20)},
		{"many", "sends 2,000 session cookies", strings.Repeat("session=a.1.b; ", 2000) + "x=y"},
		{"numbers", "sends a session cookie with a time of 100,000 digits", "session=a." + strings.Repeat("9", 100_000) + ".b"},
	} {
		all = append(all, attack{id: "web-cookie-" + f.id, who: "anybody", gains: "the application stops, or answers others no more", does: f.does, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			resp := webRaw(t, a.url, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: "+f.value+"\r\n\r\n")
			b := newWebBrowser(t)
			b.signIn(a, "mia")
			return false, fmt.Sprintf("%d, and others are served", resp.StatusCode)
		}})
	}
	return all
}

// webHosts name another host than the application's.
func webHosts() (all []attack) {
	for _, header := range []string{"Host", "X-Forwarded-Host", "Forwarded", "X-Original-URL"} {
		all = append(all, attack{id: "web-host-" + strings.ToLower(header), who: "somebody who can have a browser or a cache send headers", gains: "a code that is sent to the attacker's host", does: "begins a sign-in with a foreign " + header, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			p := newWebBrowser(t).do("POST", a.url+"/login", url.Values{}, header, "evil.example")
			onward, err := url.Parse(p.next())
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(p.text, "evil.example") || onward.Query().Get("redirect_uri") != a.url+"/callback", "the redirect address is the configured one"
		}})
	}
	return all
}

// webHeaders are what keeps pages out of frames and caches, each page having them.
func webHeaders() (all []attack) {
	for _, h := range []struct{ id, gains, does, header, want string }{
		{"frame", "clicks on the victim's page", "shows the page in a frame", "Content-Security-Policy", "frame-ancestors 'none'"},
		{"form", "a form of the page's that posts to the attacker", "injects markup", "Content-Security-Policy", "form-action 'self'"},
		{"base", "links of the page's that lead to the attacker", "injects markup", "Content-Security-Policy", "base-uri 'none'"},
		{"policy", "a script", "injects markup", "Content-Security-Policy", "default-src 'none'"},
		{"sniff", "a page read as something else", "has the browser guess a page's type", "X-Content-Type-Options", "nosniff"},
		{"cache", "a page of a user who has signed out", "looks into caches", "Cache-Control", "no-store"},
		{"referrer", "a code in a Referer", "is the target of a link", "Referrer-Policy", "same-origin"},
	} {
		all = append(all, attack{id: "web-page-" + h.id, who: webPageOther, gains: h.gains, does: h.does, play: func(t *testing.T) (bool, string) {
			a := newWebApp(t)
			b := newWebBrowser(t)
			pages := []webPage{b.get(a.url), b.get(a.url + "/callback?code=x"), b.do("POST", a.url+"/login", url.Values{})}
			b.signIn(a, "mia")
			pages = append(pages, b.get(a.url), b.submit(b.get(a.url), url.Values{}))
			for _, p := range pages {
				if !strings.Contains(p.Header.Get(h.header), h.want) {
					return true, "a page lacks " + h.header
				}
			}
			return false, "each page has " + h.want
		}})
	}
	return all
}
