package testenv

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// ResourceServer is an MCP server that knows nothing but an issuer's keys: it takes RS256 access
// tokens of that issuer, for its own URL, unexpired. Its one tool, whoami, answers with the
// token's subject.
type ResourceServer struct {
	URL string // the MCP endpoint, and the audience that tokens must have

	mux    *http.ServeMux
	issuer string
	keys   map[string]*rsa.PublicKey

	mu       sync.Mutex
	accepted map[[sha256.Size]byte]bool
	refused  int
}

// JWKSServer starts a [ResourceServer]; it refuses everything until [ResourceServer.Trust].
// The two are apart because an authorization server wants to know URL first.
func JWKSServer(t testing.TB) *ResourceServer {
	s := &ResourceServer{mux: http.NewServeMux(), accepted: map[[sha256.Size]byte]bool{}}
	server := httptest.NewServer(s.mux)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // a standing event stream would hold Close up
	s.URL = server.URL + "/mcp"
	return s
}

// Trust reads the keys of issuer, once, and serves: the endpoint, and the metadata (RFC 9728)
// that names issuer and scopes.
func (s *ResourceServer) Trust(t testing.TB, issuer string, scopes ...string) {
	t.Helper()
	var metadata struct {
		JWKSURI string `json:"jwks_uri"`
	}
	getJSON(t, issuer+"/.well-known/openid-configuration", &metadata)
	var set struct {
		Keys []struct{ Kty, Kid, N, E string }
	}
	getJSON(t, metadata.JWKSURI, &set)
	s.issuer, s.keys = issuer, map[string]*rsa.PublicKey{}
	for _, key := range set.Keys {
		if key.Kty != "RSA" {
			continue
		}
		n, errN := base64.RawURLEncoding.DecodeString(key.N)
		e, errE := base64.RawURLEncoding.DecodeString(key.E)
		if err := errors.Join(errN, errE); err != nil {
			t.Fatalf("key %s: %v", key.Kid, err)
		}
		s.keys[key.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}

	const wellKnown = "/.well-known/oauth-protected-resource/mcp"
	s.mux.Handle(wellKnown, auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource:             s.URL,
		AuthorizationServers: []string{issuer},
		ScopesSupported:      scopes,
	}))
	server := mcp.NewServer(&mcp.Implementation{Name: "whoami", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "whoami", Description: "Tells who the token speaks for."},
		func(ctx context.Context, req *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{
				&mcp.TextContent{Text: req.Extra.TokenInfo.UserID},
			}}, nil, nil
		})
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	s.mux.Handle("/mcp", auth.RequireBearerToken(s.verify, &auth.RequireBearerTokenOptions{
		ResourceMetadataURL: strings.TrimSuffix(s.URL, "/mcp") + wellKnown,
		Scopes:              scopes,
	})(handler))
}

// verify is an [auth.TokenVerifier].
func (s *ResourceServer) verify(_ context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}
	_, err := jwt.ParseWithClaims(token, &claims,
		func(t *jwt.Token) (any, error) {
			kid, _ := t.Header["kid"].(string)
			if key := s.keys[kid]; key != nil {
				return key, nil
			}
			return nil, fmt.Errorf("unknown key %q", kid)
		},
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(s.issuer),
		jwt.WithAudience(s.URL),
		jwt.WithExpirationRequired(),
	)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.refused++
		return nil, fmt.Errorf("%w: %v", auth.ErrInvalidToken, err)
	}
	s.accepted[sha256.Sum256([]byte(token))] = true
	return &auth.TokenInfo{
		Scopes:     strings.Fields(claims.Scope),
		Expiration: claims.ExpiresAt.Time,
		UserID:     claims.Subject,
	}, nil
}

// Tokens tells how many different tokens were accepted so far, and how many requests were refused
// for the token that they carried.
func (s *ResourceServer) Tokens() (accepted, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted), s.refused
}

func getJSON(t testing.TB, url string, v any) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("get %s: %s", url, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(v); err != nil {
		t.Fatalf("get %s: %v", url, err)
	}
}
