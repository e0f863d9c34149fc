package attacks

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	hostileServer = "a hostile MCP server"
	hostileRealm  = "a hostile MCP server with an issuer of its own on the honest host"
	gainsTokens   = "tokens for the victim's other servers"
	gainsSecret   = "the client's secret, and tokens"
	gainsScreen   = "pages of its choice on the victim's screen"
)

var issuerAttacks = append(append(append(append(pinnedAttacks(), endpointAttacks()...), outageAttacks()...), mixUpAttacks()...), newIssuerAttacks()...)

// toEvil gives endpoints to the attacker's host.
func toEvil(names ...string) func(*deceived, map[string]any) {
	return func(w *deceived, doc map[string]any) {
		for _, name := range names {
			doc[name] = w.evil.URL + "/" + strings.TrimSuffix(strings.NewReplacer("authorization", "auth", "registration", "register", "revocation", "revoke").Replace(name), "_endpoint")
		}
	}
}

var allEndpoints = []string{"authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint"}

// confidential has the victim be a client with a secret.
func confidential(w *deceived, c *mcpclient.Client) {
	id, secret := w.srv.App()
	c.Registration = mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret)}
}

// known has the victim be signed in at the honest server already.
func known(w *deceived, c *mcpclient.Client) {
	first := w.victim()
	first.Server, first.Issuer, first.Store = w.srv.URL(), "", c.Store
	if err := first.Login(w.t.Context(), nil); err != nil {
		w.t.Fatal(err)
	}
}

func pinnedAttacks() []attack {
	// The honest server publishes its metadata at another place only, as some do.
	nowhere := func(w *deceived) { w.own = http.NotFoundHandler() }
	var all []attack
	for _, lie := range []struct {
		id, does string
		lies     func(*deceived, map[string]any)
		logout   bool
	}{
		{"token", "its token endpoint is the attacker's", toEvil("token_endpoint"), false},
		{"all", "all endpoints are the attacker's, who sends the browser on to the honest page", toEvil(allEndpoints...), false},
		{"all-but-registration", "all endpoints but the registration are the attacker's", toEvil("authorization_endpoint", "token_endpoint", "revocation_endpoint"), false},
		{"revocation", "its revocation endpoint is the attacker's, and the victim signs out", toEvil("revocation_endpoint"), true},
	} {
		for _, victim := range []struct {
			id, does, gains string
			client          func(*deceived, *mcpclient.Client)
			secret          bool
		}{
			{"pinned", "", gainsTokens, nil, false},
			{"confidential", "; the client has a secret", gainsSecret, confidential, true},
			{"registered", "; the victim is signed in at the honest server already", gainsTokens, known, false},
		} {
			for _, own := range []struct {
				id, does string
				listen   func(*deceived)
			}{
				{"", "", nil}, {"-alone", "; the issuer itself publishes none", nowhere},
			} {
				if victim.secret && lie.logout {
					continue // the attacker would need the secret
				}
				all = append(all, attack{
					id: "pin-" + lie.id + "-" + victim.id + own.id, who: hostileServer, gains: victim.gains,
					does: "it announces itself, and its document states the issuer that the victim pinned; " + lie.does + victim.does + own.does,
					play: deceit{lies: lie.lies, client: victim.client, listen: own.listen, logout: lie.logout}.play,
				})
			}
		}
	}
	at := func(named func(w *deceived) string) func(*deceived) []string {
		return func(w *deceived) []string { return []string{named(w)} }
	}
	return append(all,
		attack{id: "pin-listed-second", who: hostileServer, gains: gainsTokens, does: "it names itself first and the pinned issuer second",
			play: deceit{lies: toEvil("token_endpoint"), named: func(w *deceived) []string { return []string{w.evil.URL, w.issuer()} }}.play},
		attack{id: "pin-realm-states-it", who: hostileRealm, gains: gainsTokens, does: "it announces its own issuer on the honest host",
			play: deceit{named: at(func(w *deceived) string { return w.honest.URL + evilRealm })}.play},
		attack{id: "pin-with-slash", who: hostileServer, gains: gainsTokens, does: "it announces the pinned issuer with a slash behind it",
			play: deceit{named: at(func(w *deceived) string { return w.issuer() + "/" })}.play},
		attack{id: "pin-with-query", who: hostileServer, gains: gainsTokens, does: "it announces an address with a query that holds the pinned issuer",
			play: deceit{lies: toEvil("token_endpoint"), named: at(func(w *deceived) string { return w.evil.URL + "?" + w.issuer() })}.play},
		attack{id: "pin-in-user-info", who: hostileServer, gains: gainsTokens, does: "it announces an address with the pinned issuer's host as user name",
			play: deceit{lies: toEvil("token_endpoint"), named: at(func(w *deceived) string {
				return "http://" + strings.TrimPrefix(w.honest.URL, "http://") + "@" + strings.TrimPrefix(w.evil.URL, "http://")
			})}.play},
		attack{id: "pin-in-upper-case", who: hostileServer, gains: gainsTokens, does: "its document states the pinned issuer in capitals",
			play: deceit{lies: func(w *deceived, doc map[string]any) {
				toEvil("token_endpoint")(w, doc)
				doc["issuer"] = strings.ToUpper(w.issuer())
			}}.play},
		attack{id: "pin-of-host", who: hostileServer, gains: gainsTokens, does: "the pinned issuer has no path; the document's token endpoint is the attacker's",
			play: deceit{lies: func(w *deceived, doc map[string]any) {
				toEvil("token_endpoint")(w, doc)
				doc["issuer"] = w.honest.URL
			}, listen: func(w *deceived) { w.noIss = true }, client: func(w *deceived, c *mcpclient.Client) { c.Issuer = w.honest.URL }}.play},
		attack{id: "pin-of-template", who: hostileServer, gains: gainsTokens, does: "the pinned issuer is a template; the document's token endpoint is the attacker's",
			play: deceit{lies: func(w *deceived, doc map[string]any) {
				toEvil("token_endpoint")(w, doc)
				doc["issuer"] = w.honest.URL + "/{tenantid}/v2.0"
			}, listen: func(w *deceived) { w.noIss = true }, client: func(w *deceived, c *mcpclient.Client) { c.Issuer = w.honest.URL + "/{tenantid}/v2.0" }}.play},
		attack{id: "pin-on-two-hosts", who: "nobody: a server whose issuer has its page on another host", gains: "nothing: with a pin the server cannot be reached, because a hostile document looks just like its own",
			does: "the announced server's document states the pinned issuer, with the authorization endpoint at the announced server; the issuer itself publishes none",
			play: deceit{lies: toEvil("authorization_endpoint"), listen: nowhere}.play},
		attack{id: "pin-refused-token", who: hostileServer, gains: gainsScreen, does: "it refuses each token of the issuer that the victim pinned, and names its own", play: refusesPinned(true)},
		attack{id: "pin-refused-token-later", who: hostileServer, gains: gainsScreen, does: "it refuses each token of the issuer that the victim pinned, and names its own, to a process without the pin that has the pinned session", play: refusesPinned(false)},
	)
}

