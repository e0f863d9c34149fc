package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	// DefaultServer is Astravue's documented MCP endpoint.
	DefaultServer = "https://api.astravue.com/mcp"

	// NoResource as [Client.Resource] leaves the resource parameter out, as
	// Astravue's Public API documents it.
	NoResource = "none"

	defaultName           = "astravue-mcp"
	defaultRequestTimeout = 30 * time.Second
	defaultSignInTimeout  = 5 * time.Minute
)

// astravueRealm is where Astravue's documented endpoints live. Their metadata is
// on the host of [DefaultServer] and may state either as the issuer.
const astravueRealm = "https://auth.astravue.com/realms/astravue"

// astravueScopes are asked for where neither challenge nor metadata name any.
var astravueScopes = []string{"openid", "profile", "email"}

// A Client signs in to one MCP server as one account and keeps the tokens
// alive. The zero value of every field is right for an Astravue user at a
// computer with a browser and a keychain. Set the fields before the first
// call, not after. All methods are safe for concurrent use, and any number of
// clients, in any number of processes, may share an account. Do not copy a
// Client after its first use.
type Client struct {
	// Name is the application's name: the user reads it on the consent and
	// callback pages, and with Version it is the User-Agent of every request.
	// On the consent page the server's host follows, unless that is Astravue's.
	// "": astravue-mcp.
	Name string
	// Version of the application. "": that of the main module, if known.
	Version string

	// Server is the URL of the MCP server, or of a REST API to use with
	// [Client.HTTPClient]. "": [DefaultServer]. http is for loopback only.
	Server string
	// Account is the caller's own name for one of several accounts at the
	// server, such as the ID of a web application's user. "" is the default
	// account; any other one has the sign-in page ask which account to use.
	Account string

	// Store keeps registrations and grants. nil: a [tokenstore.Keychain] under
	// Name, so that each application has a grant of its own. A grant of another
	// issuer, client or resource than the fields below name is not used.
	Store tokenstore.Store

	// Registration is a client registration made elsewhere. Zero: one is
	// registered (RFC 7591) at the first sign-in and kept in Store.
	Registration Registration
	// Issuer, if set, is the only authorization server to use (RFC 8414 §2
	// issuer), whatever the server's metadata announces. Set it if you know from
	// elsewhere than the server where its users sign in. Issuer's metadata is
	// taken from its own well-known addresses, or from the server that is
	// announced, if that states Issuer and names no endpoint anywhere else
	// ([discovery.ErrForeignEndpoint]). [Status] tells if the server does not
	// name Issuer; it may refuse Issuer's tokens then.
	//
	// "": the first authorization server that the server announces, whose
	// metadata must state the issuer that was announced. On the host of
	// DefaultServer it may state the issuer of Astravue's documented endpoints
	// instead.
	Issuer string
	// Resource is the resource parameter (RFC 8707 §2), an absolute URI. "":
	// what the server's metadata says, and for DefaultServer its URL, as
	// Astravue documents it; [NoResource]: it is left out. It changes what is
	// sent and nothing else: the metadata that is looked for, and must bind to
	// it, is that of Server.
	Resource string
	// Scopes to ask for, in place of those that the server names.
	// offline_access comes in addition: alone, it leaves the others to the
	// server. It asks for a grant that outlives the browser's session, and
	// has the user consent to that.
	Scopes []string

	// NonInteractive has [Client.Connect] and calls fail with
	// [ErrLoginRequired] where they would open a browser. [Client.Login] may.
	NonInteractive bool
	// OpenBrowser opens a browser on this computer at a URL, which is good for
	// one sign-in, and a secret: that of a page of the Client's own, which sends
	// the browser on to the authorization URL and has it keep a cookie, and
	// only that browser may come back. So another user of this computer who
	// reads the URL can do nothing with it. Its error is logged and the wait
	// goes on, since a person may still open the URL. nil: the system's browser,
	// and where that fails the URL is written to standard error; or none, with
	// ShowURL.
	OpenBrowser func(ctx context.Context, url string) error
	// ShowURL, if not nil, is first given the authorization URL itself, to
	// show it to a person whose browser may be on another computer, or to open
	// that. Any browser may come back then, and so may whoever else
	// reads the URL: give it to nobody, and to no program as an argument. Its
	// error is logged as OpenBrowser's.
	ShowURL func(ctx context.Context, url string) error

	// RequestTimeout bounds each request to an OAuth endpoint. 0: 30 s.
	RequestTimeout time.Duration
	// SignInTimeout bounds the wait for a person. 0: 5 minutes.
	SignInTimeout time.Duration

	// MaxAnswer bounds each message of the server, in bytes and in what takes
	// long to decode: 64 levels, of which each byte may have 16 above it on the
	// average of so many bytes; one value for each 16 bytes of them, and one
	// item of a list for each 512. The pages of a list may be four times that
	// together, and 1000. What is more is an [ErrTooLarge] of the call, and
	// dropped if it was not called for. It is for Connect, not for HTTPClient.
	// 0: 8 MiB, which take less than a second to decode.
	MaxAnswer int

	// Transport is under every request. nil: that of [NewTransport], of the
	// Client's own. Many clients of one server, as a web application has
	// them, had better share one.
	Transport http.RoundTripper
	// MCP configures the SDK's client. nil: no capabilities and no handlers,
	// and so no standalone stream from the server. See [mcp.ClientOptions].
	MCP *mcp.ClientOptions
	// Logger gets an entry for each OAuth operation: step, outcome, server,
	// account, client ID, duration; never a secret. nil: none.
	Logger *slog.Logger

	once  sync.Once
	state *state
	err   error
}

