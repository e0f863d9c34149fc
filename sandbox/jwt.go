package sandbox

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokenAnswer has the members of Keycloak's AccessTokenResponse.
type tokenAnswer struct {
	AccessToken      string `json:"access_token"`
	ExpiresIn        int64  `json:"expires_in"`
	RefreshExpiresIn *int64 `json:"refresh_expires_in,omitempty"`
	RefreshToken     string `json:"refresh_token,omitempty"`
	TokenType        string `json:"token_type"`
	IDToken          string `json:"id_token,omitempty"`
	NotBeforePolicy  int64  `json:"not-before-policy"`
	SessionState     string `json:"session_state"`
	Scope            string `json:"scope"`
}

// answer makes a token set for scopes, which are all of the grant's or fewer, and
// replaces the grant's refresh token. s.mu is held.
func (s *Server) answer(g *grant, scopes []string, now time.Time) tokenAnswer {
	s.seq++
	a := tokenAnswer{TokenType: "Bearer", SessionState: g.session, Scope: strings.Join(scopes, " "),
		ExpiresIn: seconds(s.opts.AccessTTL), RefreshExpiresIn: new(int64)}
	claims := jwt.MapClaims{
		"iss": s.issuer, "sub": g.user.ID, "azp": g.client.id, "typ": "Bearer", "sid": g.sid, "scope": a.Scope,
		"aud": s.audience(g), "jti": strconv.FormatUint(s.seq, 10) + "." + rand.Text(),
		"iat": now.Unix(), "auth_time": g.authTime.Unix(), "exp": ceil(now.Add(s.opts.AccessTTL)),
		"exp_ms": now.Add(s.opts.AccessTTL).UnixMilli(), // exp has whole seconds
		"acr":    "1", "name": g.user.Name, "preferred_username": g.user.ID, "email": g.user.Email, "email_verified": true,
		"realm_access": map[string]any{"roles": []string{string(g.user.Role)}},
	}
	a.AccessToken = s.sign(claims)
	if missing := s.opts.TokenSize - len(a.AccessToken); missing > 0 {
		claims["padding"] = strings.Repeat("x", missing*3/4)
		a.AccessToken = s.sign(claims)
	}
	if slices.Contains(scopes, "openid") {
		id := jwt.MapClaims{"iss": s.issuer, "sub": g.user.ID, "aud": g.client.id, "azp": g.client.id, "typ": "ID", "sid": g.session,
			"iat": now.Unix(), "auth_time": g.authTime.Unix(), "exp": claims["exp"], "jti": rand.Text(),
			"name": g.user.Name, "preferred_username": g.user.ID, "email": g.user.Email, "email_verified": true}
		if g.nonce != "" {
			id["nonce"] = g.nonce
		}
		a.IDToken = s.sign(id)
	}
	if s.opts.NoRotation && g.refresh != "" {
		a.RefreshExpiresIn = nil
		return a
	}
	g.refresh = rand.Text()
	refresh := jwt.MapClaims{"iss": s.issuer, "aud": s.issuer, "sub": g.user.ID, "azp": g.client.id, "typ": "Offline",
		"sid": g.sid, "jti": g.refresh, "iat": now.Unix(), "scope": a.Scope}
	g.expires = time.Time{}
	if !g.offline {
		g.expires = now.Add(s.opts.RefreshTTL)
		*a.RefreshExpiresIn = seconds(s.opts.RefreshTTL)
		refresh["typ"], refresh["exp"], refresh["exp_ms"] = "Refresh", ceil(g.expires), g.expires.UnixMilli()
	}
	a.RefreshToken, _ = jwt.NewWithClaims(jwt.SigningMethodHS256, refresh).SignedString(s.hmac)
	return a
}

// audience returns the resource of a grant, or the Public API's if it has none.
func (s *Server) audience(g *grant) string {
	switch {
	case s.opts.IgnoreResource:
		return s.resource
	case g.resource == "":
		return s.apiURL + "/api"
	}
	return g.resource
}

func (s *Server) sign(claims jwt.MapClaims) string {
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["kid"] = s.kid
	signed, err := t.SignedString(s.key)
	if err != nil {
		panic(err) // our own key and claims
	}
	return signed
}

// parse returns the claims of a token of ours that has not expired. Errors are
// worded as Keycloak words them.
func (s *Server) parse(token, method string) (jwt.MapClaims, error) {
	claims := make(jwt.MapClaims)
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{method}), jwt.WithoutClaimsValidation()).
		ParseWithClaims(token, claims, func(*jwt.Token) (any, error) {
			if method == "HS256" {
				return s.hmac, nil
			}
			return &s.key.PublicKey, nil
		})
	if err != nil || claims["iss"] != s.issuer {
		return nil, errInvalidToken
	}
	if exp, ok := claims["exp_ms"].(float64); ok && s.now().UnixMilli() >= int64(exp) {
		return claims, errNotActive
	}
	return claims, nil
}

var (
	errInvalidToken = errors.New("Invalid token")       //lint:ignore ST1005 Keycloak's text
	errNotActive    = errors.New("Token is not active") //lint:ignore ST1005 Keycloak's text
)

func text(claims jwt.MapClaims, name string) string {
	v, _ := claims[name].(string)
	return v
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func ceil(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// jwks is the key set document (RFC 7517).
func (s *Server) jwks() map[string]any {
	point, _ := s.key.PublicKey.Bytes() // 0x04, X, Y
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]any{"keys": []any{map[string]any{"kid": s.kid, "kty": "EC", "alg": "ES256", "use": "sig", "crv": "P-256",
		"x": b64(point[1:33]), "y": b64(point[33:65])}}}
}

// uuid returns a random UUID, the form of Keycloak's identifiers.
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
