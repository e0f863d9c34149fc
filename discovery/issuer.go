package discovery

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// A serverDocument is an authorization server's metadata. Beside the members that
// a client reads it has two endpoints that only [serverDocument.isAt] looks at,
// whatever their JSON type. Other endpoints are left out, since this module will
// not use them: it pushes no authorization requests, introspection is for resource
// servers, and it reads no ID token, which jwks_uri would serve.
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

// isAt returns an error unless every endpoint of d is at issuer. d states that
// issuer, but was found somewhere else, at the address found: [ErrForeignEndpoint]
// says why that matters.
func (d *serverDocument) isAt(s search, issuer, found string) error {
	base, err := s.checkURL(issuer)
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
			continue // an empty endpoint counts as absent
		}
		u, err := s.checkURL(e.url)
		if err == nil && !below(base, u) {
			err = ErrForeignEndpoint
		}
		if err != nil {
			return &URLError{Document: found, Field: e.name, Err: err}
		}
	}
	return nil
}

// stated returns the value of a member that should be a string, "" if it is missing
// or null. For any other value it returns the JSON, which no caller takes for an
// address.
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

// below reports whether u has the origin of issuer and lies below its path, where
// an issuer's endpoints are. Paths are compared as they are sent. A path that
// another parser could take for a way out is never below ([oauthhttp.Below]). The
// path of an issuer that stands for many, as Entra's does, is not compared.
func below(issuer, u *url.URL) bool {
	base := strings.TrimSuffix(issuer.EscapedPath(), "/")
	if base == "" || slices.ContainsFunc(strings.Split(base, "/"), isTemplate) {
		return oauthhttp.Origin(issuer) == oauthhttp.Origin(u)
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), base+"/")
	// oauthhttp.Below would also accept issuer itself, and it ignores a slash at
	// the end. Here it only judges the origin and the segments of the path.
	root := &url.URL{Scheme: issuer.Scheme, Host: issuer.Host}
	return ok && rest != "" && rest[0] != '/' && oauthhttp.Below(u, root)
}

// isTemplate reports whether a segment is a placeholder, such as {tenantid}.
func isTemplate(segment string) bool {
	s, err := url.PathUnescape(segment)
	return err == nil && len(s) > 2 && strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}")
}
