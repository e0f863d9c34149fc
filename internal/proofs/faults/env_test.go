package faults

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// The Internet that a client of a case sees: a server, its authorization server, a third one, and one at an address
// that no public server may send anybody to. The addresses are those of documentation.
const (
	serverHost    = "mcp.example.com"
	authHost      = "auth.example.com"
	elsewhereHost = "elsewhere.example.com"
	insideHost    = "inside.example.com"

	serverURL = "https://" + serverHost + "/mcp"
	issuerURL = "https://" + authHost + "/realms/astravue"

	appName = "Acme Notes"
)

var addresses = map[string]string{
	serverHost: "203.0.113.1", authHost: "203.0.113.2", elsewhereHost: "203.0.113.3", insideHost: "10.0.0.1",
}

// shortly is the RequestTimeout of a case in which only the timeout ends a request.
const shortly = 4 * time.Second

// servers is what stands behind the proxies of all cases: a sandbox of each era of MCP.
type servers struct {
	modern, legacy *sandbox.Server
	upstream       *http.Transport
	certificate    tls.Certificate
	roots          *x509.CertPool
	stranger       *httptest.Server // whose certificate nobody vouches for
}

func newServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{upstream: &http.Transport{DisableKeepAlives: true}, roots: x509.NewCertPool()}
	for box, protocol := range map[**sandbox.Server]string{&s.modern: "modern", &s.legacy: "legacy"} {
		var err error
		*box, err = sandbox.Start(sandbox.Options{AutoApprove: true, Protocol: protocol, MaxClients: 10_000})
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{serverHost, authHost, elsewhereHost, insideHost},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(leaf)
	s.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.stranger = httptest.NewUnstartedServer(http.NotFoundHandler())
	s.stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.stranger.StartTLS()
	return s
}

func (s *servers) close() {
	s.stranger.Close()
	_ = s.modern.Close()
	_ = s.legacy.Close()
	s.upstream.CloseIdleConnections()
}

// An env is that of one case: a client, its store and its user, and the proxy through which the
// client reaches the servers. A request passes three places, in this order:
//
//   - RoundTrip is the client's Transport. It counts the requests of the exchange that the fault is
//     on, and a fault of the connection has it use the broken transport in place of the network.
//   - ServeHTTP is the proxy. It has any other fault play its part, and forwards the rest.
//   - ask is behind the proxy, where the sandbox answers.
//
// startFault and endFault say when the fault is there.
type env struct {
	t       *testing.T
	servers *servers
	box     *sandbox.Server
	user    string
	store   tokenstore.Store
	client  *mcpclient.Client
	proxy   *httptest.Server
	network *oauthhttp.Transport // without a fault

	log testenv.Buffer // of the client

	mu      sync.Mutex
	on      exchange             // on which the fault is
	fault   *fault               // nil: none
	ended   chan struct{}        // closed by endFault, for requests that the fault holds up
	json    bool                 // calls are answered with JSON, and not with a stream
	broken  *oauthhttp.Transport // takes the place of network in a fault of the connection
	count   count
	secrets []string
	opened  int // answers' bodies that are not closed yet
	events  int // sent to a client's stream unasked
	errs    []string
}

// A count is what was seen of the exchange since startFault.
type count struct {
	asked     int // requests that the client made
	followed  int // redirects that were followed
	times     []time.Time
	mostBytes int64 // read of one answer
}

// newEnv makes the client. change may change it before its first use.
func newEnv(t *testing.T, s *servers, box *sandbox.Server, change func(*mcpclient.Client)) *env {
	t.Helper()
	return newEnvOver(t, "HTTP/1.1", s, box, change)
}

// newEnvOver makes one that speaks a version of HTTP, which is 1.1 or 2.
func newEnvOver(t *testing.T, version string, s *servers, box *sandbox.Server, change func(*mcpclient.Client)) *env {
	t.Helper()
	e := &env{t: t, servers: s, box: box, user: t.Name(), store: new(tokenstore.Memory)}
	e.proxy = httptest.NewUnstartedServer(e)
	e.proxy.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate}}
	e.proxy.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	e.proxy.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	e.proxy.EnableHTTP2 = version == "HTTP/2"
	e.proxy.StartTLS()
	e.network = e.transport(e.resolve, e.dial)
	e.client = &mcpclient.Client{
		Name: appName, Server: serverURL, Store: e.store, Transport: e,
		OpenBrowser: e.browse, SignInTimeout: patience, Logger: slog.New(slog.NewJSONHandler(&e.log, nil)),
	}
	if change != nil {
		change(e.client)
	}
	t.Cleanup(e.close)
	return e
}

