package sandbox

import (
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// apiRoutes are the routes of the API host.
func (s *Server) apiRoutes() http.Handler {
	mux := http.NewServeMux()
	const prm = "/.well-known/oauth-protected-resource"
	if m := s.opts.ResourceMetadata; m == "root" || m == "both" {
		mux.HandleFunc("GET "+prm, s.resourceMetadata(s.resource))
	}
	if m := s.opts.ResourceMetadata; m == "path" || m == "both" {
		mux.HandleFunc("GET "+prm+"/mcp", s.resourceMetadata(s.URL()))
	}
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", document(s.serverMetadata))
	if s.opts.IssuerHost != IssuerAuth {
		mux.HandleFunc("GET /.well-known/openid-configuration", document(s.serverMetadata))
	}
	mux.Handle("/mcp", s.protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mcp.Load().handler.ServeHTTP(w, r)
	})))
	mux.Handle("/api/", s.protect(s.workspace.API(func(r *http.Request) (workspace.User, bool) {
		return userOf(auth.TokenInfoFromContext(r.Context()))
	})))
	mux.HandleFunc("GET /{$}", s.home)
	return mux
}

// authRoutes are the routes of the authorization host.
func (s *Server) authRoutes() http.Handler {
	mux := http.NewServeMux()
	// RFC 8414 §3.1: the well-known part goes before the issuer's path;
	// OpenID Connect Discovery §4: after it.
	mux.HandleFunc("GET /.well-known/oauth-authorization-server"+realmPath, document(s.serverMetadata))
	mux.HandleFunc("GET "+realmPath+"/.well-known/openid-configuration", document(s.serverMetadata))
	mux.HandleFunc("GET "+realmPath+oidcPath+"/certs", document(func() any { return s.jwks() }))
	mux.HandleFunc("GET "+realmPath+oidcPath+"/auth", s.authorize)
	mux.HandleFunc("POST "+realmPath+oidcPath+"/auth", s.authorize)
	mux.HandleFunc("POST "+realmPath+"/login-actions/authenticate", s.authenticate)
	mux.HandleFunc("GET "+realmPath+"/login-actions/consent", s.consentPage)
	mux.HandleFunc("POST "+realmPath+"/login-actions/consent", s.consent)
	mux.HandleFunc("GET "+realmPath+oidcPath+"/logout", s.logoutPage)
	mux.HandleFunc("POST "+realmPath+oidcPath+"/logout", s.logout)
	mux.HandleFunc("POST "+realmPath+oidcPath+"/token", s.token)
	mux.HandleFunc("POST "+realmPath+oidcPath+"/revoke", s.revoke)
	mux.HandleFunc("POST "+realmPath+registrationPath, s.register)
	mux.HandleFunc("GET "+realmPath+registrationPath+"/{id...}", s.manage)
	mux.HandleFunc("DELETE "+realmPath+registrationPath+"/{id...}", s.manage)
	mux.HandleFunc("GET /{$}", s.home)
	return mux
}
