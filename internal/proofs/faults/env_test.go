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

// The Internet of a cell: a server, its authorization server, a third one, and one at an address
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

// shortly is how long a request may take in a cell whose fault is that it takes too long.
const shortly = 4 * time.Second

// A site is what stands behind the proxies of all cells: a sandbox of each era of MCP.
type site struct {
	modern, legacy *sandbox.Server
	upstream       *http.Transport
	certificate    tls.Certificate
	roots          *x509.CertPool
	stranger       *httptest.Server // whose certificate nobody vouches for
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{upstream: &http.Transport{DisableKeepAlives: true}, roots: x509.NewCertPool()}
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

func (s *site) close() {
	s.stranger.Close()
	_ = s.modern.Close()
	_ = s.legacy.Close()
	s.upstream.CloseIdleConnections()
}

// A world is one cell's: a client, its store and its user, and the proxy through which the
// client reaches the site.
type world struct {
	t      *testing.T
	site   *site
	box    *sandbox.Server
	user   string
	store  tokenstore.Store
	client *mcpclient.Client
	proxy  *httptest.Server
	good   *oauthhttp.Transport

	log testenv.Buffer // of the client

	mu      sync.Mutex
	on      exchange      // on which the fault is
	fault   *fault        // nil: none
	over    chan struct{} // closed when it ends
	json    bool          // calls are answered with JSON, and not with a stream
	bad     *oauthhttp.Transport
	count   count
	secrets []string
	opened  int // answers' bodies that are not closed yet
	events  int // sent to a client's stream unasked
	errs    []string
}

// A count is what was seen of the exchange since the fault began.
type count struct {
	asked     int // requests that the client made
	followed  int // redirects that were followed
	times     []time.Time
	mostBytes int64 // read of one answer
}

// newWorld makes the client. change may change it before its first use.
func newWorld(t *testing.T, s *site, box *sandbox.Server, change func(*mcpclient.Client)) *world {
	t.Helper()
	return newWorldOver(t, "HTTP/1.1", s, box, change)
}

// newWorldOver makes one that speaks a version of HTTP, which is 1.1 or 2.
func newWorldOver(t *testing.T, version string, s *site, box *sandbox.Server, change func(*mcpclient.Client)) *world {
	t.Helper()
	w := &world{t: t, site: s, box: box, user: t.Name(), store: new(tokenstore.Memory)}
	w.proxy = httptest.NewUnstartedServer(w)
	w.proxy.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate}}
	w.proxy.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.proxy.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	w.proxy.EnableHTTP2 = version == "HTTP/2"
	w.proxy.StartTLS()
	w.good = w.transport(w.resolve, w.dial)
	w.client = &mcpclient.Client{
		Name: appName, Server: serverURL, Store: w.store, Transport: w,
		OpenBrowser: w.browse, SignInTimeout: patience, Logger: slog.New(slog.NewJSONHandler(&w.log, nil)),
	}
	if change != nil {
		change(w.client)
	}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	w.end() // nothing that is held back may hold up Close
	if err := w.client.Close(); err != nil {
		w.t.Errorf("Close: %v", err)
	}
	w.good.CloseIdleConnections()
	w.proxy.CloseClientConnections()
	w.proxy.Close()
	for end := time.Now().Add(patience); w.open() > 0; time.Sleep(10 * time.Millisecond) { // the SDK closes late
		if time.Now().After(end) {
			w.t.Errorf("%d answers were not closed", w.open())
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.errs {
		w.t.Error(e)
	}
	w.wantNoSecret("the log", w.log.String())
}

func (w *world) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

// wrong notes what must not happen, from any goroutine.
func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, fmt.Sprintf(format, args...))
}

// begin lets f strike the requests of x, and counts anew.
func (w *world) begin(x exchange, f *fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on, w.fault, w.over, w.count, w.bad, w.events = x, f, make(chan struct{}), count{}, nil, 0
	if f.connect != nil {
		w.bad = f.connect(w)
	}
}

// end takes the fault away, and goes on counting.
func (w *world) end() {
	w.mu.Lock()
	bad := w.bad
	if w.fault != nil {
		close(w.over)
	}
	w.fault, w.bad = nil, nil
	w.mu.Unlock()
	if bad != nil {
		bad.CloseIdleConnections()
	}
}

