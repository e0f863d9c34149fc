package sandbox

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// Keycloak's paths.
const (
	realmPath        = "/realms/astravue"
	oidcPath         = "/protocol/openid-connect"
	registrationPath = "/clients-registrations/openid-connect"
)

// Values of [Options.IssuerHost].
const (
	IssuerAuth  = "auth"  // the realm on the authorization host
	IssuerAPI   = "api"   // the origin of the API host
	IssuerSplit = "split" // announced is the API host, its metadata states the realm
)

// Options say how a sandbox behaves. The zero value is Astravue as it is
// documented.
type Options struct {
	// Listen is the loopback address of the API host. The authorization host
	// takes any port of the same address. If empty, 127.0.0.1:0.
	Listen string

	// IssuerHost says which host the issuer is on: "auth" (the default), "api"
	// or "split", where the protected resource announces the API host as its
	// authorization server and the metadata found there states the realm as
	// issuer, which RFC 8414 §3.3 forbids and Astravue's documents leave open.
	IssuerHost string

	// Resource is what protected-resource metadata at the root address states
	// as resource: "url" (the default), the MCP endpoint; or "origin". The
	// audience follows it.
	Resource string

	// Resources are other servers that tokens may be asked for, by the URL that
	// is sent as resource. It becomes the audience; they check tokens by the
	// key set that the metadata names.
	Resources []string

	// ResourceMetadata is where protected-resource metadata is served: "root"
	// (the default, as documented), "path", with /mcp appended as RFC 9728 §3.1
	// has it, "both", or "none", and then the challenge names no document either.
	ResourceMetadata string

	// ChallengeScopes are stated in the scope parameter of a 401's challenge.
	ChallengeScopes []string

	// ToolScopes asks for a scope per MCP tool, by the tool's name. A call
	// without it is answered 403 insufficient_scope, for a client to step up.
	ToolScopes map[string]string

	// IgnoreResource does not look at resource at all, as Keycloak does by
	// default; every token is good for the MCP endpoint.
	IgnoreResource bool

	// Registration is "open" (the default), "refused" (403, as Keycloak's
	// Trusted Hosts policy does) or "none" (no registration endpoint).
	Registration string

	// MaxClients is how many clients may be registered at a time. 0: 200, as
	// Keycloak has it.
	MaxClients int

	// AppRedirectURLs are the redirect addresses of the application that
	// [Server.App] names. If nil, /callback on http://127.0.0.1,
	// http://localhost and http://[::1], any port.
	AppRedirectURLs []string

	// Protocol is the era of MCP that /mcp speaks: "both" (the default),
	// "modern" (2026-07-28: stateless) or "legacy" (up to 2025-11-25: sessions).
	Protocol string

	AccessTTL  time.Duration // of access tokens; 0: 30 minutes
	RefreshTTL time.Duration // of refresh tokens and of the browser's session; 0: 24 hours

	// NoRotation keeps a refresh token good for its life; refresh answers then
	// carry none.
	NoRotation bool

	// CheckSession has the API host ask for each access token whether its
	// session still exists. By default it does not, as documented: after a
	// sign-out an access token lives on until it expires.
	CheckSession bool

	// TokenSize pads access tokens to about so many bytes. Keycloak's can reach
	// 8,000.
	TokenSize int

	// AutoApprove signs in and approves without showing a page: the
	// authorization endpoint redirects at once. AutoApproveUser is who signs
	// in; if empty, whom login_hint names, else olivia.
	AutoApprove     bool
	AutoApproveUser string

	// HTTPClient fetches client-ID metadata documents, which must be on
	// loopback. If nil, one with a timeout of 5 seconds.
	HTTPClient *http.Client

	Now    func() time.Time // the clock that Advance moves; if nil, time.Now
	Logger *slog.Logger     // gets every request; if nil, nobody does
}

// A Server is a running sandbox. Its methods are safe for concurrent use.
type Server struct {
	opts Options

	apiURL, authURL string // origins
	realm           string // authURL + realmPath
	issuer          string
	resource        string // the MCP endpoint's, as its metadata states it
	cookieSuffix    string // browsers share cookies across ports

	key  *ecdsa.PrivateKey
	kid  string
	hmac []byte

	servers []*http.Server
	ctx     context.Context // of every request
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	close   sync.Once
	offset  atomic.Int64
	log     requestLog

	workspace *workspace.Workspace
	mcp       atomic.Pointer[endpoint]

	mu       sync.Mutex
	faults   []*activeFault
	seq      uint64 // of access tokens
	users    map[string]*person
	app      *client
	cli      *client
	clients  map[string]*client // registered and pre-registered
	metadata *table[*client]    // by client-ID metadata document
	browsers *table[*browser]   // signed-in browsers by cookie
	pending  *table[*pending]   // sign-ins under way by tab
	codes    *table[*code]
	grants   *table[*grant] // by sid
	revoked  *table[bool]   // access tokens by jti
}