// A Registration says which OAuth client to be. The zero value registers one
// for each origin of servers, ten at most at an authorization server within a
// day. So a server that names the authorization server of another cannot do with
// what the user has allowed that one.
type Registration struct {
	// ClientID of a client made by hand (Astravue: Settings → Apps → Create
	// App), and its secret if it is a confidential one. It serves all servers
	// of its issuer, and so does a ClientMetadataURL: the first sign-in to
	// each, and the first one after a logout, has the user asked for consent.
	// An authorization server that asks nobody (in Keycloak: a client without
	// "Consent required") does not ask then either. Where one refuses to
	// (prompt=consent), the sign-in goes on, with [ErrConsentNotAsked] as a
	// warning.
	ClientID     string
	ClientSecret tokenstore.Secret
	// AuthMethod is the token_endpoint_auth_method (RFC 7591 §2): none,
	// client_secret_post or client_secret_basic. "": none without a secret;
	// with one, client_secret_post unless the server's metadata lists only
	// client_secret_basic. Nothing is probed.
	AuthMethod string

	// ClientMetadataURL is the https URL of a Client ID Metadata Document,
	// used as the client ID where the server supports that.
	ClientMetadataURL string

	// RedirectURL is the callback address. A loopback address is listened on,
	// with its port if it has one; an https one belongs to a web application,
	// see [Client.BeginLogin]. "": http://127.0.0.1/callback, any port.
	RedirectURL string
}

// state is what a Client makes of its fields at the first call.
type state struct {
	name, userAgent string
	server          *url.URL
	serverURL       string // canonical
	account         string
	key             tokenstore.Key
	store           tokenstore.Store
	registration    Registration
	issuer          string
	defaultServer   bool
	resource        string
	scopes          []string
	interactive     bool
	openBrowser     func(context.Context, string) error // nil: none, with showURL
	showURL         func(context.Context, string) error
	requestTimeout  time.Duration
	signInTimeout   time.Duration
	maxAnswer       int
	rt              http.RoundTripper // User-Agent over Transport
	ownTransport    bool
	oauth           *http.Client
	mcp             *mcp.ClientOptions
	impl            *mcp.Implementation
	log             *slog.Logger
	source          *refresh.Source

	stepUps stepUps

	mu      sync.Mutex
	flight  *flight        // the sign-in under way that others may join
	flights sync.WaitGroup // and all that are
	denied  *denial        // the last one that failed
	look    look           // the last one for another authorization server
	closed  bool
}

