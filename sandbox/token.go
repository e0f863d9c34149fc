package sandbox

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// codeLife is how long a code may be used.
const codeLife = 60 * time.Second

// token is the token endpoint (RFC 6749 §3.2).
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	c := s.form(w, r)
	if c == nil {
		return
	}
	var a tokenAnswer
	var refused *refusal
	switch r.PostForm.Get("grant_type") {
	case "authorization_code":
		a, refused = s.exchange(r, c)
	case "refresh_token":
		a, refused = s.refresh(r, c)
	case "":
		refused = &refusal{"invalid_request", "Missing form parameter: grant_type"}
	default:
		refused = &refusal{"unsupported_grant_type", "Unsupported grant_type"}
	}
	if refused != nil {
		s.oauthError(w, r, http.StatusBadRequest, refused.code, refused.description)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	writeJSON(w, http.StatusOK, a)
}

type refusal struct{ code, description string }

// form checks that a request is a form without doubled parameters (RFC 6749 §3.2),
// and authenticates its client (§2.3.1) by a method that the client is registered
// for. If form returns nil it has answered.
func (s *Server) form(w http.ResponseWriter, r *http.Request) *client {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/x-www-form-urlencoded" {
		s.oauthError(w, r, http.StatusUnsupportedMediaType, "invalid_request", "Content-Type must be application/x-www-form-urlencoded")
		return nil
	}
	for _, v := range r.PostForm {
		if len(v) > 1 {
			s.oauthError(w, r, http.StatusBadRequest, "invalid_request", "duplicated parameter")
			return nil
		}
	}
	id, secret, method := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), "none"
	if secret != "" {
		method = "client_secret_post"
	}
	if user, pass, ok := r.BasicAuth(); ok {
		if method != "none" {
			s.oauthError(w, r, http.StatusBadRequest, "invalid_request", "Multiple client authentication methods")
			return nil
		}
		var err1, err2 error
		method = "client_secret_basic"
		user, err1 = url.QueryUnescape(user)
		secret, err2 = url.QueryUnescape(pass)
		if err1 != nil || err2 != nil || id != "" && id != user {
			s.oauthError(w, r, http.StatusUnauthorized, "invalid_client", "Invalid client or Invalid client credentials")
			return nil
		}
		id = user
		s.note(r, func(e *Request) { e.ClientID = clip(id) })
	}
	c, _ := s.findClient(r.Context(), id, false)
	switch {
	case c == nil:
		s.oauthError(w, r, http.StatusUnauthorized, "invalid_client", "Invalid client or Invalid client credentials")
		return nil
	case !slices.Contains(c.methods, method), subtle.ConstantTimeCompare([]byte(secret), []byte(c.secret)) != 1:
		s.oauthError(w, r, http.StatusUnauthorized, "unauthorized_client", "Invalid client or Invalid client credentials")
		return nil
	}
	return c
}

// exchange gives tokens for a code (RFC 6749 §4.1.3, RFC 7636 §4.6, RFC 8707 §2.2).
func (s *Server) exchange(r *http.Request, c *client) (tokenAnswer, *refusal) {
	f, now := r.PostForm, s.now()
	if f.Get("code") == "" {
		return tokenAnswer{}, &refusal{"invalid_request", "Missing parameter: code"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.codes.get(f.Get("code"))
	if !ok {
		return tokenAnswer{}, &refusal{"invalid_grant", "Code not valid"}
	}
	g := k.grant
	if k.used { // RFC 6749 §4.1.2: its tokens are revoked
		g.end(deadReuse)
		g.accessDenied = true
		return tokenAnswer{}, &refusal{"invalid_grant", "Code not valid"}
	}
	if g.client != c {
		return tokenAnswer{}, &refusal{"invalid_grant", "Auth error: Found different client_id in clientSession"}
	}
	k.used = true // one attempt, good or bad
	verifier := f.Get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case !now.Before(k.expires):
		return tokenAnswer{}, &refusal{"invalid_grant", "Code is expired"}
	case f.Get("redirect_uri") != k.redirect:
		return tokenAnswer{}, &refusal{"invalid_grant", "Incorrect redirect_uri"}
	case verifier == "":
		return tokenAnswer{}, &refusal{"invalid_grant", "PKCE code verifier not specified"}
	case !validVerifier(verifier):
		return tokenAnswer{}, &refusal{"invalid_grant", "PKCE verification failed: Invalid code verifier"}
	case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(k.challenge)) != 1:
		return tokenAnswer{}, &refusal{"invalid_grant", "PKCE verification failed: Code mismatch"}
	case !s.opts.IgnoreResource && f.Get("resource") != g.resource:
		return tokenAnswer{}, &refusal{"invalid_target", "The resource is not the one of the authorization request"}
	case g.dead != "":
		return tokenAnswer{}, &refusal{"invalid_grant", g.dead}
	case g.user.disabled:
		return tokenAnswer{}, &refusal{"invalid_grant", "User disabled"}
	}
	s.noteUser(r, g.user)
	s.grants.put(g.sid, g)
	return s.answer(g, g.scopes, now), nil
}

