package attacks

import (
	"bufio"
	"crypto/rand"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// A webApp is the web application as a process, and the Astravue that it is a client of.
type webApp struct {
	t   *testing.T
	srv *sandbox.Server
	url string
	log testenv.Buffer
}

func newWebApp(t *testing.T, env ...string) *webApp {
	t.Helper()
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	a := &webApp{t: t, srv: srv}
	path, err := webapp()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(rand.Text()+rand.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	app := exec.Command(path, "-listen", "127.0.0.1:0", "-key-file", key)
	app.Env = append(append(os.Environ(), "ASTRAVUE_MCP_SERVER="+srv.URL()), env...)
	app.Stderr = &a.log
	out, err := app.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = app.Process.Kill()
		_ = app.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("webapp says %q: %v\n%s", line, err, a.log.String())
	}
	a.url = strings.TrimSpace(strings.TrimPrefix(line, "Open "))
	return a
}

// A webBrowser has cookies, and goes where it is sent if its user wants to.
type webBrowser struct {
	t    *testing.T
	http http.Client
}

func newWebBrowser(t *testing.T) *webBrowser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &webBrowser{t, http.Client{Jar: jar, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// A webPage is an answer.
type webPage struct {
	*http.Response
	text string // without HTML's escapes
	raw  string
}

// next is where the page sends its browser.
func (p webPage) next() string {
	if m := webOnward.FindStringSubmatch(p.text); m != nil {
		return m[1]
	}
	if to, err := p.Location(); err == nil {
		return to.String()
	}
	return ""
}

var (
	webOnward = regexp.MustCompile(`<meta http-equiv="refresh" content="0; url=([^"]*)">`)
	webForm   = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)">.*?</form>`)
	webHidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

func (b *webBrowser) do(method, address string, form url.Values, header ...string) webPage {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return webPage{resp, html.UnescapeString(string(data)), string(data)}
}

func (b *webBrowser) get(address string, header ...string) webPage {
	b.t.Helper()
	return b.do("GET", address, nil, header...)
}

// submit sends the first form of a page that is at address.
func (b *webBrowser) submit(p webPage, fields url.Values) webPage {
	b.t.Helper()
	form := webForm.FindStringSubmatch(p.text)
	if form == nil {
		b.t.Fatalf("no form on the page at %s: %s", p.Request.URL.Path, p.text)
	}
	for _, m := range webHidden.FindAllStringSubmatch(form[0], -1) {
		if !fields.Has(m[1]) {
			fields.Set(m[1], m[2])
		}
	}
	to, err := p.Request.URL.Parse(form[1])
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do("POST", to.String(), fields)
}

// approve signs user in at Astravue from the application's button on, and returns the callback's
// address, to which the browser has not gone.
func (b *webBrowser) approve(a *webApp, user string) (callback string) {
	b.t.Helper()
	onward := b.do("POST", a.url+"/login", url.Values{}).next()
	if onward == "" {
		b.t.Fatal("the application begins no sign-in")
	}
	return b.consent(onward, user)
}

// consent signs user in at an authorization URL and approves.
func (b *webBrowser) consent(address, user string) (callback string) {
	b.t.Helper()
	p := b.submit(b.get(address), url.Values{"username": {user}, "password": {user + "-sandbox"}})
	if to := p.next(); strings.Contains(to, "/login-actions/") {
		p = b.submit(b.get(to), url.Values{"decision": {"approve"}})
	}
	callback = p.next()
	if !strings.Contains(callback, "code=") {
		b.t.Fatalf("the browser is sent to %q", callback)
	}
	return callback
}

// signIn signs user in at the application.
func (b *webBrowser) signIn(a *webApp, user string) {
	b.t.Helper()
	b.get(b.approve(a, user))
	if b.sees(a) != user {
		b.t.Fatalf("%s is not signed in", user)
	}
}

// sees returns whose board the application shows, "nobody" without one.
func (b *webBrowser) sees(a *webApp) string {
	b.t.Helper()
	return webBoard(b.get(a.url))
}

func webBoard(p webPage) string {
	for user, name := range map[string]string{"mia": "Mia Lindqvist", "adam": "Adam Okafor"} {
		if strings.Contains(p.text, "Good to see you, "+name) {
			return user
		}
	}
	return "nobody"
}

func (b *webBrowser) cookie(a *webApp, name string) string {
	at, _ := url.Parse(a.url)
	for _, c := range b.http.Jar.Cookies(at) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func (b *webBrowser) setCookie(a *webApp, name, value string) {
	at, _ := url.Parse(a.url)
	b.http.Jar.SetCookies(at, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// begun is how many sign-ins the application has begun at Astravue, and spent how many codes it has sent.
func (a *webApp) begun() int { return a.srv.Counts().Requests[sandbox.StepResourceMetadata] }
func (a *webApp) spent() int { return a.srv.Counts().Requests[sandbox.StepExchange] }

// webRaw sends bytes as they are, and returns the answer's status and headers.
func webRaw(t *testing.T, address, request string) *http.Response {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(conn, request) }() // the answer may come before the end
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}
