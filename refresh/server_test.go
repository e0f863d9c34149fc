package refresh_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	theServer   = "https://api.example/mcp"
	theAccount  = "olivia"
	theResource = "https://api.example/mcp"
	theClient   = "client-1"
)

var (
	grantKey        = tokenstore.GrantKey(theServer, theAccount)
	registrationKey = tokenstore.RegistrationKey("https://auth.example", "test", "https://api.example", "http://127.0.0.1/callback")
)

// An authServer is a token endpoint that rotates, and ends a grant when a spent
// refresh token comes back. It is as strict as can be: what is not exactly the
// request of this grant is invalid_request.
type authServer struct {
	URL string
	TTL time.Duration // of access tokens; below 0 expires_in is left out

	mu       sync.Mutex
	requests int
	forms    []url.Values
	refresh  string               // the one good refresh token; "" once the grant has ended
	access   map[string]time.Time // when which one ends
	spent    map[string]bool      // refresh tokens
	omit     map[string]bool      // members that answers leave out

	fault func(http.ResponseWriter, *http.Request) bool // before the token is spent; true: answered
	lose  func(http.ResponseWriter, *http.Request) bool // after it is spent; true: answered
}

func newAuthServer(t testing.TB) *authServer {
	a := &authServer{TTL: 30 * time.Minute, access: map[string]time.Time{}, spent: map[string]bool{}, omit: map[string]bool{}}
	srv := httptest.NewServer(a.handler())
	t.Cleanup(srv.Close)
	a.URL = srv.URL
	return a
}

func (a *authServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", a.token)
	return mux
}

// newBubbleServer is newAuthServer in memory, for a bubble: the sockets are pipes, all above them
// is real. The sources of the test ask it.
func newBubbleServer(t testing.TB) *authServer {
	a := &authServer{URL: "http://127.0.0.1", TTL: 30 * time.Minute, access: map[string]time.Time{}, spent: map[string]bool{}, omit: map[string]bool{}}
	accepted := make(testenv.Pipes)
	srv := &http.Server{Handler: a.handler()}
	go func() { _ = srv.Serve(accepted) }()
	t.Cleanup(func() { _ = srv.Close() })
	transport := &http.Transport{DialContext: accepted.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	inMemory.Store(t.Name(), &http.Client{Transport: transport})
	t.Cleanup(func() { inMemory.Delete(t.Name()) })
	return a
}

// inMemory has the *http.Client of each test whose server is in memory, by the test's name.
var inMemory sync.Map

// issue returns a grant as a sign-in would leave it. The age is how old its
// access token already is.
func (a *authServer) issue(age time.Duration) *tokenstore.Grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh = rand.Text()
	access := rand.Text()
	at := clock.Now().Add(-age)
	a.access[access] = a.end(at)
	g := &tokenstore.Grant{
		Server: theServer, Account: theAccount, Issuer: "https://auth.example", TokenEndpoint: a.URL + "/token",
		ClientID: theClient, AuthMethod: "none", Registration: registrationKey, Resource: theResource,
		ScopesRequested: []string{"openid", "profile"}, ScopesGranted: []string{"openid"},
		AccessToken: tokenstore.NewSecret(access), ObtainedAt: at,
		RefreshToken: tokenstore.NewSecret(a.refresh),
	}
	if a.TTL >= 0 {
		g.ExpiresAt = at.Add(a.TTL)
	}
	return g
}

func (a *authServer) end(at time.Time) time.Time {
	if a.TTL < 0 {
		return at.Add(1e6 * time.Hour)
	}
	return at.Add(a.TTL)
}

func (a *authServer) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	a.mu.Lock()
	a.requests++
	a.forms = append(a.forms, r.PostForm)
	fault, lose := a.fault, a.lose
	a.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	answer, code := a.rotate(r)
	if lose != nil && lose(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if code != "" {
		refuse(w, http.StatusBadRequest, code)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *authServer) rotate(r *http.Request) (answer map[string]any, code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	want := url.Values{"grant_type": {"refresh_token"}, "client_id": {theClient}, "resource": {theResource}}
	got := r.PostForm["refresh_token"]
	for name, values := range r.PostForm {
		if name != "refresh_token" && fmt.Sprint(values) != fmt.Sprint(want[name]) {
			return nil, "invalid_request"
		}
	}
	switch {
	case len(r.PostForm) != len(want)+1 || len(got) != 1:
		return nil, "invalid_request"
	case a.spent[got[0]]:
		a.refresh = ""
		clear(a.access)
		return nil, "invalid_grant"
	case got[0] != a.refresh:
		return nil, "invalid_grant"
	}
	access := rand.Text()
	a.access[access] = a.end(clock.Now())
	answer = map[string]any{"access_token": access, "token_type": "Bearer", "scope": "openid email"}
	if a.TTL >= 0 {
		answer["expires_in"] = a.TTL.Seconds()
	}
	if !a.omit["refresh_token"] {
		a.spent[a.refresh] = true
		a.refresh = rand.Text()
		answer["refresh_token"] = a.refresh
		answer["refresh_expires_in"] = 86400
	}
	for name := range a.omit {
		delete(answer, name)
	}
	return answer, ""
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code})
}

func (a *authServer) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *authServer) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

// accepts reports whether the API would take this token.
func (a *authServer) accepts(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return clock.Now().Before(a.access[token])
}

// wantRequests fails t unless so many token requests have come so far.
func (a *authServer) wantRequests(t testing.TB, want int) {
	t.Helper()
	if got := a.count(); got != want {
		t.Fatalf("the server got %d token requests, want %d", got, want)
	}
}

// answers makes a fault that always answers so.
func answers(status int, code string, header ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		refuse(w, status, code)
		return true
	}
}

// hangsUp closes the connection without an answer.
func hangsUp(w http.ResponseWriter, _ *http.Request) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.Close()
	return true
}