// refusesPinned has a hostile server that takes no token lure a client with a
// session to a sign-in of its own. The token itself is what the victim meant it
// to have.
func refusesPinned(pinned bool) func(*testing.T) (bool, string) {
	return func(t *testing.T) (bool, string) {
		w := newDeceived(t, deceit{lies: func(w *deceived, doc map[string]any) {
			toEvil(allEndpoints...)(w, doc)
			doc["issuer"] = w.evil.URL
		}})
		c := w.victim()
		if err := c.Login(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		next := w.victim()
		next.Store = c.Store
		if !pinned {
			next.Issuer = ""
		}
		_, err := next.Connect(t.Context())
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.page > 0, ended(err)
	}
}

// endpointAttacks are spellings of a token endpoint, in a document that is all
// right but for that.
func endpointAttacks() []attack {
	evil := func(w *deceived) string { return strings.TrimPrefix(w.evil.URL, "http://") }
	port := func(w *deceived) string { _, p, _ := strings.Cut(evil(w), ":"); return p }
	below := func(rest string) func(*deceived) string {
		return func(w *deceived) string { return w.issuer() + rest }
	}
	host := func(rest string) func(*deceived) string {
		return func(w *deceived) string { return w.honest.URL + rest }
	}
	var all []attack
	for _, e := range []struct {
		id, who, does string
		url           func(*deceived) string
	}{
		{"neighbour", hostileRealm, "in the neighbour's path", host(evilRealm + "/token")},
		{"neighbour-begins-alike", hostileRealm, "in a path that begins like the issuer's and then leaves it", host(honestRealm + "2/.." + "/evil/token")},
		{"dots", hostileRealm, "`/realms/astravue/../evil/token`", below("/../evil/token")},
		{"dots-deep", hostileRealm, "with dots at the end of a long path", below("/a/b/../../../evil/token")},
		{"dots-first", hostileRealm, "with the way out before the issuer's path", host("/realms/evil/../astravue/../evil/token")},
		{"dots-escaped", hostileRealm, "`/%2e%2E/evil/token`", below("/%2e%2E/evil/token")},
		{"dots-half-escaped", hostileRealm, "`/.%2e/evil/token`", below("/.%2e/evil/token")},
		{"slash-escaped", hostileRealm, "`/..%2fevil/token`", below("/..%2fevil/token")},
		{"slash-escaped-whole", hostileRealm, "`/%2e%2e%2fevil%2ftoken`", below("/%2e%2e%2fevil%2ftoken")},
		{"backslash", hostileRealm, "`/..\\evil/token`", below(`/..\evil/token`)},
		{"backslash-escaped", hostileRealm, "`/..%5Cevil/token`", below("/..%5Cevil/token")},
		{"escaped-twice", hostileRealm, "`/%252e%252e/evil/token`", below("/%252e%252e/evil/token")},
		{"slash-escaped-twice", hostileRealm, "`/..%252fevil/token`", below("/..%252fevil/token")},
		{"dots-with-parameter", hostileRealm, "`/..;/evil/token`, as servers in Java read it", below("/..;/evil/token")},
		{"dots-with-value", hostileRealm, "`/..;a=b/evil/token`", below("/..;a=b/evil/token")},
		{"dots-and-space", hostileRealm, "`/..%20/evil/token`", below("/..%20/evil/token")},
		{"dots-full-width", hostileRealm, "with full-width dots, which are dots once they are normalised", below("/%EF%BC%8E%EF%BC%8E/evil/token")},
		{"slash-full-width", hostileRealm, "with a full-width slash", below("/..%EF%BC%8Fevil/token")},
		{"dots-behind-letters", hostileRealm, "`/x/../../evil/token`", below("/x/../../evil/token")},
		{"port", hostileServer, "on another port", func(w *deceived) string { return w.evil.URL + honestRealm + "/token" }},
		{"name", hostileServer, "on another name", func(w *deceived) string { return "http://localhost:" + port(w) + honestRealm + "/token" }},
		{"name-in-capitals", hostileServer, "on another name, in capitals", func(w *deceived) string { return "HTTP://LOCALHOST:" + port(w) + honestRealm + "/token" }},
		{"name-with-dot", hostileServer, "on a name with a dot behind it", func(w *deceived) string { return "http://localhost.:" + port(w) + honestRealm + "/token" }},
		{"mapped", hostileServer, "on the IPv6 spelling of the address", func(w *deceived) string { return "http://[::ffff:127.0.0.1]:" + port(w) + honestRealm + "/token" }},
		{"user-info", hostileServer, "with the honest host as user name", func(w *deceived) string {
			return "http://" + strings.TrimPrefix(w.honest.URL, "http://") + "@" + evil(w) + honestRealm + "/token"
		}},
		{"backslash-host", hostileServer, "with the honest host before a backslash", func(w *deceived) string { return w.honest.URL + `\@` + evil(w) + honestRealm + "/token" }},
		{"scheme-relative", hostileServer, "without a scheme", func(w *deceived) string { return "//" + evil(w) + honestRealm + "/token" }},
		{"fragment", hostileServer, "with the honest address in its fragment", func(w *deceived) string { return w.evil.URL + "/token#" + w.issuer() + "/token" }},
		{"query", hostileServer, "with the honest address in its query", func(w *deceived) string { return w.evil.URL + "/token?" + w.issuer() + "/token" }},
	} {
		all = append(all, attack{
			id: "endpoint-" + e.id, who: e.who, gains: gainsTokens,
			does: "its document states the pinned issuer, which publishes none itself, with a token endpoint " + e.does,
			play: deceit{
				lies:   func(w *deceived, doc map[string]any) { doc["token_endpoint"] = e.url(w) },
				listen: func(w *deceived) { w.own = http.NotFoundHandler() },
			}.play,
		})
	}
	return all
}

// outageAttacks wait until the honest issuer cannot be asked.
func outageAttacks() []attack {
	status := func(code int, contentType, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		})
	}
	var all []attack
	for _, o := range []struct {
		id, does string
		own      http.Handler
		client   func(*deceived, *mcpclient.Client)
	}{
		{"500", "answers 500", status(500, "text/plain", ""), nil},
		{"503", "answers 503", status(503, "application/json", "{}"), nil},
		{"429", "answers 429", status(429, "text/plain", ""), nil},
		{"403", "answers 403", status(403, "text/plain", ""), nil},
		{"404", "publishes nothing", http.NotFoundHandler(), nil},
		{"410", "answers 410", status(410, "text/plain", ""), nil},
		{"page", "answers with a page", status(200, "text/html", "<p>"), nil},
		{"empty", "answers with an empty document", status(200, "application/json", "{}"), nil},
		{"half", "answers with half a document", status(200, "application/json", `{"issuer":`), nil},
		{"silent", "does not answer in time", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
			func(_ *deceived, c *mcpclient.Client) { c.RequestTimeout = 100 * time.Millisecond }},
		{"hangs-up", "hangs up", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil},
		{"refuses", "refuses connections", nil, func(w *deceived, c *mcpclient.Client) { c.Transport = unreachable{w.honest.URL} }},
		{"metadata-refused", "refuses the victim's requests for metadata alone", nil, func(w *deceived, c *mcpclient.Client) { c.Transport = unreachable{w.honest.URL + "/.well-known/"} }},
	} {
		all = append(all, attack{
			id: "outage-" + o.id, who: hostileServer, gains: gainsTokens,
			does: "its document states the pinned issuer; all endpoints are the attacker's; the issuer itself " + o.does,
			play: deceit{lies: toEvil(allEndpoints...), listen: func(w *deceived) { w.own = o.own }, client: o.client}.play,
		})
	}
	return all
}