func (e *env) close() {
	e.endFault() // or a request that the fault holds up would hold up Close
	if err := e.client.Close(); err != nil {
		e.t.Errorf("Close: %v", err)
	}
	e.network.CloseIdleConnections()
	e.proxy.CloseClientConnections()
	e.proxy.Close()
	for end := time.Now().Add(patience); e.open() > 0; time.Sleep(10 * time.Millisecond) { // the SDK closes late
		if time.Now().After(end) {
			e.t.Errorf("%d answers were not closed", e.open())
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, wrong := range e.errs {
		e.t.Error(wrong)
	}
	e.wantNoSecret("the log", e.log.String())
}

func (e *env) open() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opened
}

// wrong notes what must not happen, from any goroutine.
func (e *env) wrong(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs = append(e.errs, fmt.Sprintf(format, args...))
}

// startFault plays f to the requests of x from now on, and counts from zero.
func (e *env) startFault(x exchange, f *fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.on, e.fault, e.ended, e.count, e.broken, e.events = x, f, make(chan struct{}), count{}, nil, 0
	if f.connect != nil {
		e.broken = f.connect(e)
	}
}

// endFault takes the fault away and lets go of what it holds up. The count goes on.
func (e *env) endFault() {
	e.mu.Lock()
	bad := e.broken
	if e.fault != nil {
		close(e.ended)
	}
	e.fault, e.broken = nil, nil
	e.mu.Unlock()
	if bad != nil {
		bad.CloseIdleConnections()
	}
}

func (e *env) seen() count {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count
}

func (e *env) transport(resolve func(context.Context, string) ([]netip.Addr, error), dial func(context.Context, string, string) (net.Conn, error)) *oauthhttp.Transport {
	return &oauthhttp.Transport{Server: serverURL, Resolve: resolve, Dial: dial, TLS: &tls.Config{RootCAs: e.servers.roots}}
}

func (e *env) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	address, ok := addresses[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr(address)}, nil
}

func (e *env) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, _ := net.SplitHostPort(address); port != "443" || host == addresses[insideHost] {
		e.wrong("%s was dialled", address)
	}
	return new(net.Dialer).DialContext(ctx, network, e.proxy.Listener.Addr().String())
}

// RoundTrip counts requests of the exchange and sends them over the network, or over the broken
// transport while there is a fault of the connection.
func (e *env) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	x := exchangeOf(req, body)
	e.mu.Lock()
	through := e.network
	if x.belongs(e.on) {
		e.count.asked++
		e.count.times = append(e.count.times, time.Now())
		if e.broken != nil {
			through = e.broken
		}
	}
	e.keep(req.Header, body)
	struck := e.fault != nil && x.belongs(e.on)
	e.mu.Unlock()
	if !struck && x.oauth() {
		// The client's deadlines are short so that a fault that stalls ends soon. They must not end
		// other requests of the case, which take their time on a busy machine.
		req = req.WithContext(context.WithoutCancel(req.Context()))
		//lint:ignore SA1019 http.Client tells a transport that it does not know about its Timeout by it
		req.Cancel = nil
	}
	resp, err := through.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.opened++
	resp.Body = &answerBody{ReadCloser: resp.Body, e: e, counted: x.belongs(e.on)}
	return resp, nil
}

// CloseIdleConnections is what Client.Close would call of a transport of its own.
func (e *env) CloseIdleConnections() { e.network.CloseIdleConnections() }

// An answerBody counts how much of it was read, and the env those that are not closed yet.
type answerBody struct {
	io.ReadCloser
	e       *env
	counted bool
	n       int64
	once    sync.Once
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	if b.n += int64(n); b.counted {
		b.e.count.mostBytes = max(b.e.count.mostBytes, b.n)
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.once.Do(func() {
		b.e.mu.Lock()
		defer b.e.mu.Unlock()
		b.e.opened--
	})
	return b.ReadCloser.Close()
}

// keep remembers the secrets of a request. e.mu is held.
func (e *env) keep(h http.Header, body []byte) {
	if token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer "); ok {
		e.secrets = append(e.secrets, token)
	}
	if h.Get("Content-Type") == "application/x-www-form-urlencoded" {
		form, _ := url.ParseQuery(string(body))
		for _, name := range []string{"code", "code_verifier", "refresh_token", "token", "client_secret"} {
			if v := form.Get(name); v != "" {
				e.secrets = append(e.secrets, v)
			}
		}
	}
}

