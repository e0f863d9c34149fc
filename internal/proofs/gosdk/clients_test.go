package gosdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A program is one run of a program that uses a client under test. What it
// keeps for the next run is in env.disk.
type program interface {
	connect(context.Context) (*mcp.ClientSession, error)
	age(time.Duration)  // its access token gets so much older
	names(error) string // what it calls an error that can be told from others; "" for any other
	stop()
}

// A kind is a client under test.
type kind struct {
	run func(*env) program
	// restored keeps an access token, as an earlier run has, whose life is unknown.
	restored func(e *env, server, token string)
	// How long is waited for a browser more, where one is open, and for a result while a refresh
	// is held back: not for long where it is known not to come.
	browser, result time.Duration
}

var (
	goSDK       = kind{newSDK, restoreSDK, patience, impatience}
	thisLibrary = kind{newOurs, restoreOurs, impatience, patience}
)

// sdk is the go-sdk's own handler.
type sdk struct {
	e       *env
	client  *http.Client
	handler *auth.AuthorizationCodeHandler
	sessions
}

func newSDK(e *env) program {
	s := &sdk{e: e, client: &http.Client{Transport: e.wire}}
	config := &auth.AuthorizationCodeHandlerConfig{
		RedirectURL: redirectURL,
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{
			Metadata: &oauthex.ClientRegistrationMetadata{
				ClientName: "Acme Notes", RedirectURIs: []string{redirectURL}, TokenEndpointAuthMethod: "none",
				GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"},
			},
		},
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			back, err := e.browser.visit(ctx, args.URL)
			if err != nil {
				return nil, err
			}
			q := back.Query()
			if q.Has("error") {
				return nil, errDenied // the result has no place for it
			}
			return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
		},
		AcceptUnadvertisedIss: e.acceptIss,

		Client: s.client,
		NewTokenSource: func(ctx context.Context, cfg *oauth2.Config, token *oauth2.Token) (oauth2.TokenSource, error) {
			_ = s.save(cfg, token)
			return s.saving(ctx, cfg, token), nil
		},
	}
	if e.clientID != "" {
		config.PreregisteredClient = &oauthex.ClientCredentials{ClientID: e.clientID}
	}
	if e.document != "" {
		config.ClientIDMetadataDocumentConfig = &auth.ClientIDMetadataDocumentConfig{URL: e.document}
	}
	if cfg, token := s.restore(); token != nil {
		config.InitialTokenSource = s.saving(context.WithValue(context.Background(), oauth2.HTTPClient, s.client), cfg, token)
	}
	var err error
	if s.handler, err = auth.NewAuthorizationCodeHandler(config); err != nil {
		e.t.Fatal(err)
	}
	return s
}

func (s *sdk) connect(ctx context.Context) (*mcp.ClientSession, error) {
	client := mcp.NewClient(&mcp.Implementation{Name: "Acme Notes"}, &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}})
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: s.e.server, HTTPClient: s.client, OAuthHandler: s.handler, DisableStandaloneSSE: true,
	}, nil)
	s.add(session, err)
	return session, err
}

// age changes the token that x/oauth2 holds, whose clock cannot be moved: it
// yields the very one that it compares with the time.
func (s *sdk) age(d time.Duration) {
	source, err := s.handler.TokenSource(s.e.t.Context())
	if err != nil || source == nil {
		return
	}
	if token, err := source.Token(); err == nil && !token.Expiry.IsZero() {
		token.Expiry = token.Expiry.Add(-d)
	}
}

func (s *sdk) names(err error) string {
	var (
		registration *oauthex.ClientRegistrationError
		token        *oauth2.RetrieveError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "`context.Canceled`"
	case errors.Is(err, errDenied):
		return "the error of the program's own callback"
	case errors.As(err, &registration):
		return "`*oauthex.ClientRegistrationError`"
	case errors.As(err, &token):
		return "`*oauth2.RetrieveError`"
	case errors.Is(err, mcp.ErrSessionMissing):
		return "`mcp.ErrSessionMissing`"
	}
	return ""
}

// A kept session is what the SDK's example of persistence hands to a program.
type kept struct {
	Config *oauth2.Config
	Token  *oauth2.Token
}

const sessionFile = "session.json"

func (s *sdk) save(cfg *oauth2.Config, token *oauth2.Token) error {
	copied := *token
	if !copied.Expiry.IsZero() {
		copied.Expiry = copied.Expiry.Add(s.e.passed) // by the sandbox's clock
	}
	data, err := json.Marshal(kept{cfg, &copied})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.e.disk, sessionFile), data, 0o600)
}

