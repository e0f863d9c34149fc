package sandbox

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"
)

// A browser is one that is signed in: Keycloak's user session.
type browser struct {
	sid      string
	user     *person
	authTime time.Time
	expires  time.Time
}

// signedIn returns the session of the browser that sent r, nil if it has none.
func (s *Server) signedIn(r *http.Request) *browser {
	c, err := r.Cookie("ASTRAVUE_SESSION_" + s.cookieSuffix)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := s.browsers.get(c.Value)
	if b == nil || !s.now().Before(b.expires) || b.user.disabled {
		return nil
	}
	return b
}

// signIn gives the browser a new session.
func (s *Server) signIn(w http.ResponseWriter, u *person, now time.Time) *browser {
	b := &browser{sid: uuid(), user: u, authTime: now, expires: now.Add(s.opts.RefreshTTL)}
	cookie := rand.Text() + rand.Text()
	s.mu.Lock()
	s.browsers.put(cookie, b)
	s.mu.Unlock()
	s.setCookie(w, "ASTRAVUE_SESSION_", cookie)
	return b
}

// autoSignIn signs in the user of [Options.AutoApprove], nil if that one is disabled. It keeps the
// session b if it is that user's.
func (s *Server) autoSignIn(w http.ResponseWriter, p *pending, b *browser) *browser {
	now := s.now()
	s.mu.Lock()
	u := s.byLogin(strings.ToLower(p.hint))
	if s.opts.AutoApproveUser != "" {
		u = s.member(s.opts.AutoApproveUser)
	} else if u == nil {
		u = s.member("olivia")
	}
	disabled := u.disabled
	s.mu.Unlock()
	if disabled {
		return nil
	}
	if b != nil && b.user == u {
		return b
	}
	return s.signIn(w, u, now)
}

// browserCookie returns the cookie that binds pages to this browser, and sets it if
// there is none.
func (s *Server) browserCookie(w http.ResponseWriter, r *http.Request) string {
	if c, err := r.Cookie("ASTRAVUE_BROWSER_" + s.cookieSuffix); err == nil && len(c.Value) == 26 {
		return c.Value
	}
	v := rand.Text()
	s.setCookie(w, "ASTRAVUE_BROWSER_", v)
	return v
}

func (s *Server) setCookie(w http.ResponseWriter, name, value string) {
	c := &http.Cookie{Name: name + s.cookieSuffix, Value: value, Path: realmPath + "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// forgetBrowsers signs a user out in every browser. s.mu is held.
func (s *Server) forgetBrowsers(u *person) {
	for k, b := range s.browsers.m {
		if b.user == u {
			s.browsers.delete(k)
		}
	}
}

func (s *Server) logoutPage(w http.ResponseWriter, r *http.Request) {
	b := s.signedIn(r)
	if b == nil {
		s.message(w, http.StatusOK, page{Title: "You are signed out", Text: "Nobody is signed in to the sandbox in this browser."})
		return
	}
	s.message(w, http.StatusOK, page{Title: "Sign out?", Text: "You are signed in as " + b.user.Name + ".",
		Action: realmPath + oidcPath + "/logout", Button: "Sign out"})
}

// logout ends the session of a refresh token (Keycloak's back-channel form) or
// of the browser.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if r.PostForm.Has("refresh_token") {
		c := s.form(w, r)
		if c == nil {
			return
		}
		claims, err := s.parse(r.PostForm.Get("refresh_token"), "HS256")
		s.mu.Lock()
		if g, ok := s.grants.get(text(claims, "sid")); err == nil && ok && g.client == c {
			g.end(deadSession)
		}
		s.mu.Unlock()
		if err != nil {
			s.oauthError(w, r, http.StatusBadRequest, "invalid_grant", "Invalid refresh token")
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if b := s.signedIn(r); b != nil {
		s.mu.Lock()
		for _, g := range s.grants.m {
			if g.session == b.sid && !g.offline {
				g.end(deadSession)
			}
		}
		for k, x := range s.browsers.m {
			if x == b {
				s.browsers.delete(k)
			}
		}
		s.mu.Unlock()
	}
	s.setCookie(w, "ASTRAVUE_SESSION_", "")
	s.message(w, http.StatusOK, page{Title: "You are signed out", Text: "You can close this window."})
}