func (w *world) seen() count {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

func (w *world) transport(resolve func(context.Context, string) ([]netip.Addr, error), dial func(context.Context, string, string) (net.Conn, error)) *oauthhttp.Transport {
	return &oauthhttp.Transport{Server: serverURL, Resolve: resolve, Dial: dial, TLS: &tls.Config{RootCAs: w.site.roots}}
}

func (w *world) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	address, ok := addresses[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr(address)}, nil
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, _ := net.SplitHostPort(address); port != "443" || host == addresses[insideHost] {
		w.wrong("%s was dialled", address)
	}
	return new(net.Dialer).DialContext(ctx, network, w.proxy.Listener.Addr().String())
}

// RoundTrip is the network: it counts, and sends what the fault strikes by way of a broken
// transport if it is one of the connection.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
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
	w.mu.Lock()
	through := w.good
	if x.belongs(w.on) {
		w.count.asked++
		w.count.times = append(w.count.times, time.Now())
		if w.bad != nil {
			through = w.bad
		}
	}
	w.keep(req.Header, body)
	struck := w.fault != nil && x.belongs(w.on)
	w.mu.Unlock()
	if !struck && x.oauth() {
		// Deadlines are short for the fault's sake. On a busy machine the rest would not be in time.
		req = req.WithContext(context.WithoutCancel(req.Context()))
		//lint:ignore SA1019 http.Client tells a transport that it does not know about its Timeout by it
		req.Cancel = nil
	}
	resp, err := through.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	resp.Body = &answerBody{ReadCloser: resp.Body, w: w, counted: x.belongs(w.on)}
	return resp, nil
}

// CloseIdleConnections is what Client.Close would call of a transport of its own.
func (w *world) CloseIdleConnections() { w.good.CloseIdleConnections() }

// An answerBody knows how much of it was read, and whether it was closed.
type answerBody struct {
	io.ReadCloser
	w       *world
	counted bool
	n       int64
	once    sync.Once
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if b.n += int64(n); b.counted {
		b.w.count.mostBytes = max(b.w.count.mostBytes, b.n)
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.once.Do(func() {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		b.w.opened--
	})
	return b.ReadCloser.Close()
}

// keep remembers the secrets of a request. w.mu is held.
func (w *world) keep(h http.Header, body []byte) {
	if token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer "); ok {
		w.secrets = append(w.secrets, token)
	}
	if h.Get("Content-Type") == "application/x-www-form-urlencoded" {
		form, _ := url.ParseQuery(string(body))
		for _, name := range []string{"code", "code_verifier", "refresh_token", "token", "client_secret"} {
			if v := form.Get(name); v != "" {
				w.secrets = append(w.secrets, v)
			}
		}
	}
}

// keepAnswer remembers the secrets of an answer.
func (w *world) keepAnswer(body []byte) {
	var members map[string]any
	_ = json.Unmarshal(body, &members)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range []string{"access_token", "refresh_token", "id_token", "client_secret", "registration_access_token"} {
		if v, _ := members[name].(string); v != "" {
			w.secrets = append(w.secrets, v)
		}
	}
}

// wantNoSecret looks for every secret that went over the network. w.mu is held.
func (w *world) wantNoSecret(where, text string) {
	for _, s := range w.secrets {
		if strings.Contains(text, s) {
			w.t.Errorf("%s shows a secret: %s", where, strings.ReplaceAll(text, s, "SECRET"))
		}
	}
}

type connKey struct{}

// ServeHTTP is the proxy.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	x := exchangeOf(r, body)
	w.mu.Lock()
	f := w.fault
	if f != nil && (r.URL.Query().Has(moved) || r.Host == elsewhereHost) {
		w.count.followed++
	}
	if !x.belongs(w.on) {
		f = nil
	}
	over := w.over
	w.mu.Unlock()
	if f == nil || f.play == nil {
		w.forward(rw, r, body)
		return
	}
	f.play(&strike{world: w, rw: rw, r: r, x: x, body: body, over: over})
}

