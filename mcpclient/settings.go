package mcpclient

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
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

// settings are what a Client makes of its fields at the first call. They do not
// change after that, so every layer embeds them and reads them without a lock.
type settings struct {
	name      string
	userAgent string
	impl      *mcp.Implementation // name and version, for the SDK

	server        *url.URL
	serverURL     string // server, in its canonical spelling
	defaultServer bool   // it is Astravue's, whose documentation counts more than its metadata
	account       string
	key           tokenstore.Key // of the grant

	store        tokenstore.Store
	registration Registration
	issuer       string // pinned; "": the one that is announced
	resource     string
	scopes       []string

	interactive    bool
	openBrowser    func(context.Context, string) error // nil: not called; showURL is set then
	showURL        func(context.Context, string) error // nil: not called
	requestTimeout time.Duration
	signInTimeout  time.Duration

	maxAnswer    int // bytes
	mcp          *mcp.ClientOptions
	rt           http.RoundTripper // under every request; sets the User-Agent
	ownTransport bool              // nobody else uses rt's connections: Close closes them
	oauth        *http.Client      // rt with requestTimeout, for OAuth endpoints
	log          *slog.Logger
}

// A Registration says which OAuth client to be. The zero value registers one
// client for each origin of servers (RFC 7591), at most ten at an authorization
// server within a day. A hostile server that names another server's authorization
// server has a client of its own there. So it gets nothing of what the user has
// allowed the other server.
type Registration struct {
	// ClientID is that of a client made by hand (Astravue: Settings → Apps →
	// Create App), and ClientSecret its secret if it is a confidential client.
	// Such a client serves all servers of its issuer, and so does a
	// ClientMetadataURL. So the user is asked for consent (prompt=consent,
	// OpenID Connect Core §3.1.2.1) at the first sign-in to each server, and at
	// the first one after a logout. An authorization server that asks nobody for
	// consent (in Keycloak: a client without "Consent required") does not ask
	// then either. If it refuses prompt=consent, the sign-in goes on without,
	// with [ErrConsentNotAsked] as a warning.
	ClientID     string
	ClientSecret tokenstore.Secret
	// AuthMethod is the token_endpoint_auth_method (RFC 7591 §2): none,
	// client_secret_post or client_secret_basic. If empty, it is none without a
	// secret. With a secret it is client_secret_post, unless the server's
	// metadata lists client_secret_basic and not client_secret_post. If the server
	// refuses a method, no other one is tried.
	AuthMethod string

	// ClientMetadataURL is the https URL of a Client ID Metadata Document. It is
	// the client ID where the server supports such documents.
	ClientMetadataURL string

	// RedirectURL is the callback address. The client listens on a loopback
	// address, with its port if it has one. An https address belongs to a web
	// application, see [Client.BeginLogin]. If empty, it is
	// http://127.0.0.1/callback with any port.
	RedirectURL string
}

// accepts reports whether g was issued to the client, server and account of
// these settings. A store of the embedder's may have a record where it does not
// belong.
func (s *settings) accepts(g *tokenstore.Grant) bool {
	// A grant without a resource serves a client with NoResource, and no other
	// grant does. A client whose Resource is empty takes a grant for any resource.
	sameResource := g.Resource == s.resource
	switch s.resource {
	case NoResource:
		sameResource = g.Resource == ""
	case "":
		sameResource = g.Resource != ""
	}
	return sameResource && g.Server == s.serverURL && g.Account == s.account &&
		(s.issuer == "" || g.Issuer == s.issuer) &&
		(s.registration.ClientID == "" || g.ClientID == s.registration.ClientID)
}

// stored returns the stored record of the grant. It returns the zero record if
// there is none or it cannot be read. The next sign-in replaces a record that
// cannot be read, so that is no error here.
func (s *settings) stored(ctx context.Context) (tokenstore.Record, error) {
	r, err := s.store.Get(ctx, s.key)
	if errors.Is(err, tokenstore.ErrNotFound) || errors.Is(err, tokenstore.ErrCorrupt) {
		return tokenstore.Record{}, nil
	}
	return r, err
}

// audit logs one OAuth operation that began at start. No secret is in an error,
// so err may be logged. The logger itself adds server and account.
func (s *settings) audit(ctx context.Context, step Step, operation, clientID string, start time.Time, err error) {
	level, outcome := slog.LevelInfo, "done"
	if err != nil {
		level, outcome = slog.LevelWarn, "failed"
	}
	attrs := []slog.Attr{
		slog.String("step", step.String()),
		slog.String("outcome", outcome),
		slog.String("client_id", clientID),
		slog.Duration("duration", time.Since(start)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.log.LogAttrs(ctx, level, operation, attrs...)
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