// mixUpAttacks are RFC 9700 §4.4: the victim signs in at the attacker's server,
// knowingly, and the attacker sends the browser on to the honest one.
func mixUpAttacks() []attack {
	states := func(w *deceived, doc map[string]any) {
		toEvil(allEndpoints...)(w, doc)
		doc["issuer"] = w.evil.URL
	}
	straight := func(w *deceived, doc map[string]any) { // to the honest page at once
		toEvil("token_endpoint", "registration_endpoint")(w, doc)
		doc["issuer"] = w.evil.URL
	}
	promises := func(w *deceived, doc map[string]any) {
		states(w, doc)
		doc["authorization_response_iss_parameter_supported"] = true
	}
	unpinned := func(_ *deceived, c *mcpclient.Client) { c.Issuer = "" }
	both := func(fs ...func(*deceived, *mcpclient.Client)) func(*deceived, *mcpclient.Client) {
		return func(w *deceived, c *mcpclient.Client) {
			for _, f := range fs {
				f(w, c)
			}
		}
	}
	noIss := func(w *deceived) { w.noIss = true }
	const stands = "The MCP specification lets a client go on if iss is neither promised nor sent (\"Authorization Response Validation\"). Only the server's operator can prevent the attack: `authcode.Check` says both"
	return []attack{
		{id: "mix-up", who: hostileServer, gains: gainsTokens, does: "its own issuer's page sends the browser on to the honest one's",
			play: deceit{lies: states, client: unpinned}.play},
		{id: "mix-up-straight", who: hostileServer, gains: gainsTokens, does: "its own issuer's document names the honest authorization endpoint and the attacker's token endpoint",
			play: deceit{lies: straight, client: unpinned}.play},
		{id: "mix-up-confidential", who: hostileServer, gains: gainsSecret, does: "its own issuer's page sends the browser of a client with a secret on to the honest one's",
			play: deceit{lies: states, client: both(unpinned, confidential)}.play},
		{id: "mix-up-pinned", who: hostileServer, gains: gainsTokens, does: "its own issuer's page waits for a client with a pin", play: deceit{lies: states}.play},
		{id: "mix-up-pinned-confidential", who: hostileServer, gains: gainsSecret, does: "its own issuer's page waits for a client with a pin and a secret", play: deceit{lies: states, client: confidential}.play},
		{id: "mix-up-pinned-without-iss", who: hostileServer, gains: gainsTokens, does: "its own issuer's page waits for a client with a pin, of an issuer that sends no iss", play: deceit{lies: states, listen: noIss}.play},
		{id: "mix-up-iss-promised", who: hostileServer, gains: gainsTokens, does: "its document promises iss, and the honest server sends none",
			play: deceit{lies: promises, client: unpinned, listen: noIss}.play},
		{id: "mix-up-without-iss", who: hostileServer, gains: gainsTokens, does: "the honest server neither promises iss nor sends it", stands: stands,
			play: deceit{lies: states, client: unpinned, listen: noIss}.play},
		{id: "iss-of-another", who: "a hostile page that answers in place of the honest server", gains: gainsTokens, does: "the answer of the pinned issuer names another issuer",
			play: honestLogin(func(w *deceived) { w.wrongIss = "https://evil.example" })},
		{id: "iss-with-slash", who: "a hostile page that answers in place of the honest server", gains: gainsTokens, does: "the answer names the issuer with a slash behind it",
			play: honestLogin(func(w *deceived) { w.wrongIss = w.issuer() + "/" })},
		{id: "iss-missing", who: "a hostile page that answers in place of the honest server", gains: gainsTokens, does: "the honest server promises iss, and the answer has none",
			play: honestLogin(func(w *deceived) { w.promised, w.noIss = true, true })},
	}
}

