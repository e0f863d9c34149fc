package discovery

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"

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
func (d *serverDocument) isAt(issuer, found, server string) error {
	at, err := oauthhttp.CheckURL(issuer, server)
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
		u, err := oauthhttp.CheckURL(e.url, server)
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
// Paths are compared as they are sent, and one that not every server and
// browser reads alike is below nothing.
func below(issuer, u *url.URL) bool {
	if origin(issuer) != origin(u) {
		return false
	}
	base := strings.Split(strings.TrimSuffix(issuer.EscapedPath(), "/"), "/")
	if len(base) == 1 || slices.ContainsFunc(base, isTemplate) {
		return true
	}
	path := strings.Split(u.EscapedPath(), "/")
	return len(path) > len(base) && path[len(base)] != "" && slices.Equal(path[:len(base)], base) &&
		!slices.ContainsFunc(path, ambiguous)
}

// isTemplate reports whether a segment stands for many, as {tenantid} does.
func isTemplate(segment string) bool {
	s, err := url.PathUnescape(segment)
	return err == nil && len(s) > 2 && strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}")
}

// ambiguous reports whether some take a segment of a path for a step up or for
// several segments: dots, escaped or before the parameters of RFC 3986 §3.3;
// a slash, backslash or percent sign that was escaped; what is none of these
// until it is normalised.
func ambiguous(segment string) bool {
	s, err := url.PathUnescape(segment)
	name, _, _ := strings.Cut(s, ";")
	return err != nil || name != "" && strings.Trim(name, ". ") == "" ||
		strings.ContainsFunc(s, func(r rune) bool {
			if r > unicode.MaxASCII {
				return !unicode.In(r, unicode.L, unicode.M, unicode.N)
			}
			return !unicode.IsPrint(r) || strings.ContainsRune(`/\%?#`, r)
		})
}