func (s *sdk) restore() (*oauth2.Config, *oauth2.Token) {
	data, err := os.ReadFile(filepath.Join(s.e.disk, sessionFile))
	if err != nil {
		return nil, nil
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		s.e.t.Fatal(err)
	}
	if !k.Token.Expiry.IsZero() {
		k.Token.Expiry = k.Token.Expiry.Add(-s.e.passed)
	}
	return k.Config, k.Token
}

func (s *sdk) saving(ctx context.Context, cfg *oauth2.Config, token *oauth2.Token) oauth2.TokenSource {
	return &savingTokenSource{src: cfg.TokenSource(ctx, token), saver: s.save, config: cfg, accessToken: token.AccessToken}
}

// savingTokenSource is that of auth/auth_example_test.go in the go-sdk.
type savingTokenSource struct {
	mu          sync.Mutex
	src         oauth2.TokenSource
	saver       func(*oauth2.Config, *oauth2.Token) error
	config      *oauth2.Config
	accessToken string
}

func (s *savingTokenSource) Token() (*oauth2.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tok, err := s.src.Token()
	if err != nil {
		return nil, err
	}
	if s.accessToken != tok.AccessToken {
		s.accessToken = tok.AccessToken
		_ = s.saver(s.config, tok)
	}
	return tok, nil
}

func restoreSDK(e *env, server, token string) {
	if err := (&sdk{e: e}).save(&oauth2.Config{ClientID: "client"}, &oauth2.Token{AccessToken: token}); err != nil {
		e.t.Fatal(err)
	}
}

// ours is this module.
type ours struct {
	e      *env
	client *mcpclient.Client
	sessions
}

func newOurs(e *env) program {
	return &ours{e: e, client: &mcpclient.Client{
		Name: "Acme Notes", Server: e.server, Store: e.store(), Transport: e.wire, SignInTimeout: patience,
		Registration: mcpclient.Registration{ClientID: e.clientID, ClientMetadataURL: e.document},
		OpenBrowser: func(ctx context.Context, address string) error {
			keeps := testenv.NewBrowser()
			address, err := testenv.Begin(ctx, keeps, address)
			if err != nil {
				return err
			}
			back, err := e.browser.visit(ctx, address)
			if err != nil {
				return err
			}
			_, err = get(ctx, keeps, back.String())
			return err
		},
	}}
}

func (o *ours) connect(ctx context.Context) (*mcp.ClientSession, error) {
	session, err := o.client.Connect(ctx)
	o.add(session, err)
	return session, err
}

// age does nothing: env.pass has moved the clock that ours looks at.
func (o *ours) age(time.Duration) {}

func (o *ours) names(err error) string {
	var (
		denied    *authcode.AuthorizationError
		retry     *refresh.RetryError
		refused   *mcpclient.TokenRefusedError
		forbidden *mcpclient.ForbiddenError
		answer    *mcpclient.AnswerError
		step      *mcpclient.StepError
	)
	what := ""
	switch {
	case errors.Is(err, context.Canceled):
		what = "`context.Canceled`"
	case errors.As(err, &denied):
		what = "`*authcode.AuthorizationError` (" + denied.Code + ")"
	case errors.As(err, &refused):
		what = "`*mcpclient.TokenRefusedError`"
	case errors.As(err, &forbidden):
		what = "`*mcpclient.ForbiddenError`"
	case errors.Is(err, tokenstore.ErrUnavailable):
		what = "`tokenstore.ErrUnavailable`"
	case errors.As(err, &retry):
		what = "`*refresh.RetryError`"
	case errors.As(err, &answer):
		what = "`*mcpclient.AnswerError`"
	}
	switch {
	case errors.As(err, &step) && what == "":
		return fmt.Sprintf("a `StepError` of step %d (%s)", step.Step, step.Step)
	case errors.As(err, &step):
		return fmt.Sprintf("%s at step %d (%s)", what, step.Step, step.Step)
	}
	return what
}

func (o *ours) stop() {
	o.sessions.stop()
	_ = o.client.Close()
}

// store is that of a run: what runs share is the folder.
func (e *env) store() tokenstore.Store {
	return &tokenstore.File{
		Dir: e.disk, Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q"),
	}
}

func restoreOurs(e *env, server, token string) {
	key := tokenstore.GrantKey(server, "")
	err := e.store().Update(e.t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: server, Issuer: "https://auth.example.com", TokenEndpoint: "https://auth.example.com/token",
			ClientID: "client", AuthMethod: "none", Resource: server, AccessToken: tokenstore.NewSecret(token),
		}})
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

// sessions are those of a program, to be closed with it.
type sessions struct {
	mu   sync.Mutex
	open []*mcp.ClientSession
}

func (s *sessions) add(session *mcp.ClientSession, err error) {
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open = append(s.open, session)
	}
}

func (s *sessions) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.open {
		_ = session.Close()
	}
	s.open = nil
}
