package sandbox

import (
	"encoding/json"
	"net/http"
	"slices"
)

// resourceMetadata is the document of RFC 9728 §2.
func (s *Server) resourceMetadata(resource string) http.HandlerFunc {
	issuer := s.issuer
	if s.opts.IssuerHost == IssuerSplit {
		issuer = s.apiURL
	}
	return document(func() any {
		return map[string]any{
			"resource":                 resource,
			"resource_name":            "Astravue (sandbox)",
			"authorization_servers":    []string{issuer},
			"scopes_supported":         []string{"openid", "profile", "email"},
			"bearer_methods_supported": []string{"header"},
		}
	})
}

// resourceMetadataURL is the document that a challenge names, "" for none.
func (s *Server) resourceMetadataURL() string {
	const path = "/.well-known/oauth-protected-resource"
	switch s.opts.ResourceMetadata {
	case "none":
		return ""
	case "path":
		return s.apiURL + path + "/mcp"
	}
	return s.apiURL + path
}

// serverMetadata is the document of RFC 8414 §2 and OpenID Connect Discovery §3, with
// Keycloak's members.
func (s *Server) serverMetadata() any {
	oidc := s.realm + oidcPath
	doc := map[string]any{
		"issuer":                                         s.issuer,
		"authorization_endpoint":                         oidc + "/auth",
		"token_endpoint":                                 oidc + "/token",
		"revocation_endpoint":                            oidc + "/revoke",
		"end_session_endpoint":                           oidc + "/logout",
		"jwks_uri":                                       oidc + "/certs",
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{"ES256"},
		"scopes_supported":                               s.scopes(),
		"prompt_values_supported":                        []string{"none", "login", "consent", "select_account"},
		"token_endpoint_auth_methods_supported":          []string{"none", "client_secret_post", "client_secret_basic"},
		"revocation_endpoint_auth_methods_supported":     []string{"none", "client_secret_post", "client_secret_basic"},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
		"client_id_metadata_document_supported":          true,
	}
	if s.opts.Registration != "none" {
		doc["registration_endpoint"] = s.realm + registrationPath
	}
	return doc
}

// scopes are the scopes that the authorization server knows.
func (s *Server) scopes() []string {
	out := []string{"openid", "profile", "email", "offline_access"}
	for _, sc := range s.opts.ToolScopes {
		if !slices.Contains(out, sc) {
			out = append(out, sc)
		}
	}
	slices.Sort(out[4:])
	return out
}

func (s *Server) unknownScopes(asked []string) []string {
	known := s.scopes()
	return slices.DeleteFunc(slices.Clone(asked), func(sc string) bool { return slices.Contains(known, sc) })
}

// document serves a public JSON document, also to pages of any origin.
func document(doc func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cache-Control", "no-cache")
		writeJSON(w, http.StatusOK, doc())
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(v)
}

// oauthError answers with an error of RFC 6749 §5.2, and writes its code into the log.
func (s *Server) oauthError(w http.ResponseWriter, r *http.Request, status int, code, description string) {
	s.note(r, func(e *Request) { e.Error = code })
	w.Header().Set("Cache-Control", "no-store")
	body := map[string]string{"error": code}
	if description != "" {
		body["error_description"] = description
	}
	writeJSON(w, status, body)
}
