package sandbox

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A pending sign-in lives from the authorization request to its redirect, in
// one tab of one browser.
type pending struct {
	tab     string
	csrf    string
	browser string // cookie of the browser that asked
	expires time.Time

	client      *client
	redirect    string
	state       string
	scopes      []string
	resource    string
	challenge   string
	nonce       string
	prompt      []string
	hint        string
	clientName  string
	redirectURL *url.URL

	signedIn *browser // nil until somebody signs in
}

const pendingLife = 30 * time.Minute

// authorize is the authorization endpoint (RFC 6749 §3.1).
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.Form
	// Nobody is redirected before the redirect address is known to belong to the
	// client (RFC 6749 §4.1.2.1).
	if q.Get("client_id") == "" || len(q["client_id"]) > 1 {
		s.errorPage(w, r, http.StatusBadRequest, "invalid_request", "The application did not say who it is: client_id is missing.")
		return
	}
	c, err := s.findClient(r.Context(), q.Get("client_id"), true)
	if err != nil {
		s.errorPage(w, r, http.StatusBadRequest, "invalid_client", "The application is not known here: "+err.Error()+".")
		return
	}
	if c == nil {
		s.errorPage(w, r, http.StatusBadRequest, "invalid_client", "Client not found. The application that sent you here is not registered, or its registration was removed.")
		return
	}
	s.mu.Lock()
	registered, name := c.redirects, c.name
	s.mu.Unlock()
	if len(q["redirect_uri"]) != 1 || !redirectAllowed(registered, q.Get("redirect_uri")) {
		s.errorPage(w, r, http.StatusBadRequest, "invalid_redirect_uri", "Invalid parameter: redirect_uri. The application has not registered the address to which it wants the answer.")
		return
	}
	p := &pending{client: c, clientName: cmp.Or(name, c.id), redirect: q.Get("redirect_uri"), state: q.Get("state"),
		scopes: strings.Fields(q.Get("scope")), resource: q.Get("resource"), challenge: q.Get("code_challenge"), nonce: q.Get("nonce"),
		prompt: strings.Fields(q.Get("prompt")), hint: q.Get("login_hint"), expires: s.now().Add(pendingLife)}
	p.redirectURL, _ = url.Parse(p.redirect)
	if len(p.scopes) == 0 {
		p.scopes = []string{"profile", "email"}
	}
	if s.opts.IgnoreResource {
		p.resource = ""
	}
	if wrong := s.checkRequest(q, p); wrong != nil {
		s.refuse(w, r, p, wrong.code, wrong.description)
		return
	}
	s.begin(w, r, p)
}

// checkRequest says what is wrong with an authorization request whose client and redirect address
// are right. Nil: nothing.
func (s *Server) checkRequest(q url.Values, p *pending) *refusal {
	for k, v := range q {
		if len(v) > 1 {
			what := "duplicated parameter"
			if k == "resource" { // RFC 8707 §2 allows several; the MCP endpoint is one
				what = "more than one resource"
			}
			return &refusal{"invalid_request", what}
		}
	}
	unknown := s.unknownScopes(p.scopes)
	switch {
	case q.Get("response_type") == "":
		return &refusal{"invalid_request", "Missing parameter: response_type"}
	case q.Get("response_type") != "code":
		return &refusal{"unsupported_response_type", ""}
	case q.Has("request"):
		return &refusal{"request_not_supported", ""}
	case q.Has("request_uri"):
		return &refusal{"request_uri_not_supported", ""}
	case q.Has("response_mode") && q.Get("response_mode") != "query":
		return &refusal{"invalid_request", "Invalid parameter: response_mode"}
	case q.Get("code_challenge_method") == "":
		return &refusal{"invalid_request", "Missing parameter: code_challenge_method"}
	case q.Get("code_challenge_method") != "S256":
		return &refusal{"invalid_request", "Invalid parameter: code challenge method is not matching the configured one"}
	case p.challenge == "":
		return &refusal{"invalid_request", "Missing parameter: code_challenge"}
	case len(p.challenge) != 43 || !validVerifier(p.challenge): // base64url of a SHA-256
		return &refusal{"invalid_request", "Invalid parameter: code_challenge"}
	case len(unknown) > 0:
		return &refusal{"invalid_scope", "Invalid scopes: " + clip(strings.Join(p.scopes, " "))}
	case p.resource != "" && p.resource != s.resource && p.resource != s.URL() && !slices.Contains(s.opts.Resources, p.resource):
		return &refusal{"invalid_target", "The resource is not known"}
	case !subset(p.prompt, "none", "login", "consent", "select_account"),
		slices.Contains(p.prompt, "none") && len(p.prompt) > 1:
		return &refusal{"invalid_request", "Invalid parameter: prompt"}
	}
	return nil
}