// ask asks the sandbox, whose answers name its own origins, on loopback: the proxy puts the public
// ones in their place, and does the reverse in requests.
func (w *world) ask(r *http.Request, body []byte) (*http.Response, error) {
	to := w.box.AuthURL()
	if strings.HasPrefix(r.URL.Path, "/mcp") || strings.HasPrefix(r.URL.Path, "/.well-known/oauth-protected-resource") {
		to = w.box.APIURL()
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
		u += "?" + w.inward(query.Encode())
	}
	body = []byte(w.inward(string(body)))
	out, err := http.NewRequestWithContext(r.Context(), r.Method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	resp, err := w.site.upstream.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	for name, values := range resp.Header {
		for i, v := range values {
			resp.Header[name][i] = w.outward(v)
		}
	}
	return resp, nil
}

func (w *world) inward(s string) string { return w.rename().Replace(s) }

func (w *world) outward(s string) string {
	return strings.NewReplacer(w.box.APIURL(), "https://"+serverHost, w.box.AuthURL(), "https://"+authHost,
		url.QueryEscape(w.box.APIURL()), url.QueryEscape("https://"+serverHost),
		url.QueryEscape(w.box.AuthURL()), url.QueryEscape("https://"+authHost)).Replace(s)
}

func (w *world) rename() *strings.Replacer {
	return strings.NewReplacer("https://"+serverHost, w.box.APIURL(), "https://"+authHost, w.box.AuthURL(),
		url.QueryEscape("https://"+serverHost), url.QueryEscape(w.box.APIURL()),
		url.QueryEscape("https://"+authHost), url.QueryEscape(w.box.AuthURL()))
}

// forward answers as the sandbox does.
func (w *world) forward(rw http.ResponseWriter, r *http.Request, body []byte) {
	resp, err := w.ask(r, body)
	if err != nil {
		if r.Context().Err() == nil {
			w.wrong("the sandbox does not answer: %v", err)
		}
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		rw.Header()[name] = values
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		w.forwardStream(rw, r, resp)
		return
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	answer = []byte(w.outward(string(answer)))
	w.keepAnswer(answer)
	if resp.StatusCode >= 200 && resp.StatusCode != http.StatusNoContent {
		rw.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	}
	rw.WriteHeader(resp.StatusCode)
	_, _ = rw.Write(answer)
}

// forwardStream passes events on as they come. A stream that the client opened by itself begins
// with one of the proxy's, so that the client can tell that it has arrived.
func (w *world) forwardStream(rw http.ResponseWriter, r *http.Request, resp *http.Response) {
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
func (w *world) browse(ctx context.Context, address string) error {
	browser, end := w.newBrowser()
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
func (w *world) newBrowser() (browser *http.Client, end func()) {
	jar, _ := cookiejar.New(nil)
	through := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.site.roots},
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.HasSuffix(to, ":443") {
				to = w.proxy.Listener.Addr().String()
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	}
	return &http.Client{Jar: jar, Transport: through}, through.CloseIdleConnections
}

// seed stores a grant whose access token the client takes to end at that time. The server takes
// it for longer.
func (w *world) seed(ends time.Time) {
	w.t.Helper()
	tokens, err := w.box.Issue(w.user, sandbox.IssueOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	g := &tokenstore.Grant{
		Server: serverURL, SignIn: "earlier", Issuer: issuerURL,
		TokenEndpoint:      w.outward(tokens.TokenEndpoint),
		RevocationEndpoint: issuerURL + "/protocol/openid-connect/revoke",
		ClientID:           tokens.ClientID, AuthMethod: "none", Resource: serverURL,
		ScopesRequested: strings.Fields(tokens.Scope), ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: ends.Add(-30 * time.Minute), ExpiresAt: ends,
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken), RefreshExpiresAt: ends.Add(24 * time.Hour),
	}
	err = w.store.Update(context.Background(), w.key(), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: g})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

var registrationKey = tokenstore.RegistrationKey(issuerURL, appName, "https://"+serverHost, "http://127.0.0.1/callback")

func (w *world) key() tokenstore.Key { return tokenstore.GrantKey(serverURL, "") }

// A kept is what is stored.
type kept struct {
	grant        *tokenstore.Grant
	registration *tokenstore.Registration
	mark         tokenstore.Mark
}

func (w *world) kept() (k kept) {
	w.t.Helper()
	ctx := context.Background()
	read := func(key tokenstore.Key) (r tokenstore.Record) {
		err := w.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) (err error) {
			if r, err = l.Get(ctx); err != nil {
				return err
			}
			if r.Grant != nil {
				k.mark, err = l.Mark(ctx)
			}
			return err
		})
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
			w.t.Errorf("read the store: %v", err)
		}
		return r
	}
	k.registration = read(registrationKey).Registration
	k.grant = read(w.key()).Grant
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

// connect connects a session that the cell ends.
func (w *world) connect() (*mcp.ClientSession, error) {
	session, err := timely(w.t, "Connect", w.client.Connect)
	if err == nil {
		w.t.Cleanup(func() { _ = session.Close() })
	}
	return session, err
}

// call calls a tool.
func (w *world) call(session *mcp.ClientSession) error {
	_, err := timely(w.t, "CallTool", func(ctx context.Context) (*mcp.CallToolResult, error) {
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
func (w *world) login() error {
	_, err := timely(w.t, "Login", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, w.client.Login(ctx, nil)
	})
	return err
}
