package discovery

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// A serverDocument is an authorization server's metadata, with the endpoints
// that [serverDocument.isAt] alone looks at, whatever they hold. It leaves out
// those that no client of ours may come to use: pushed authorization requests
// are not sent, introspection is for resource servers, and no ID token is read
// by jwks_uri.
type serverDocument struct {
	AuthorizationServer
	more struct {
		Userinfo            json.RawMessage `json:"userinfo_endpoint"`
		DeviceAuthorization json.RawMessage `json:"device_authorization_endpoint"`
	}
}

// UnmarshalJSON implements [json.Unmarshaler].
func (d *serverDocument) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &d.AuthorizationServer); err != nil {
		return err
	}
	return json.Unmarshal(data, &d.more)
}

// isAt returns an error unless every endpoint of d, which was found at another
// place, is at issuer.
func (d *serverDocument) isAt(s search, issuer, found string) error {
	at, err := s.checkURL(issuer)
	if err != nil {
		return &issuerError{err}
	}
	for _, e := range []struct{ name, url string }{
		{"authorization_endpoint", d.AuthorizationEndpoint},
		{"token_endpoint", d.TokenEndpoint},
		{"registration_endpoint", d.RegistrationEndpoint},
		{"revocation_endpoint", d.RevocationEndpoint},
		{"userinfo_endpoint", stated(d.more.Userinfo)},
		{"device_authorization_endpoint", stated(d.more.DeviceAuthorization)},
	} {
		if e.url == "" {
			continue // as if it was not there
		}
		u, err := s.checkURL(e.url)
		if err == nil && !below(at, u) {
			err = ErrForeignEndpoint
		}
		if err != nil {
			return &URLError{Document: found, Field: e.name, Err: err}
		}
	}
	return nil
}

// stated returns the string that a member is, "" if it is missing or null, and
// what is no address if it is anything else.
func stated(member json.RawMessage) string {
	var s *string
	if len(member) == 0 {
		return ""
	}
	if json.Unmarshal(member, &s) != nil {
		return string(member)
	}
	if s == nil {
		return ""
	}
	return *s
}

// below reports whether u has the origin of issuer and lies below its path.
// Paths are compared as they are sent, and one that another parser could read
// as a way out is below nothing ([oauthhttp.Below]). A path that stands for
// many, as Entra's does, is not looked at.
func below(issuer, u *url.URL) bool {
	base := strings.TrimSuffix(issuer.EscapedPath(), "/")
	if base == "" || slices.ContainsFunc(strings.Split(base, "/"), isTemplate) {
		return oauthhttp.Origin(issuer) == oauthhttp.Origin(u)
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), base+"/")
	root := &url.URL{Scheme: issuer.Scheme, Host: issuer.Host}
	return ok && rest != "" && rest[0] != '/' && oauthhttp.Below(u, root)
}

// isTemplate reports whether a segment stands for many, as {tenantid} does.
func isTemplate(segment string) bool {
	s, err := url.PathUnescape(segment)
	return err == nil && len(s) > 2 && strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}")
}
