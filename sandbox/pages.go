package sandbox

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

//go:embed page
var pageFiles embed.FS

var (
	pageStyle = func() template.CSS {
		b, err := pageFiles.ReadFile("page/style.css")
		if err != nil {
			panic(err) // embedded
		}
		// Browsers hash the style without carriage returns, which an archive or an editor may have put in.
		return template.CSS(strings.ReplaceAll(string(b), "\r\n", "\n"))
	}()
	pageTemplates = template.Must(template.New("").Funcs(template.FuncMap{"initials": initials, "split": splitAddress}).ParseFS(pageFiles, "page/page.html"))
	pageStyleHash = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return base64.StdEncoding.EncodeToString(sum[:])
	}()
)

// A fact is a name with a text.
type fact struct{ Name, Text string }

// A page holds the values of all templates. Each template uses some.
type page struct {
	Title, Text, Code string
	Facts             []fact
	Action, Button    string

	Tab, CSRF    string
	Client       string
	Error, Hint  string
	Accounts     []Account
	Current      string
	Choose       bool
	Account      Account
	Scopes       []fact
	RedirectHost string
	Loopback     bool
	SelfNamed    bool
}

func (page) Style() template.CSS { return pageStyle }

func initials(name string) string {
	var out []rune
	for _, w := range strings.Fields(name) {
		r, _ := utf8.DecodeRuneInString(w)
		if out = append(out, r); len(out) == 2 {
			break
		}
	}
	return strings.ToUpper(string(out))
}

// splitAddress says where a narrow screen may break an address.
func splitAddress(email string) []string { return strings.SplitAfter(email, "@") }

// render writes a page that loads nothing, runs nothing, is not cached, and posts
// only to the sandbox. Browsers apply form-action to redirects too: redirect is the
// application's address if one may follow, else nil.
func (s *Server) render(w http.ResponseWriter, status int, name string, p page, redirect *url.URL) {
	var b bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&b, name, p); err != nil {
		http.Error(w, "page cannot be shown", http.StatusInternalServerError)
		return
	}
	action := "'self'"
	if redirect != nil {
		action += " " + redirect.Scheme + ":"
		if redirect.Host != "" {
			action += "//" + redirect.Host
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+pageStyleHash+"'; img-src data:; form-action "+action+"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer our own forms would come from the origin "null"
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (s *Server) showSignIn(w http.ResponseWriter, _ *http.Request, p *pending, current *browser, hint, wrong string) {
	pg := page{Title: "Sign in", Tab: p.tab, CSRF: p.csrf, Client: p.clientName, Error: wrong, Hint: hint,
		Action: realmPath + "/login-actions/authenticate", Accounts: s.Accounts()}
	if slices.Contains(p.prompt, "select_account") {
		pg.Title, pg.Choose = "Choose an account", true
	}
	if current != nil {
		pg.Current = current.user.ID
		if slices.Contains(p.prompt, "login") {
			pg.Title, pg.Hint = "Sign in again", current.user.ID
		}
	}
	s.render(w, http.StatusOK, "signin", pg, p.redirectURL)
}

func (s *Server) showConsent(w http.ResponseWriter, r *http.Request, p *pending) {
	s.mu.Lock()
	b := p.signedIn
	s.mu.Unlock()
	if b == nil {
		s.showSignIn(w, r, p, nil, p.hint, "")
		return
	}
	pg := page{Title: "Allow access", Tab: p.tab, CSRF: p.csrf, Client: p.clientName,
		Action: realmPath + "/login-actions/consent", RedirectHost: p.redirectURL.Host, Loopback: loopbackHost(p.redirectURL.Host),
		SelfNamed: p.client.dynamic,
		Account:   Account{User: b.user.ID, Name: b.user.Name, Email: b.user.Email, Role: string(b.user.Role)}}
	if pg.RedirectHost == "" {
		pg.RedirectHost, pg.Loopback = p.redirectURL.Scheme, true
	}
	for _, sc := range p.scopes {
		text, ok := scopeTexts[sc]
		if !ok {
			text = "Use the scope called"
		}
		pg.Scopes = append(pg.Scopes, fact{sc, text})
	}
	s.render(w, http.StatusOK, "consent", pg, p.redirectURL)
}

var scopeTexts = map[string]string{
	"openid":         "Know who you are",
	"profile":        "See your name and username",
	"email":          "See your email address",
	"offline_access": "Stay connected while you are away, until you revoke it",
}

// message shows a page with a title and a text.
func (s *Server) message(w http.ResponseWriter, status int, p page) {
	s.render(w, status, "message", p, nil)
}

// errorPage shows why a sign-in ends here instead of at its application.
func (s *Server) errorPage(w http.ResponseWriter, r *http.Request, status int, code, text string) {
	s.note(r, func(e *Request) { e.Error = code })
	s.message(w, status, page{Title: "This sign-in cannot go on", Text: text, Code: code})
}

// home shows the addresses of this sandbox.
func (s *Server) home(w http.ResponseWriter, _ *http.Request) {
	s.message(w, http.StatusOK, page{Title: "This is a local Astravue", Text: "Point an MCP client at it, sign in as one of its people, and break what you like.",
		Facts: []fact{
			{"MCP endpoint", s.URL()},
			{"Public API", s.apiURL + "/api/v1/projects"},
			{"Issuer", s.issuer},
			{"Authorization-server metadata", s.apiURL + "/.well-known/oauth-authorization-server"},
			{"Registered application", s.app.id},
		}})
}