// honestLogin has somebody answer in place of the honest server, who gains a
// sign-in of their choice if the answer is taken.
func honestLogin(listen func(*deceived)) func(*testing.T) (bool, string) {
	return func(t *testing.T) (bool, string) {
		w := newDeceived(t, deceit{named: func(w *deceived) []string { return []string{w.issuer()} }})
		listen(w)
		err := w.victim().Login(t.Context(), nil)
		return err == nil, ended(err)
	}
}

// A series is a server that refuses every token and names one issuer after the
// other, each of which gives tokens without a question.
type series struct {
	issuers int  // how many there are; 0: a new one each time
	forbid  bool // refuse with 403 and a wish for more scopes
	dead    bool // their pages lead nowhere
}

// play makes calls, and counts the browsers that they open. before is done
// before each call, with the client that is used so far.
func (s series) play(calls, allowed int, before func(t *testing.T, n int, c *mcpclient.Client, again func() *mcpclient.Client) *mcpclient.Client) func(*testing.T) (bool, string) {
	return func(t *testing.T) (bool, string) {
		var named, opened atomic.Int32
		var srv *httptest.Server
		var mu sync.Mutex
		registered := 0
		srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			issuer := srv.URL + "/as/" + strings.TrimPrefix(path.Base(path.Dir(r.URL.Path)), "/")
			switch {
			case strings.HasPrefix(r.URL.Path, "/.well-known/oauth-protected-resource"):
				n := int(named.Add(1))
				if s.issuers > 0 {
					n %= s.issuers
				}
				replyWith(w, map[string]any{"resource": srv.URL + "/mcp", "authorization_servers": []string{srv.URL + "/as/" + strconv.Itoa(n)}})
			case strings.HasPrefix(r.URL.Path, wellKnown):
				at := srv.URL + strings.TrimPrefix(r.URL.Path, wellKnown)
				replyWith(w, map[string]any{"issuer": at, "authorization_endpoint": at + "/auth", "token_endpoint": at + "/token", "registration_endpoint": at + "/register",
					"code_challenge_methods_supported": []string{"S256"}})
			case strings.HasSuffix(r.URL.Path, "/register"):
				mu.Lock()
				registered++
				mu.Unlock()
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprintf(w, `{"client_id":"c","redirect_uris":["http://127.0.0.1/callback"],"token_endpoint_auth_method":"none"}`)
			case strings.HasSuffix(r.URL.Path, "/auth"):
				if s.dead && opened.Load() > 1 {
					return // a page to look at, for ever
				}
				back, _ := url.Parse(r.Form.Get("redirect_uri"))
				back.RawQuery = url.Values{"code": {"x"}, "state": {r.Form.Get("state")}, "iss": {issuer}}.Encode()
				http.Redirect(w, r, back.String(), http.StatusFound)
			case strings.HasSuffix(r.URL.Path, "/token"):
				replyWith(w, map[string]any{"access_token": "access-" + strconv.Itoa(int(named.Load())), "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r"})
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer resource_metadata=%q", srv.URL+"/.well-known/oauth-protected-resource/mcp"))
				status := http.StatusUnauthorized
				if s.forbid && r.Header.Get("Authorization") != "" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", scope="s%d"`, named.Load()))
					status = http.StatusForbidden
				}
				w.WriteHeader(status)
			}
		}))
		t.Cleanup(srv.Close)
		store := tokenstore.Store(&tokenstore.File{Dir: t.TempDir(), Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q")})
		again := func() *mcpclient.Client {
			c := &mcpclient.Client{
				Name: "Acme Notes", Server: srv.URL + "/mcp", Store: store, SignInTimeout: 5 * time.Second,
				OpenBrowser: func(_ context.Context, url string) error {
					opened.Add(1)
					resp, err := testenv.NewBrowser().Get(url)
					if err == nil {
						_ = resp.Body.Close()
					}
					return err
				},
			}
			if s.dead {
				c.SignInTimeout = 100 * time.Millisecond
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		c := again()
		asked := 0
		for n := range calls {
			if before != nil {
				next := before(t, n, c, again)
				if next == nil { // somebody has signed in
					asked++
				} else {
					c = next
				}
			}
			resp, err := c.HTTPClient().Get(srv.URL + "/data/" + strconv.Itoa(n))
			if err == nil {
				_ = resp.Body.Close()
			}
		}
		mu.Lock()
		defer mu.Unlock()
		seen := fmt.Sprintf("%d calls, %d browsers, %d registrations", calls, opened.Load(), registered)
		if asked > 0 {
			seen += fmt.Sprintf("; %d sign-ins were asked for", asked)
		}
		return int(opened.Load()) > allowed+asked || registered > allowed+asked, seen
	}
}

func newIssuerAttacks() []attack {
	// One browser is that of the first sign-in, one is for a server that moves.
	const allowed = 2
	restart := func(_ *testing.T, _ int, c *mcpclient.Client, again func() *mcpclient.Client) *mcpclient.Client {
		_ = c.Close()
		return again()
	}
	wait := func(d time.Duration) func(*testing.T, int, *mcpclient.Client, func() *mcpclient.Client) *mcpclient.Client {
		return func(t *testing.T, n int, c *mcpclient.Client, _ func() *mcpclient.Client) *mcpclient.Client {
			if n > 0 {
				t.Cleanup(clock.Advance(d))
			}
			return c
		}
	}
	both := func(t *testing.T, n int, c *mcpclient.Client, again func() *mcpclient.Client) *mcpclient.Client {
		return wait(2*time.Minute)(t, n, restart(t, n, c, again), again)
	}
	return []attack{
		{id: "new-issuers", who: hostileServer, gains: gainsScreen, does: "it refuses every token, and names another issuer each time",
			play: series{}.play(20, allowed, nil)},
		{id: "new-issuers-restart", who: hostileServer, gains: gainsScreen, does: "it refuses every token of a process that is started again before each call, and names another issuer each time",
			play: series{}.play(20, allowed, restart)},
		{id: "new-issuers-two", who: hostileServer, gains: gainsScreen, does: "it names two issuers by turns",
			play: series{issuers: 2}.play(20, allowed, nil)},
		{id: "new-issuers-two-restart", who: hostileServer, gains: gainsScreen, does: "it names two issuers by turns to a process that is started again before each call",
			play: series{issuers: 2}.play(20, allowed, restart)},
		{id: "new-issuers-slowly", who: hostileServer, gains: gainsScreen, does: "it names another issuer each time, and a call comes every half hour",
			play: series{}.play(20, allowed, wait(30*time.Minute))},
		{id: "new-issuers-dead", who: hostileServer, gains: gainsScreen, does: "it names another issuer each time, whose pages lead nowhere; a call comes every two minutes",
			play: series{dead: true}.play(20, allowed, wait(2*time.Minute))},
		{id: "new-issuers-dead-restart", who: hostileServer, gains: gainsScreen, does: "it names issuers whose pages lead nowhere to a process that is started again before each call",
			play: series{dead: true}.play(20, allowed, both)},
		{id: "new-issuers-scopes", who: hostileServer, gains: gainsScreen, does: "it asks for another scope each time, and names another issuer",
			play: series{forbid: true}.play(20, allowed, nil)},
		{id: "new-issuers-days", who: hostileServer, gains: gainsScreen, does: "it names another issuer each time; a call comes every eight hours, for three days",
			play: series{}.play(10, allowed+3, wait(8*time.Hour))},
		{id: "new-issuers-login", who: hostileServer, gains: gainsScreen, does: "it names another issuer each time; the victim signs in three times, and each sign-in allows one more page",
			play: series{}.play(20, allowed+3, func(t *testing.T, n int, c *mcpclient.Client, _ func() *mcpclient.Client) *mcpclient.Client {
				if n%6 != 5 {
					return c
				}
				if err := c.Login(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				return nil
			})},
	}
}