// Start starts a sandbox. The caller closes it.
func Start(o Options) (*Server, error) {
	for _, c := range []struct {
		name  string
		value *string
		ok    []string
	}{
		{"IssuerHost", &o.IssuerHost, []string{IssuerAuth, IssuerAPI, IssuerSplit}},
		{"Resource", &o.Resource, []string{"url", "origin"}},
		{"ResourceMetadata", &o.ResourceMetadata, []string{"root", "path", "both", "none"}},
		{"Registration", &o.Registration, []string{"open", "refused", "none"}},
		{"Protocol", &o.Protocol, []string{"both", "modern", "legacy"}},
	} {
		*c.value = cmp.Or(*c.value, c.ok[0])
		if !slices.Contains(c.ok, *c.value) {
			return nil, fmt.Errorf("sandbox: %s is %q, want one of %s", c.name, *c.value, strings.Join(c.ok, ", "))
		}
	}
	o.Listen = cmp.Or(o.Listen, "127.0.0.1:0")
	o.MaxClients = cmp.Or(o.MaxClients, 200)
	o.AccessTTL = cmp.Or(o.AccessTTL, 30*time.Minute)
	o.RefreshTTL = cmp.Or(o.RefreshTTL, 24*time.Hour)
	if o.AccessTTL < 0 || o.RefreshTTL < 0 {
		return nil, errors.New("sandbox: a lifetime is negative")
	}
	if o.AppRedirectURLs == nil {
		o.AppRedirectURLs = loopbackRedirects()
	}
	for _, u := range o.AppRedirectURLs {
		if checkRedirect(u) != nil {
			return nil, fmt.Errorf("sandbox: %q cannot be a redirect address", u)
		}
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Timeout: 5 * time.Second}
	}
	if o.Now == nil {
		o.Now = time.Now
	}

	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("sandbox: listen %q: %w", o.Listen, err)
	}
	if !loopbackHost(host) {
		return nil, fmt.Errorf("sandbox: listen %q: not a loopback address, and a sandbox shows its passwords", o.Listen)
	}
	s := &Server{
		opts:     o,
		users:    make(map[string]*person),
		clients:  make(map[string]*client),
		metadata: newTable[*client](1000),
		browsers: newTable[*browser](20_000),
		pending:  newTable[*pending](10_000),
		codes:    newTable[*code](20_000),
		grants:   newTable[*grant](200_000),
		revoked:  newTable[bool](100_000),
		hmac:     make([]byte, 32),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.log.counts = make(map[Step]int)
	rand.Read(s.hmac)
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("sandbox: make signing key: %w", err)
	}
	s.kid = rand.Text()

	api, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	auth, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		api.Close()
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	origin := func(l net.Listener) (string, string) {
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return "http://" + net.JoinHostPort(host, port), port
	}
	s.apiURL, _ = origin(api)
	s.authURL, s.cookieSuffix = origin(auth)
	s.realm = s.authURL + realmPath
	s.issuer = s.realm
	if o.IssuerHost == IssuerAPI {
		s.issuer = s.apiURL
	}
	s.resource = s.URL()
	if o.Resource == "origin" {
		s.resource = s.apiURL
	}

	for _, u := range workspace.Users() {
		s.users[u.ID] = &person{User: u, password: u.ID + "-sandbox"}
	}
	s.app = &client{id: "astravue-sandbox-app", secret: rand.Text() + rand.Text(), name: "Sandbox App",
		redirects: o.AppRedirectURLs, methods: []string{"client_secret_post", "client_secret_basic"}, consents: make(map[string][]string)}
	s.cli = &client{id: "astravue-sandbox-cli", name: "Sandbox CLI",
		redirects: loopbackRedirects(), methods: []string{"none"}, consents: make(map[string][]string)}
	s.clients[s.app.id], s.clients[s.cli.id] = s.app, s.cli
	s.workspace = workspace.New(s.now)
	s.EndMCPSessions()

	s.serve(api, s.front("api", s.apiRoutes()))
	s.serve(auth, s.front("auth", s.authRoutes()))
	return s, nil
}

func loopbackRedirects() []string {
	return []string{"http://127.0.0.1/callback", "http://localhost/callback", "http://[::1]/callback"}
}

func (s *Server) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	if s.opts.Logger != nil {
		srv.ErrorLog = slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelWarn)
	}
	s.servers = append(s.servers, srv)
	s.wg.Go(func() { srv.Serve(l) })
}

// Close stops the sandbox: streams end, answers under way have a second.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for _, srv := range s.servers {
			wg.Go(func() {
				if srv.Shutdown(ctx) != nil {
					srv.Close()
				}
			})
		}
		wg.Wait()
		s.wg.Wait()
		s.mcp.Load().end()
	})
	return nil
}

// URL returns the address of the MCP endpoint: what a client is given.
func (s *Server) URL() string { return s.apiURL + "/mcp" }

// APIURL returns the origin of the API host.
func (s *Server) APIURL() string { return s.apiURL }

// AuthURL returns the origin of the authorization host.
func (s *Server) AuthURL() string { return s.authURL }

// Issuer returns the issuer that the metadata, the redirect and the tokens
// state.
func (s *Server) Issuer() string { return s.issuer }

