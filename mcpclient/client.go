package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A Client signs in to one MCP server as one account and keeps the tokens
// alive. The zero value of every field is right for an Astravue user at a
// computer with a browser and a keychain. Set the fields before the first
// call, not after. All methods are safe for concurrent use, and any number of
// clients, in any number of processes, may share an account. Do not copy a
// Client after its first use.
//
// If a field is wrong, every method but Close returns an error that says so. After
// [Client.Close] every other method returns [ErrClosed]. Errors about the flow are a
// [*StepError].
type Client struct {
	// Name is the application's name. The user reads it on the consent and
	// callback pages, and the User-Agent of every request consists of Name and
	// Version. On the consent page the server's host follows, unless the server is
	// Astravue's. If empty, it is astravue-mcp.
	Name string
	// Version of the application. If empty, it is that of the main module, if
	// known.
	Version string

	// Server is the URL of the MCP server, or of a REST API to use with
	// [Client.HTTPClient]. If empty, it is [DefaultServer]. It is https, or http
	// on a loopback host.
	Server string
	// Account is the caller's own name for one of several accounts at the
	// server, such as the ID of a web application's user. If empty, it is the
	// default account. For any other one the sign-in page asks which account to
	// use.
	Account string

	// Store keeps registrations and grants. If nil, it is a
	// [tokenstore.Keychain] under Name, so that each application has a grant of
	// its own. A stored grant is used only if its issuer, client and resource are
	// those of the fields below, where these are set.
	Store tokenstore.Store

	// Registration is a client registration made elsewhere. If zero, one is
	// registered (RFC 7591) at the first sign-in and kept in Store.
	Registration Registration
	// Issuer, if set, is the only authorization server to use (RFC 8414 §2
	// issuer), whatever the server's metadata announces. Set it if you know from
	// elsewhere than the server where its users sign in. Issuer's metadata is
	// taken from its own well-known addresses, or from the server that is
	// announced, if that states Issuer and names no endpoint anywhere else
	// ([discovery.ErrForeignEndpoint]). The server may not name Issuer, and may
	// refuse its tokens then: [Status] says so.
	//
	// If empty, it is the first authorization server that the server announces,
	// whose metadata must state the issuer that was announced. On the host of
	// DefaultServer it may state the issuer of Astravue's documented endpoints
	// instead.
	Issuer string
	// Resource is the resource parameter (RFC 8707 §2), an absolute URI. If
	// empty, it is the resource that the server's metadata states, and for
	// DefaultServer its URL, as Astravue documents it. [NoResource] leaves the
	// parameter out. Resource changes only the parameter: metadata is always
	// looked up and checked for Server.
	Resource string
	// Scopes to ask for, in place of those that the server names. offline_access
	// comes in addition to these: alone, it leaves the others to the server. It
	// asks for a grant that outlives the browser's session, and has the user
	// consent to that.
	Scopes []string

	// NonInteractive has [Client.Connect] and calls fail with
	// [ErrLoginRequired] where they would open a browser. [Client.Login] opens
	// one all the same.
	NonInteractive bool
	// OpenBrowser opens a browser on this computer at a URL. The URL is a secret
	// and serves one sign-in. It is that of a page of the Client's own, which
	// sends the browser on to the authorization URL and gives it a cookie: only
	// that browser may come back, so another user of this computer who reads the
	// URL can do nothing with it. An error of OpenBrowser is logged and the wait
	// goes on, since a person may still open the URL. If nil, it is the system's
	// browser, and where that fails the URL is written to standard error; with
	// ShowURL, no browser is opened.
	OpenBrowser func(ctx context.Context, url string) error
	// ShowURL, if not nil, is called before OpenBrowser, with the authorization
	// URL itself: to show it to a person whose browser may be on another
	// computer, or to open it. Any browser may come back then, also that of
	// somebody else who reads the URL: show it to nobody but the person, and pass
	// it to no program as an argument. An error of ShowURL is logged as OpenBrowser's is.
	ShowURL func(ctx context.Context, url string) error

	// RequestTimeout bounds each request to an OAuth endpoint. Requests to the
	// server itself are bounded by their context alone. If 0, it is 30 s.
	RequestTimeout time.Duration
	// SignInTimeout bounds a sign-in, and so the wait for a person and for a
	// sign-in of another process. If 0, it is 5 minutes.
	SignInTimeout time.Duration

	// MaxAnswer bounds each message of the server, in bytes. Small messages may
	// take long to decode, so more than bytes is bounded. A message may have 64
	// levels, one value for each 16 bytes of MaxAnswer, and one item of a list for
	// each 512. Its bytes, each times the levels above it, may be 16 times
	// MaxAnswer. A list may have 1000 pages, which together may have four times
	// what one message may. If the answer to a call is more, the call fails with [ErrTooLarge].
	// Any other message that is more is dropped. MaxAnswer is for Connect, not for
	// HTTPClient. If 0, it is 8 MiB, which take less than a second to decode.
	MaxAnswer int

	// Transport is under every request. If nil, it is one of [NewTransport], for
	// this Client alone. A program with many clients of one server, such as a web
	// application, should share one transport among them.
	Transport http.RoundTripper
	// MCP configures the SDK's client. If nil, it has no capabilities and no
	// handlers, and so no standalone stream from the server. See
	// [mcp.ClientOptions].
	MCP *mcp.ClientOptions
	// Logger gets an entry for each OAuth operation: step, outcome, server,
	// account, client ID, duration; never a secret. If nil, nothing is logged.
	Logger *slog.Logger

	once sync.Once
	auth *authorizer
	err  error // what is wrong with the fields
}