// begin shows the first page, or none if none is needed.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, p *pending) {
	b := s.signedIn(r)
	if s.opts.AutoApprove {
		if b = s.autoSignIn(w, p, b); b == nil {
			s.refuse(w, r, p, "access_denied", "User disabled")
			return
		}
		s.finish(w, r, p, b)
		return
	}
	asks := func(prompt string) bool { return slices.Contains(p.prompt, prompt) }
	if asks("none") {
		switch {
		case b == nil:
			s.refuse(w, r, p, "login_required", "")
		case !s.consented(p, b.user):
			s.refuse(w, r, p, "interaction_required", "")
		default:
			s.finish(w, r, p, b)
		}
		return
	}
	if b != nil && !asks("login") && !asks("select_account") && !asks("consent") && s.consented(p, b.user) {
		s.finish(w, r, p, b)
		return
	}
	p.tab, p.csrf = rand.Text(), rand.Text()
	p.browser = s.browserCookie(w, r)
	again := b != nil && (asks("login") || asks("select_account"))
	if b != nil && !again {
		p.signedIn = b
	}
	s.mu.Lock()
	s.pending.put(p.tab, p)
	s.mu.Unlock()
	if p.signedIn != nil {
		s.showConsent(w, r, p)
		return
	}
	s.showSignIn(w, r, p, b, p.hint, "")
}

// authenticate takes the sign-in page's form.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) {
	p := s.ours(w, r)
	if p == nil {
		return
	}
	if r.PostForm.Get("action") == "cancel" {
		s.forget(p)
		s.refuse(w, r, p, "access_denied", "User cancelled the sign-in")
		return
	}
	now := s.now()
	name := strings.ToLower(strings.TrimSpace(r.PostForm.Get("username")))
	s.mu.Lock()
	u := s.byLogin(name)
	ok := u != nil && subtle.ConstantTimeCompare([]byte(u.password), []byte(r.PostForm.Get("password"))) == 1
	disabled := u != nil && u.disabled
	s.mu.Unlock()
	switch {
	case !ok:
		s.showSignIn(w, r, p, nil, clip(name), "Invalid username or password.")
		return
	case disabled:
		s.showSignIn(w, r, p, nil, clip(name), "Account is disabled, contact your administrator.")
		return
	}
	b := s.signIn(w, u, now)
	s.noteUser(r, u)
	s.mu.Lock()
	p.signedIn = b
	s.mu.Unlock()
	if s.consented(p, u) && !slices.Contains(p.prompt, "consent") {
		s.forget(p)
		s.finish(w, r, p, b)
		return
	}
	http.Redirect(w, r, realmPath+"/login-actions/consent?tab_id="+url.QueryEscape(p.tab), http.StatusSeeOther)
}

func (s *Server) consentPage(w http.ResponseWriter, r *http.Request) {
	if p := s.ours(w, r); p != nil {
		s.showConsent(w, r, p)
	}
}

