package sandbox

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// register is anonymous dynamic registration (RFC 7591 §3). It takes only JSON: a page of any site can
// make a browser post a text, a form or a body without a type.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	if s.opts.Registration == "none" {
		http.NotFound(w, r)
		return
	}
	if s.opts.Registration == "refused" {
		s.oauthError(w, r, http.StatusForbidden, "insufficient_scope",
			"Policy 'Trusted Hosts' rejected request to client-registration service. Details: Host not trusted.")
		return
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		s.oauthError(w, r, http.StatusUnsupportedMediaType, "The content-type header value did not match the value in @Consumes", "")
		return
	}
	var m registration
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		s.oauthError(w, r, http.StatusBadRequest, "invalid_request", "Cannot parse the JSON")
		return
	}
	if wrong := m.complete(); wrong != nil {
		s.oauthError(w, r, http.StatusBadRequest, wrong.code, wrong.description)
		return
	}
	c := s.newClient(m)
	s.mu.Lock()
	if n := s.registered(); n >= s.opts.MaxClients {
		s.mu.Unlock()
		s.oauthError(w, r, http.StatusForbidden, "insufficient_scope", fmt.Sprintf(
			"Policy 'Max Clients Limit' rejected request to client-registration service. Details: It's allowed to have max %d clients per realm", s.opts.MaxClients))
		return
	}
	s.clients[c.id] = c
	s.mu.Unlock()
	s.note(r, func(e *Request) { e.ClientID = c.id })
	s.writeClient(w, http.StatusCreated, c, c.management)
}

// A registration is the request (RFC 7591 §3.1).
type registration struct {
	Name      string   `json:"client_name"`
	URI       string   `json:"client_uri"`
	Redirects []string `json:"redirect_uris"`
	Method    string   `json:"token_endpoint_auth_method"`
	Type      string   `json:"application_type"`
	Grants    []string `json:"grant_types"`
	Responses []string `json:"response_types"`
	ID        string   `json:"client_id"`
	Secret    string   `json:"client_secret"`
}

// complete fills in the defaults and says what is wrong. Nil: nothing.
func (m *registration) complete() *refusal {
	m.Method = cmp.Or(m.Method, "client_secret_basic") // RFC 7591 §2
	m.Type = cmp.Or(m.Type, "web")
	if m.Grants == nil {
		m.Grants = []string{"authorization_code", "refresh_token"}
	}
	if m.Responses == nil {
		m.Responses = []string{"code"}
	}
	invalid := func(what string) *refusal { return &refusal{"invalid_client_metadata", what} }
	switch {
	case m.ID != "" || m.Secret != "":
		return invalid("Client Identifier included")
	case !slices.Contains([]string{"none", "client_secret_post", "client_secret_basic"}, m.Method):
		return invalid("Unsupported token_endpoint_auth_method")
	case m.Type != "native" && m.Type != "web":
		return invalid("Unsupported application_type")
	case !subset(m.Grants, "authorization_code", "refresh_token") || !slices.Contains(m.Grants, "authorization_code"):
		return invalid("Unsupported grant_types")
	case !subset(m.Responses, "code"):
		return invalid("Unsupported response_types")
	case len(m.Redirects) == 0:
		return &refusal{"invalid_redirect_uri", "redirect_uris is missing"}
	}
	for _, u := range m.Redirects {
		if err := checkRedirect(u); err != nil {
			return &refusal{"invalid_redirect_uri", err.Error()}
		}
	}
	return nil
}

// newClient makes the client of a registration. Its metadata is what Keycloak answers.
func (s *Server) newClient(m registration) *client {
	c := &client{id: uuid(), name: m.Name, uri: m.URI, redirects: m.Redirects, methods: []string{m.Method},
		management: rand.Text() + rand.Text(), consents: make(map[string][]string), dynamic: true}
	c.metadata = map[string]any{
		"client_id": c.id, "client_id_issued_at": s.now().Unix(), "client_name": m.Name,
		"redirect_uris": m.Redirects, "token_endpoint_auth_method": m.Method, "application_type": m.Type,
		"grant_types": m.Grants, "response_types": m.Responses, "scope": strings.Join(s.scopes()[1:], " "),
		"subject_type": "public", "request_uris": []string{}, "post_logout_redirect_uris": []string{},
		"tls_client_certificate_bound_access_tokens": false, "dpop_bound_access_tokens": false,
		"require_pushed_authorization_requests": false, "backchannel_logout_session_required": false,
		"frontchannel_logout_session_required": false,
		"registration_client_uri":              s.realm + registrationPath + "/" + c.id,
	}
	if m.URI != "" {
		c.metadata["client_uri"] = m.URI
	}
	if m.Method != "none" {
		c.secret = rand.Text()
		c.metadata["client_secret"], c.metadata["client_secret_expires_at"] = c.secret, 0
	}
	return c
}

func subset(have []string, of ...string) bool {
	return !slices.ContainsFunc(have, func(x string) bool { return !slices.Contains(of, x) })
}

func (s *Server) writeClient(w http.ResponseWriter, status int, c *client, management string) {
	doc := maps.Clone(c.metadata)
	doc["registration_access_token"] = management
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", s.realm+registrationPath+"/"+c.id)
	writeJSON(w, status, doc)
}

// manage reads and deletes a registration (RFC 7592 §2.1 and §2.3). A registration
// access token serves once; reading yields the next one.
func (s *Server) manage(w http.ResponseWriter, r *http.Request) {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id := r.PathValue("id")
	s.mu.Lock()
	c := s.clients[id]
	if !bearer || c == nil || !c.dynamic || subtle.ConstantTimeCompare([]byte(token), []byte(c.management)) != 1 {
		s.mu.Unlock()
		s.oauthError(w, r, http.StatusUnauthorized, "invalid_token", "Failed decode token")
		return
	}
	next := rand.Text() + rand.Text()
	c.management = next
	if r.Method == http.MethodDelete {
		s.deleteClient(c)
	}
	s.mu.Unlock()
	s.note(r, func(e *Request) { e.ClientID = c.id })
	if r.Method == http.MethodDelete {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.writeClient(w, http.StatusOK, c, next)
}