// init returns what the client makes of its fields, or what is wrong with them. Every
// method but Close begins with it: the fields count as they are at the first call.
func (c *Client) init() (*authorizer, error) {
	c.once.Do(func() { c.auth, c.err = c.newAuthorizer() })
	if c.err != nil {
		return nil, c.err
	}
	if c.auth.signIns.isClosed() {
		return nil, ErrClosed
	}
	return c.auth, nil
}

func (c *Client) newAuthorizer() (*authorizer, error) {
	s, err := c.newSettings()
	if err != nil {
		return nil, err
	}
	source := refresh.New(refresh.Config{
		Store: s.store, Key: s.key, HTTPClient: s.oauth,
		Accepts: s.accepts, RequestTimeout: s.requestTimeout, Logger: c.Logger,
	})
	return &authorizer{settings: s, source: source, signIns: &signIns{flow: &flow{s, source}}}, nil
}

// newSettings checks the client's fields and puts in what they leave out.
func (c *Client) newSettings() (*settings, error) {
	s := &settings{
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
		mcp:            c.MCP,
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
			return nil, errors.New("mcpclient: resource is not an absolute URI, or has a fragment (RFC 8707 §2)")
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
	s.userAgent = userAgent(s.name, version)
	s.impl = &mcp.Implementation{Name: s.name, Version: cmp.Or(version, "unknown")}

	base := c.Transport
	if base == nil {
		base, s.ownTransport = NewTransport(s.serverURL), true
	}
	s.rt = &agent{base, s.userAgent}
	s.oauth = &http.Client{Transport: s.rt, Timeout: s.requestTimeout}
	return s, nil
}

// NewTransport returns a transport for the server at that URL. It speaks TLS
// 1.2 or newer, honours the proxy environment, and does not let the documents
// of a public server lead to private addresses. Safe for concurrent use.
func NewTransport(server string) http.RoundTripper { return oauthhttp.NewTransport(server) }

// Connect returns a session with the server, initialized and ready. It signs
// in first if it has to and may. ctx bounds Connect and not the session.
//
// The caller closes the session. Calls on it refresh tokens and, unless
// NonInteractive, sign in again where only that helps. A call waits for its
// answer, and reads whatever else the server sends, for as long as its own ctx
// lasts: a tool may take its time.
//
// Where only a sign-in helps and none was allowed, the error wraps
// [ErrLoginRequired].
func (c *Client) Connect(ctx context.Context) (*mcp.ClientSession, error) {
	a, err := c.init()
	if err != nil {
		return nil, err
	}
	opts := mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}}
	if a.mcp != nil {
		opts = *a.mcp
	}
	conn := newConn(a)
	session, err := mcp.NewClient(a.impl, &opts).Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   a.serverURL,
		HTTPClient: &http.Client{Transport: conn, CheckRedirect: a.follow},
		// Without handlers nobody listens to what the server says on its own.
		DisableStandaloneSSE: a.mcp == nil,
		MaxEventSize:         -1, // conn bounds them
	}, nil)
	if err := conn.connected(err); err != nil {
		return nil, err
	}
	return session, nil
}

// HTTPClient returns a client that puts the access token on requests to the
// server's origin, and signs in, refreshes and steps up as [Client.Connect]
// does. It is for a REST API, or under another MCP client: a JSON-RPC
// notification, an event stream or the end of a session never starts a sign-in.
//
// The last answer of the server is returned untouched. It may be a 401, or a
// redirect that is not followed. If only a sign-in helps and none may be started, it
// is the 401 itself. An error without an answer wraps a [*StepError] if it is about
// the flow. The client has no timeout: the context of each request bounds it, the
// wait for a sign-in included.
//
// A redirect is followed if it leads to or below the server's address, or to or
// below the address that was asked for: the path tells the tenants of a host apart
// (RFC 9728 §1.2). No other redirect gets the token, whatever client the transport
// is put under, nor does a request whose Host names another server.
func (c *Client) HTTPClient() *http.Client {
	a, err := c.init()
	if err != nil {
		return &http.Client{Transport: failing{err}}
	}
	return &http.Client{Transport: a, CheckRedirect: a.follow}
}

// Close waits for a refresh under way, and ends a sign-in under way, which
// waits for a person. If tokens were issued that the store never took, its error
// wraps [ErrNotSaved], also when it is called again. Sessions that are still open
// get no new tokens, so close them first. Call Close on every way out of the
// program: a refresh that is cut off can lose the session.
func (c *Client) Close() error {
	c.once.Do(func() { c.err = ErrClosed })
	if c.err != nil {
		return nil // never used, or never usable
	}
	c.auth.signIns.close() // first, since a sign-in may start a refresh
	err := c.auth.source.Close()
	if c.auth.ownTransport {
		c.auth.oauth.CloseIdleConnections()
	}
	return at(StepRefresh, err)
}