// keepAnswer remembers the secrets of an answer.
func (e *env) keepAnswer(body []byte) {
	var members map[string]any
	_ = json.Unmarshal(body, &members)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range []string{"access_token", "refresh_token", "id_token", "client_secret", "registration_access_token"} {
		if v, _ := members[name].(string); v != "" {
			e.secrets = append(e.secrets, v)
		}
	}
}

// wantNoSecret looks for every secret that went over the network. e.mu is held.
func (e *env) wantNoSecret(where, text string) {
	for _, s := range e.secrets {
		if strings.Contains(text, s) {
			e.t.Errorf("%s shows a secret: %s", where, strings.ReplaceAll(text, s, "SECRET"))
		}
	}
}

type connKey struct{}

// ServeHTTP is the proxy.
func (e *env) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	x := exchangeOf(r, body)
	e.mu.Lock()
	f := e.fault
	if f != nil && (r.URL.Query().Has(moved) || r.Host == elsewhereHost) {
		e.count.followed++
	}
	if !x.belongs(e.on) {
		f = nil
	}
	ended := e.ended
	e.mu.Unlock()
	if f == nil || f.play == nil {
		e.forward(rw, r, body)
		return
	}
	f.play(&strike{env: e, rw: rw, r: r, x: x, body: body, ended: ended})
}

// ask asks the sandbox, whose answers name its own origins, on loopback: the proxy puts the public
// ones in their place, and does the reverse in requests.
func (e *env) ask(r *http.Request, body []byte) (*http.Response, error) {
	to := e.box.AuthURL()
	if strings.HasPrefix(r.URL.Path, "/mcp") || strings.HasPrefix(r.URL.Path, "/.well-known/oauth-protected-resource") {
		to = e.box.APIURL()
	}
	path := r.URL.Path
	switch exchangeOf(r, body) {
	case resourceMetadata:
		path = "/.well-known/oauth-protected-resource"
	case serverMetadata: // at all of its places
		path = "/.well-known/oauth-authorization-server/realms/astravue"
	}
	query := r.URL.Query()
	query.Del(moved)
	u := to + path
	if len(query) > 0 {
		u += "?" + e.inward(query.Encode())
	}
	body = []byte(e.inward(string(body)))
	out, err := http.NewRequestWithContext(r.Context(), r.Method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	resp, err := e.servers.upstream.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	for name, values := range resp.Header {
		for i, v := range values {
			resp.Header[name][i] = e.outward(v)
		}
	}
	return resp, nil
}

func (e *env) inward(s string) string { return e.rename().Replace(s) }

func (e *env) outward(s string) string {
	return strings.NewReplacer(e.box.APIURL(), "https://"+serverHost, e.box.AuthURL(), "https://"+authHost,
		url.QueryEscape(e.box.APIURL()), url.QueryEscape("https://"+serverHost),
		url.QueryEscape(e.box.AuthURL()), url.QueryEscape("https://"+authHost)).Replace(s)
}

func (e *env) rename() *strings.Replacer {
	return strings.NewReplacer("https://"+serverHost, e.box.APIURL(), "https://"+authHost, e.box.AuthURL(),
		url.QueryEscape("https://"+serverHost), url.QueryEscape(e.box.APIURL()),
		url.QueryEscape("https://"+authHost), url.QueryEscape(e.box.AuthURL()))
}

// forward answers as the sandbox does.
func (e *env) forward(rw http.ResponseWriter, r *http.Request, body []byte) {
	resp, err := e.ask(r, body)
	if err != nil {
		if r.Context().Err() == nil {
			e.wrong("the sandbox does not answer: %v", err)
		}
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		rw.Header()[name] = values
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		e.forwardStream(rw, r, resp)
		return
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	answer = []byte(e.outward(string(answer)))
	e.keepAnswer(answer)
	if resp.StatusCode >= 200 && resp.StatusCode != http.StatusNoContent {
		rw.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	}
	rw.WriteHeader(resp.StatusCode)
	_, _ = rw.Write(answer)
}

// forwardStream passes events on as they come. A stream that the client opened by itself begins
// with one of the proxy's, so that the client can tell that it has arrived.
func (e *env) forwardStream(rw http.ResponseWriter, r *http.Request, resp *http.Response) {
	rw.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(rw).Flush
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(rw, toolsChanged)
		_ = flush()
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			_, _ = rw.Write(buf[:n])
			_ = flush()
		}
		if err != nil {
			return
		}
	}
}