// Resource returns what the metadata of the MCP endpoint states as resource.
func (s *Server) Resource() string { return s.resource }

// App returns ID and secret of a confidential application that is registered
// already, as Settings → Apps → Create App gives them. It may authenticate by
// client_secret_post and client_secret_basic.
func (s *Server) App() (clientID, clientSecret string) { return s.app.id, s.app.secret }

// PublicClient returns the ID of a public client that is registered already,
// with the redirect addresses that [Options.AppRedirectURLs] defaults to. It is
// the client of [Server.Issue] unless another one is named.
func (s *Server) PublicClient() string { return s.cli.id }

// Advance moves the sandbox's clock: tokens, codes and sessions age.
func (s *Server) Advance(d time.Duration) { s.offset.Add(int64(d)) }

// Now returns the time of the sandbox's clock.
func (s *Server) Now() time.Time { return s.now() }

func (s *Server) now() time.Time {
	return s.opts.Now().Round(0).Add(time.Duration(s.offset.Load()))
}

// An Account is somebody who can sign in.
type Account struct {
	User     string // the name to sign in with
	Password string
	Name     string
	Email    string
	Role     string // owner, admin or member
}

// Accounts returns the people of the sandbox's workspace, owner first. Their
// passwords are for show.
func (s *Server) Accounts() []Account {
	var out []Account
	for _, u := range workspace.Users() {
		out = append(out, Account{User: u.ID, Password: u.ID + "-sandbox", Name: u.Name, Email: u.Email, Role: string(u.Role)})
	}
	return out
}

// ErrUnknown is returned for a user or client that the sandbox does not have.
var ErrUnknown = errors.New("sandbox: no such user or client")

// ExpireAccess has the API host refuse every access token that the user holds,
// as if it had expired, or a key had been changed. Refresh tokens live on.
func (s *Server) ExpireAccess(user string) error {
	return s.withUser(user, func(u *person) { u.minSeq = s.seq + 1 })
}

// EndSession ends the user's sessions, as a sign-out elsewhere or an
// administrator does: the browser is signed out, refresh tokens are refused
// with "Session not active", except offline ones. Access tokens live on until
// they expire, unless CheckSession is set.
func (s *Server) EndSession(user string) error {
	return s.withUser(user, func(u *person) {
		for _, g := range s.grants.m {
			if g.user == u && !g.offline {
				g.end(deadSession)
			}
		}
		s.forgetBrowsers(u)
	})
}

// RevokeUser takes everything away that the user was given: access tokens,
// refresh tokens (offline ones too), consents, the browser's session. A new
// sign-in is welcome.
func (s *Server) RevokeUser(user string) error {
	return s.withUser(user, func(u *person) {
		u.minSeq = s.seq + 1
		for _, g := range s.grants.m {
			if g.user == u {
				g.end(deadStale)
			}
		}
		for _, c := range s.allClients() {
			delete(c.consents, u.ID)
		}
		s.forgetBrowsers(u)
	})
}

// DisableUser has the user refused everywhere: at sign-in, refresh and use.
func (s *Server) DisableUser(user string) error {
	return s.withUser(user, func(u *person) {
		u.disabled = true
		s.forgetBrowsers(u)
	})
}

// DeleteClient forgets a client and all that it was granted, as an
// administrator does, or a registration that ran out.
func (s *Server) DeleteClient(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return ErrUnknown
	}
	s.deleteClient(c)
	return nil
}

func (s *Server) deleteClient(c *client) {
	delete(s.clients, c.id)
	for sid, g := range s.grants.m {
		if g.client == c {
			s.grants.delete(sid)
		}
	}
}

// EndMCPSessions forgets every session of the MCP endpoint, as a restart of it
// does: streams end, and what carries an old session ID is answered 404.
func (s *Server) EndMCPSessions() {
	if old := s.mcp.Swap(s.newMCP()); old != nil {
		old.end()
	}
}

// Counts is what a sandbox holds and was asked.
type Counts struct {
	Users    int
	Clients  int // registered dynamically
	Browsers int // signed in
	Grants   int // whose refresh token is good
	Requests map[Step]int
}

// Counts returns what the sandbox holds, and how many requests each step got
// since the start or the last ClearRequests.
func (s *Server) Counts() Counts {
	now := s.now()
	s.mu.Lock()
	c := Counts{Users: len(s.users), Clients: s.registered()}
	for _, b := range s.browsers.m {
		if now.Before(b.expires) {
			c.Browsers++
		}
	}
	for _, g := range s.grants.m {
		if g.dead == "" && (g.expires.IsZero() || now.Before(g.expires)) {
			c.Grants++
		}
	}
	s.mu.Unlock()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	c.Requests = maps.Clone(s.log.counts)
	return c
}

func (s *Server) withUser(name string, do func(*person)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	if u == nil {
		return ErrUnknown
	}
	do(u)
	return nil
}

func (s *Server) forgetBrowsers(u *person) {
	for k, b := range s.browsers.m {
		if b.user == u {
			s.browsers.delete(k)
		}
	}
}