// init returns the client's state, or what is wrong with its fields.
func (c *Client) init() (*state, error) {
	c.once.Do(func() { c.state, c.err = c.newState() })
	if c.err != nil {
		return nil, c.err
	}
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	if c.state.closed {
		return nil, ErrClosed
	}
	return c.state, nil
}

func (c *Client) newState() (*state, error) {
	s := &state{
		name:           cmp.Or(c.Name, defaultName),
		account:        c.Account,
		store:          c.Store,
		registration:   c.Registration,
		issuer:         c.Issuer,
		resource:       c.Resource,
		scopes:         slices.Clone(c.Scopes),
		interactive:    !c.NonInteractive,
		openBrowser:    c.OpenBrowser,
		showURL:        c.ShowURL,
		requestTimeout: cmp.Or(c.RequestTimeout, defaultRequestTimeout),
		signInTimeout:  cmp.Or(c.SignInTimeout, defaultSignInTimeout),
		maxAnswer:      cmp.Or(c.MaxAnswer, defaultMaxAnswer),
		log:            c.Logger,
	}
	server, err := canonicalServer(cmp.Or(c.Server, DefaultServer))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServerAddress, err)
	}
	s.server, s.serverURL = server, server.String()
	s.key = tokenstore.GrantKey(s.serverURL, s.account)
	s.defaultServer = s.serverURL == DefaultServer
	if s.resource != "" && s.resource != NoResource {
		if u, err := url.Parse(s.resource); err != nil || !u.IsAbs() || strings.Contains(s.resource, "#") {
			return nil, errors.New("mcpclient: resource is no absolute URI without a fragment (RFC 8707 §2)")
		}
	}
	if s.store == nil {
		k := &tokenstore.Keychain{Service: s.name}
		if s.interactive {
			k.CallTimeout = tokenstore.PromptTimeout // somebody is there to unlock it
		}
		s.store = k
	}
	if s.openBrowser == nil && s.showURL == nil {
		s.openBrowser = openBrowser
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("server", s.serverURL, "account", s.account)

	version := cmp.Or(c.Version, mainVersion())
	s.userAgent = cmp.Or(product(s.name), defaultName)
	if v := product(version); v != "" {
		s.userAgent += "/" + v
	}
	s.impl = &mcp.Implementation{Name: s.name, Version: cmp.Or(version, "unknown")}
	s.mcp = c.MCP

	base := c.Transport
	if base == nil {
		base, s.ownTransport = oauthhttp.NewTransport(s.serverURL), true
	}
	s.rt = &agent{base, s.userAgent}
	s.oauth = &http.Client{Transport: s.rt, Timeout: s.requestTimeout}
	s.source = refresh.New(refresh.Config{
		Store: s.store, Key: s.key, HTTPClient: s.oauth,
		Accepts: s.accepts, RequestTimeout: s.requestTimeout, Logger: c.Logger,
	})
	return s, nil
}

// NewTransport returns a transport for the server at that URL. It speaks TLS
// 1.2 or newer, honours the proxy environment, and does not let the documents
// of a public server lead to private addresses. Safe for concurrent use.
func NewTransport(server string) http.RoundTripper { return oauthhttp.NewTransport(server) }

// accepts reports whether g was issued to who this client is configured to be. A
// store of the embedder's may have a record where it does not belong.
func (s *state) accepts(g *tokenstore.Grant) bool {
	return g.Server == s.serverURL && g.Account == s.account &&
		(s.issuer == "" || g.Issuer == s.issuer) &&
		(s.registration.ClientID == "" || g.ClientID == s.registration.ClientID) &&
		(s.resource == NoResource) == (g.Resource == "") &&
		(s.resource == "" || s.resource == NoResource || g.Resource == s.resource)
}

