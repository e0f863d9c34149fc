package mcpclient

import (
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A server names its authorization server itself. A hostile one names that of
// an honest one, to be given a token that is good there. So the servers of each
// origin have a client of their own.

// registrationKey names the client of the server's origin at an issuer.
func (s *state) registrationKey(issuer, redirect string) tokenstore.Key {
	return tokenstore.RegistrationKey(issuer, s.name, oauthhttp.Origin(s.server), redirect)
}
