package sandbox

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// Tokens is a token set without a browser, from [Server.Issue]. Printing it
// shows no secret.
type Tokens struct {
	ClientID         string
	TokenEndpoint    string
	Scope            string
	Resource         string // "" if none was asked for
	AccessToken      string
	ExpiresIn        time.Duration
	RefreshToken     string
	RefreshExpiresIn time.Duration // 0: never, as Keycloak states it
	IDToken          string        // with scope openid
}

// Format keeps tokens out of logs.
func (t Tokens) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "sandbox.Tokens{ClientID:%q Scope:%q Resource:%q}", t.ClientID, t.Scope, t.Resource)
}

// IssueOptions say what [Server.Issue] gives.
type IssueOptions struct {
	ClientID   string   // if empty, PublicClient
	Scopes     []string // if nil, openid profile email
	Resource   string   // if empty, the MCP endpoint's
	NoResource bool     // a grant without resource, as the Public API has it
}

// Issue gives a user a token set as a whole sign-in would, without the
// browser: for tests of what comes after it. A user who does not exist is made,
// as a member, so that a test can have ten thousand.
func (s *Server) Issue(user string, o IssueOptions) (Tokens, error) {
	if o.Scopes == nil {
		o.Scopes = []string{"openid", "profile", "email"}
	}
	if unknown := s.unknownScopes(o.Scopes); len(unknown) > 0 {
		return Tokens{}, fmt.Errorf("sandbox: unknown scopes %q", unknown)
	}
	o.Resource = cmp.Or(o.Resource, s.resource)
	if o.NoResource {
		o.Resource = ""
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cli
	if o.ClientID != "" {
		if c = s.clients[o.ClientID]; c == nil {
			return Tokens{}, ErrUnknown
		}
	}
	u := s.member(user)
	g := &grant{sid: uuid(), session: uuid(), user: u, client: c, scopes: o.Scopes, resource: o.Resource,
		offline: slices.Contains(o.Scopes, "offline_access"), authTime: now}
	s.grants.put(g.sid, g)
	a := s.answer(g, g.scopes, now)
	return Tokens{ClientID: c.id, TokenEndpoint: s.realm + oidcPath + "/token", Scope: a.Scope, Resource: g.resource,
		AccessToken: a.AccessToken, ExpiresIn: time.Duration(a.ExpiresIn) * time.Second,
		RefreshToken: a.RefreshToken, RefreshExpiresIn: time.Duration(*a.RefreshExpiresIn) * time.Second, IDToken: a.IDToken}, nil
}

// member returns the user of a name, made if there is none. s.mu is held.
func (s *Server) member(name string) *person {
	u := s.users[name]
	if u == nil {
		u = &person{User: workspace.User{ID: name, Name: name, Email: name + "@brightwater.example", Role: workspace.Member},
			password: name + "-sandbox"}
		s.users[name] = u
	}
	return u
}

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

// answer makes a token set for scopes, all of the grant's or fewer, and turns
// the grant's refresh token over. s.mu is held.
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

// audience is the resource that was asked for; without one, the Public API's.
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