// Connect returns a session with the server, initialized and ready. It signs
// in first if it has to and may. ctx bounds Connect and not the session. The
// caller closes the session; calls on it refresh tokens and, unless
// NonInteractive, sign in again where only that helps. A call waits for its
// answer for as long as its own ctx lasts, since a tool may take its time, and
// reads for as long what the server sends besides.
//
// Errors wrap [ErrLoginRequired], or are a [*StepError] about what failed.
func (c *Client) Connect(ctx context.Context) (*mcp.ClientSession, error) {
	s, err := c.init()
	if err != nil {
		return nil, err
	}
	opts := mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}}
	if s.mcp != nil {
		opts = *s.mcp
	}
	conn := newConn(s)
	session, err := mcp.NewClient(s.impl, &opts).Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   s.serverURL,
		HTTPClient: &http.Client{Transport: conn, CheckRedirect: s.follow},
		// Nobody listens to what the server has to say on its own.
		DisableStandaloneSSE: s.mcp == nil,
		MaxEventSize:         -1, // conn bounds them
	}, nil)
	if err := conn.connected(err); err != nil {
		return nil, err
	}
	return session, nil
}

// HTTPClient returns a client that puts the access token on requests to the
// server's origin, and signs in, refreshes and steps up as [Client.Connect]
// does. A redirect is followed if it leads to the server's address or below it,
// or to the address that was asked for or below that; no other redirect gets
// the token, whatever client the transport is put under, and nor does a request
// whose Host names another server. The path tells the
// tenants of a host apart (RFC 9728 §1.2). What the server answers last is
// returned untouched, a 401 and a redirect that is not followed included.
// It is for a REST API, or under another MCP client: a JSON-RPC notification,
// an event stream or the end of a session never starts a sign-in.
func (c *Client) HTTPClient() *http.Client {
	s, err := c.init()
	if err != nil {
		return &http.Client{Transport: failing{err}}
	}
	return &http.Client{Transport: &authorizer{state: s}, CheckRedirect: s.follow}
}

// Close waits for a refresh under way and ends one that waits for a person.
// It returns an error that wraps [ErrNotSaved] if tokens were issued that the
// store never took, also when it is called again. Sessions that are still open
// get no new tokens, so close them first.
func (c *Client) Close() error {
	c.once.Do(func() { c.err = ErrClosed })
	if c.err != nil {
		return nil // never used, or never usable
	}
	s := c.state
	s.mu.Lock()
	s.closed = true
	if s.flight != nil {
		s.flight.cancel(ErrClosed)
	}
	s.mu.Unlock()
	s.flights.Wait()
	err := s.source.Close()
	if s.ownTransport {
		s.oauth.CloseIdleConnections()
	}
	return at(StepRefresh, err)
}

// canonicalServer checks the address that a user gave and returns its one
// spelling ([oauthhttp.Canonical]).
func canonicalServer(raw string) (*url.URL, error) {
	u, err := oauthhttp.CheckURL(raw, "")
	if err != nil {
		return nil, err
	}
	return url.Parse(oauthhttp.Canonical(u))
}

// mostRedirects bounds redirects below the server's address.
const mostRedirects = 5

// follow keeps requests, whose bodies belong to one server, from being
// redirected to another one, and to where the token may not go.
func (s *state) follow(req *http.Request, via []*http.Request) error {
	elsewhere := oauthhttp.Origin(req.URL) == oauthhttp.Origin(via[0].URL) && oauthhttp.Origin(req.URL) != oauthhttp.Origin(s.server)
	if len(via) > mostRedirects || !elsewhere && !s.owns(req) {
		return http.ErrUseLastResponse
	}
	return nil
}

// agent sets the User-Agent of every request, as Astravue asks for.
type agent struct {
	base http.RoundTripper
	name string
}

func (a *agent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", a.name)
	return a.base.RoundTrip(req)
}

// Intranet is what [oauthhttp.CheckNamed] asks.
func (a *agent) Intranet(ctx context.Context) bool {
	t, ok := a.base.(interface{ Intranet(context.Context) bool })
	return ok && t.Intranet(ctx)
}

func (a *agent) CloseIdleConnections() {
	if c, ok := a.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(req *http.Request) (*http.Response, error) {
	closeBody(req)
	return nil, f.err
}

// product makes a token of a User-Agent (RFC 9110 §10.1.5) from a name.
func product(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r > 0x20 && r < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r):
			return r
		case r == ' ':
			return '-'
		}
		return -1
	}, s)
}

func mainVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return ""
}
