package sandbox

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// An endpoint serves /mcp.
type endpoint struct {
	server  *mcp.Server
	handler http.Handler
}

// end closes the sessions. It does not wait, since a call under way may take long.
func (e *endpoint) end() {
	for session := range e.server.Sessions() {
		go session.Close()
	}
}

// newMCP makes the MCP endpoint. The SDK has one handler for the stateless era and
// one for the era with sessions; a header says which one a request is for.
func (s *Server) newMCP() *endpoint {
	srv := s.workspace.MCPServer(func(_ context.Context, req mcp.Request) (workspace.User, bool) {
		if x := req.GetExtra(); x != nil {
			return userOf(x.TokenInfo)
		}
		return workspace.User{}, false
	})
	get := func(*http.Request) *mcp.Server { return srv }
	modern := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true})
	legacy := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{SessionTimeout: time.Hour})
	both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" {
			modern.ServeHTTP(w, r)
			return
		}
		legacy.ServeHTTP(w, r)
	})
	return &endpoint{srv, map[string]http.Handler{"both": both, "modern": modern, "legacy": legacy}[s.opts.Protocol]}
}

func userOf(t *auth.TokenInfo) (workspace.User, bool) {
	if t == nil {
		return workspace.User{}, false
	}
	u, ok := t.Extra["user"].(workspace.User)
	return u, ok
}

type tokenKey struct{}

// protect lets a request with a token for the API host through, and tells the SDK
// whose token it is.
func (s *Server) protect(next http.Handler) http.Handler {
	// Only the SDK's middleware can tell its handler about a token. It would judge
	// the expiry by the real clock, so it gets none.
	known := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		return ctx.Value(tokenKey{}).(*auth.TokenInfo), nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(next)

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Get("Authorization")
		if header == "" {
			s.challenge(w, r, http.StatusUnauthorized, "", "", s.opts.ChallengeScopes)
			return
		}
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.Contains(token, " ") {
			s.challenge(w, r, http.StatusBadRequest, "invalid_request", "The Authorization header carries no bearer token", nil)
			return
		}
		info, err := s.verify(r, token)
		if err != nil {
			s.challenge(w, r, http.StatusUnauthorized, "invalid_token", err.Error(), s.opts.ChallengeScopes)
			return
		}
		s.note(r, func(e *Request) { e.User, e.ClientID = info.UserID, info.Extra["client"].(string) })
		if call, ok := r.Context().Value(rpcKey{}).(rpcCall); ok && call.Method == "tools/call" {
			if need := s.opts.ToolScopes[call.Params.Name]; need != "" && !slices.Contains(info.Scopes, need) {
				s.challenge(w, r, http.StatusForbidden, "insufficient_scope", "This tool needs more than was approved", []string{need})
				return
			}
		}
		known.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tokenKey{}, info)))
	})
}

// challenge refuses a request by RFC 6750 §3 and RFC 9728 §5.1.
func (s *Server) challenge(w http.ResponseWriter, r *http.Request, status int, code, description string, scopes []string) {
	s.note(r, func(e *Request) { e.Error = code })
	params := []string{`realm="astravue"`}
	add := func(name, value string) {
		if value != "" {
			params = append(params, fmt.Sprintf("%s=%q", name, value))
		}
	}
	add("error", code)
	add("error_description", description)
	add("scope", strings.Join(scopes, " "))
	add("resource_metadata", s.resourceMetadataURL())
	w.Header().Set("WWW-Authenticate", "Bearer "+strings.Join(params, ", "))
	body := map[string]string{"error": code, "error_description": description}
	if code == "" {
		body = map[string]string{"error": "unauthorized"}
	}
	writeJSON(w, status, body)
}

// verify checks signature, issuer, expiry and audience of an access token, as a
// resource server does.
func (s *Server) verify(r *http.Request, token string) (*auth.TokenInfo, error) {
	claims, err := s.parse(token, "ES256")
	if err != nil {
		return nil, err
	}
	aud := text(claims, "aud")
	ok := aud == s.resource || aud == s.URL()
	if strings.HasPrefix(r.URL.Path, "/api/") {
		ok = ok || aud == s.apiURL || aud == s.apiURL+"/api"
	}
	if text(claims, "typ") != "Bearer" {
		return nil, errInvalidToken
	}
	if !ok {
		return nil, fmt.Errorf("Token audience %q is not this resource", aud) //lint:ignore ST1005 a server's text
	}
	jti := text(claims, "jti")
	n, _, _ := strings.Cut(jti, ".")
	seq, _ := strconv.ParseUint(n, 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[text(claims, "sub")]
	g, _ := s.grants.get(text(claims, "sid"))
	gone, _ := s.revoked.get(jti)
	if u == nil || u.disabled || seq < u.minSeq || gone || g != nil && g.accessDenied ||
		s.opts.CheckSession && (g == nil || g.dead != "") {
		return nil, errNotActive
	}
	return &auth.TokenInfo{UserID: u.ID, Scopes: strings.Fields(text(claims, "scope")),
		Extra: map[string]any{"user": u.User, "client": text(claims, "azp")}}, nil
}