// consent takes the consent page's form.
func (s *Server) consent(w http.ResponseWriter, r *http.Request) {
	p := s.ours(w, r)
	if p == nil {
		return
	}
	s.mu.Lock()
	b := p.signedIn
	s.mu.Unlock()
	if b == nil {
		s.errorPage(w, r, http.StatusBadRequest, "invalid_request", "Nobody is signed in. Go back to the application and start again.")
		return
	}
	s.noteUser(r, b.user)
	switch r.PostForm.Get("decision") {
	case "approve":
		s.forget(p)
		s.mu.Lock()
		for _, sc := range p.scopes {
			if have := p.client.consents[b.user.ID]; !slices.Contains(have, sc) {
				p.client.consents[b.user.ID] = append(have, sc)
			}
		}
		s.mu.Unlock()
		s.finish(w, r, p, b)
	case "deny":
		s.forget(p)
		s.refuse(w, r, p, "access_denied", "User denied consent")
	case "switch":
		s.mu.Lock()
		p.signedIn = nil
		s.mu.Unlock()
		s.showSignIn(w, r, p, b, "", "")
	default:
		s.showConsent(w, r, p)
	}
}

// ours returns the pending sign-in that a request belongs to. The request must come
// from the browser that began it, and a POST from our page too. If ours returns nil
// it has answered.
func (s *Server) ours(w http.ResponseWriter, r *http.Request) *pending {
	cookie, _ := r.Cookie("ASTRAVUE_BROWSER_" + s.cookieSuffix)
	s.mu.Lock()
	p, _ := s.pending.get(r.Form.Get("tab_id"))
	s.mu.Unlock()
	if p == nil || cookie == nil || cookie.Value != p.browser || s.now().After(p.expires) ||
		r.Method == http.MethodPost && subtle.ConstantTimeCompare([]byte(r.PostForm.Get("csrf")), []byte(p.csrf)) != 1 {
		s.errorPage(w, r, http.StatusBadRequest, "expired", "This page has expired or was already used. Go back to the application and start again.")
		return nil
	}
	s.note(r, func(e *Request) { e.ClientID = p.client.id })
	return p
}

// forget ends a pending sign-in.
func (s *Server) forget(p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.delete(p.tab)
}

// finish redirects with a code (RFC 6749 §4.1.2, RFC 9207 §2).
func (s *Server) finish(w http.ResponseWriter, r *http.Request, p *pending, b *browser) {
	now := s.now()
	g := &grant{sid: uuid(), session: b.sid, user: b.user, client: p.client, scopes: p.scopes, resource: p.resource,
		offline: slices.Contains(p.scopes, "offline_access"), nonce: p.nonce, authTime: b.authTime}
	k := &code{grant: g, redirect: p.redirect, challenge: p.challenge, expires: now.Add(codeLife)}
	value := uuid() + "." + b.sid + "." + uuid()
	s.mu.Lock()
	b.expires = now.Add(s.opts.RefreshTTL)
	s.codes.put(value, k)
	s.mu.Unlock()
	s.noteUser(r, b.user)
	s.redirect(w, r, p, "session_state", b.sid, "code", value)
}

// refuse redirects with an error (RFC 6749 §4.1.2.1).
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, p *pending, code, description string) {
	s.note(r, func(e *Request) { e.Error = code })
	s.redirect(w, r, p, "error", code, "error_description", description)
}

func (s *Server) redirect(w http.ResponseWriter, r *http.Request, p *pending, params ...string) {
	u := *p.redirectURL
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		if params[i+1] != "" {
			q.Set(params[i], params[i+1])
		}
	}
	if p.state != "" {
		q.Set("state", p.state)
	}
	q.Set("iss", s.issuer)
	u.RawQuery = q.Encode()
	w.Header().Set("Location", u.String())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	status := http.StatusFound
	if r.Method == http.MethodPost {
		status = http.StatusSeeOther
	}
	w.WriteHeader(status)
}

// consented reports whether u has already approved all scopes that are asked for.
func (s *Server) consented(p *pending, u *person) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return subset(p.scopes, p.client.consents[u.ID]...)
}

// byLogin returns the user with that name or email address, nil if there is none.
// s.mu is held.
func (s *Server) byLogin(name string) *person {
	if u := s.users[name]; u != nil {
		return u
	}
	for _, u := range s.users {
		if name != "" && strings.EqualFold(u.Email, name) {
			return u
		}
	}
	return nil
}