// validVerifier is the grammar of RFC 7636 §4.1.
func validVerifier(v string) bool {
	return len(v) >= 43 && len(v) <= 128 && strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") == ""
}

// refresh gives tokens for a refresh token. If a refresh token comes a second time,
// it ends the grant (RFC 6749 §6, RFC 9700 §4.14.2).
func (s *Server) refresh(r *http.Request, c *client) (tokenAnswer, *refusal) {
	f := r.PostForm
	invalid := func(description string) (tokenAnswer, *refusal) {
		return tokenAnswer{}, &refusal{"invalid_grant", description}
	}
	if f.Get("refresh_token") == "" {
		return tokenAnswer{}, &refusal{"invalid_request", "No refresh token"}
	}
	claims, err := s.parse(f.Get("refresh_token"), "HS256")
	if err == errNotActive {
		return invalid(err.Error())
	} else if err != nil {
		return invalid("Invalid refresh token")
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	g, _ := s.grants.get(text(claims, "sid"))
	switch {
	case g == nil && text(claims, "typ") == "Offline":
		return invalid("Offline user session not found")
	case g == nil:
		return invalid(deadSession)
	case g.client != c:
		return invalid("Invalid refresh token. Token client and authorized client don't match")
	}
	s.noteUser(r, g.user)
	switch {
	case g.user.disabled:
		return invalid("User disabled")
	case g.dead != "":
		return invalid(g.dead)
	case text(claims, "jti") != g.refresh:
		g.end(deadReuse)
		return invalid("Maximum allowed refresh token reuse exceeded")
	case !s.opts.IgnoreResource && f.Has("resource") && f.Get("resource") != g.resource:
		return tokenAnswer{}, &refusal{"invalid_target", "The resource is not the one of the authorization request"}
	}
	scopes := g.scopes
	if narrower := strings.Fields(f.Get("scope")); len(narrower) > 0 {
		if !subset(narrower, g.scopes...) {
			return tokenAnswer{}, &refusal{"invalid_scope", "Invalid scopes: " + clip(f.Get("scope"))}
		}
		scopes = narrower
	}
	return s.answer(g, scopes, now), nil
}

// revoke is the revocation endpoint (RFC 7009). A revoked refresh token ends its
// grant. A revoked access token is refused by the API host.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	c := s.form(w, r)
	if c == nil {
		return
	}
	token := r.PostForm.Get("token")
	if token == "" {
		s.oauthError(w, r, http.StatusBadRequest, "invalid_request", "Token not provided")
		return
	}
	claims, err := s.parse(token, "HS256")
	if claims == nil {
		claims, err = s.parse(token, "ES256")
	}
	if err == nil {
		s.mu.Lock()
		g, _ := s.grants.get(text(claims, "sid"))
		mine := text(claims, "azp") == c.id
		if jti := text(claims, "jti"); mine && text(claims, "typ") == "Bearer" {
			if _, ok := s.revoked.get(jti); !ok {
				s.revoked.put(jti, true)
			}
		} else if mine && g != nil {
			g.end(deadSession)
		}
		if g != nil {
			s.noteUser(r, g.user)
		}
		s.mu.Unlock()
		if !mine {
			s.oauthError(w, r, http.StatusBadRequest, "invalid_request", "Unmatching clients")
			return
		}
	}
	// RFC 7009 §2.2: an unknown token counts as revoked.
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

func (s *Server) noteUser(r *http.Request, u *person) {
	s.note(r, func(e *Request) { e.User = u.ID })
}