const toolsChanged = `data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` + "\n\n"

// browse is the user's browser, which signs in and approves at once.
func (e *env) browse(ctx context.Context, address string) error {
	browser, end := e.newBrowser()
	defer end()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := browser.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// newBrowser returns a browser that has no cookies yet.
func (e *env) newBrowser() (browser *http.Client, end func()) {
	jar, _ := cookiejar.New(nil)
	through := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: e.servers.roots},
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.HasSuffix(to, ":443") {
				to = e.proxy.Listener.Addr().String()
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	}
	return &http.Client{Jar: jar, Transport: through}, through.CloseIdleConnections
}

// seed stores a grant whose access token the client takes to end at that time. The server takes
// it for longer.
func (e *env) seed(ends time.Time) {
	e.t.Helper()
	tokens, err := e.box.Issue(e.user, sandbox.IssueOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	g := &tokenstore.Grant{
		Server: serverURL, SignIn: "earlier", Issuer: issuerURL,
		TokenEndpoint:      e.outward(tokens.TokenEndpoint),
		RevocationEndpoint: issuerURL + "/protocol/openid-connect/revoke",
		ClientID:           tokens.ClientID, AuthMethod: "none", Resource: serverURL,
		ScopesRequested: strings.Fields(tokens.Scope), ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: ends.Add(-30 * time.Minute), ExpiresAt: ends,
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken), RefreshExpiresAt: ends.Add(24 * time.Hour),
	}
	err = e.store.Update(context.Background(), e.key(), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

var registrationKey = tokenstore.RegistrationKey(issuerURL, appName, "https://"+serverHost, "http://127.0.0.1/callback")

func (e *env) key() tokenstore.Key { return tokenstore.GrantKey(serverURL, "") }

// A kept is everything in the client's store.
type kept struct {
	grant        *tokenstore.Grant
	registration *tokenstore.Registration
	mark         tokenstore.Mark
}

func (e *env) kept() (k kept) {
	e.t.Helper()
	ctx := context.Background()
	read := func(key tokenstore.Key) (r tokenstore.Record) {
		err := e.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) (err error) {
			if r, err = l.Get(ctx); err != nil {
				return err
			}
			if r.Grant != nil {
				k.mark, err = l.Mark(ctx)
			}
			return err
		})
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
			e.t.Errorf("read the store: %v", err)
		}
		return r
	}
	k.registration = read(registrationKey).Registration
	k.grant = read(e.key()).Grant
	return k
}

// changes says what has become of what was kept before.
func (k kept) changes(before kept) string {
	var said []string
	say := func(s string) { said = append(said, s) }
	switch g, was := k.grant, before.grant; {
	case was == nil && g != nil:
		say("a grant is there")
	case was != nil && g == nil:
		say("the grant is forgotten")
	case g == nil:
	case g.SignIn != was.SignIn:
		say("a new grant")
	case g.RefreshToken.IsZero():
		say("the refresh token is forgotten")
	case !g.RefreshToken.Equal(was.RefreshToken):
		say("renewed")
	}
	switch r, was := k.registration, before.registration; {
	case was == nil && r != nil:
		say("the registration is kept")
	case was != nil && r == nil:
		say("the registration is forgotten")
	case r != nil && r.ClientID != was.ClientID:
		say("a new registration")
	}
	if k.mark.Pending {
		say("marked as pending")
	}
	if said == nil {
		return "as it was"
	}
	return strings.Join(said, ", ")
}

// connect connects a session that the case ends.
func (e *env) connect() (*mcp.ClientSession, error) {
	session, err := timely(e.t, "Connect", e.client.Connect)
	if err == nil {
		e.t.Cleanup(func() { _ = session.Close() })
	}
	return session, err
}

// call calls a tool.
func (e *env) call(session *mcp.ClientSession) error {
	_, err := timely(e.t, "CallTool", func(ctx context.Context) (*mcp.CallToolResult, error) {
		return call(ctx, session)
	})
	return err
}

func call(ctx context.Context, session *mcp.ClientSession) (*mcp.CallToolResult, error) {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err == nil && res.IsError {
		err = errors.New("the tool failed")
	}
	return res, err
}

// login signs in.
func (e *env) login() error {
	_, err := timely(e.t, "Login", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, e.client.Login(ctx, nil)
	})
	return err
}
