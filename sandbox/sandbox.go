package sandbox

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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

// Start starts a sandbox. The caller must call Close.
func Start(o Options) (*Server, error) {
	host, err := o.complete()
	if err != nil {
		return nil, err
	}
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
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
	s.EndMCPSessions() // makes the first MCP endpoint

	s.serve(api, s.front("api", s.apiRoutes()))
	s.serve(auth, s.front("auth", s.authRoutes()))
	return s, nil
}

// newServer makes a server that does not listen yet, with its keys, people and clients.
func newServer(o Options) (*Server, error) {
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
	s.log.counts = make(map[Step]int)
	rand.Read(s.hmac)
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("sandbox: make signing key: %w", err)
	}
	s.kid = rand.Text()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, u := range workspace.Users() {
		s.users[u.ID] = &person{User: u, password: u.ID + "-sandbox"}
	}
	s.app = &client{id: "astravue-sandbox-app", secret: rand.Text() + rand.Text(), name: "Sandbox App",
		redirects: o.AppRedirectURLs, methods: []string{"client_secret_post", "client_secret_basic"}, consents: make(map[string][]string)}
	s.cli = &client{id: "astravue-sandbox-cli", name: "Sandbox CLI",
		redirects: loopbackRedirects(), methods: []string{"none"}, consents: make(map[string][]string)}
	s.clients[s.app.id], s.clients[s.cli.id] = s.app, s.cli
	s.workspace = workspace.New(s.now)
	return s, nil
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

// Close stops the sandbox. It ends streams and gives answers under way a second. It
// returns nil, and may be called again.
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

// URL returns the address of the MCP endpoint, which a client is given.
func (s *Server) URL() string { return s.apiURL + "/mcp" }

// APIURL returns the origin of the API host.
func (s *Server) APIURL() string { return s.apiURL }

// AuthURL returns the origin of the authorization host.
func (s *Server) AuthURL() string { return s.authURL }

// Issuer returns the issuer that the metadata, the redirect and the tokens
// state.
func (s *Server) Issuer() string { return s.issuer }

// Resource returns the resource that the metadata of the MCP endpoint state.
func (s *Server) Resource() string { return s.resource }

// App returns ID and secret of a confidential application that is already
// registered, as by Settings → Apps → Create App. It may authenticate by
// client_secret_post and client_secret_basic.
func (s *Server) App() (clientID, clientSecret string) { return s.app.id, s.app.secret }

// PublicClient returns the ID of a public client that is already registered. Its
// redirect addresses are the default of [Options.AppRedirectURLs]. [Server.Issue]
// uses it unless another client is named.
func (s *Server) PublicClient() string { return s.cli.id }

// Advance moves the sandbox's clock by d: tokens, codes and sessions age. It does
// not move the clock of a client, which may still take an expired token for fresh.
// For tokens that both sides take for expired, set a short [Options.AccessTTL] and
// wait.
func (s *Server) Advance(d time.Duration) { s.offset.Add(int64(d)) }

// Now returns the time of the sandbox's clock.
func (s *Server) Now() time.Time { return s.now() }

func (s *Server) now() time.Time {
	return s.opts.Now().Round(0).Add(time.Duration(s.offset.Load()))
}
