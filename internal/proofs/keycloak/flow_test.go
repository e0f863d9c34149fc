package keycloak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// shortLife is that of the access tokens of clients that expire while a test waits.
const shortLife = 5 * time.Second

// A run is a client and what a test wants to see of it.
type run struct {
	*mcpclient.Client
	t     *testing.T
	k     *testenv.KeycloakServer
	store *tokenstore.Memory

	browsing sync.WaitGroup
	mu       sync.Mutex
	opened   []string // addresses of the pages that it begins at
}

// newRun returns a client of k's MCP server with an empty store. A test changes it before it uses it.
func newRun(t *testing.T, k *testenv.KeycloakServer, open func(context.Context, string) error) *run {
	t.Helper()
	r := &run{t: t, k: k, store: &tokenstore.Memory{}}
	r.Client = &mcpclient.Client{Name: "Acme Notes", Server: k.MCP.URL, Store: r.store, SignInTimeout: 20 * time.Second}
	r.OpenBrowser = func(ctx context.Context, address string) error {
		r.browsing.Add(1)
		defer r.browsing.Done()
		r.mu.Lock()
		r.opened = append(r.opened, address)
		r.mu.Unlock()
		err := open(ctx, address)
		if err != nil && ctx.Err() == nil {
			t.Logf("browser: %v", err)
		}
		return err
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		r.browsing.Wait() // a browser that speaks after the end of its test would be a panic
	})
	return r
}

func (r *run) browsers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.opened)
}

func (r *run) login() {
	r.t.Helper()
	if err := r.Login(r.t.Context(), nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) connect() *mcp.ClientSession {
	r.t.Helper()
	session, err := r.Connect(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { session.Close() })
	return session
}

// grant returns what is stored.
func (r *run) grant() *tokenstore.Grant {
	r.t.Helper()
	rec, err := r.store.Get(r.t.Context(), tokenstore.GrantKey(r.Server, r.Account))
	if err != nil {
		r.t.Fatal(err)
	}
	return rec.Grant
}

// expire makes the stored access token look expired, to this test's next client: Keycloak's
// clock cannot be moved, and what is asked of it is a refresh.
func (r *run) expire() {
	r.t.Helper()
	err := r.store.Update(r.t.Context(), tokenstore.GrantKey(r.Server, r.Account), func(ctx context.Context, l *tokenstore.Locked) error {
		rec, err := l.Get(ctx)
		if err != nil {
			return err
		}
		rec.Grant.ExpiresAt = time.Now().Add(-time.Minute)
		_, err = l.Save(ctx, rec)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// again returns a run of the next process on the same store, which may not open a browser.
func (r *run) again() *run {
	r.t.Helper()
	next := newRun(r.t, r.k, newBrowser("olivia").open)
	next.Server, next.Account, next.Name, next.Registration, next.Scopes, next.Issuer, next.Resource = r.Server, r.Account, r.Name, r.Registration, r.Scopes, r.Issuer, r.Resource
	next.store, next.Store, next.NonInteractive = r.store, r.store, true
	return next
}

func whoami(t *testing.T, session *mcp.ClientSession) string {
	t.Helper()
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(tools.Tools) != 1 || tools.Tools[0].Name != "whoami" {
		t.Fatalf("tools: %v", tools.Tools)
	}
	result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	return result.Content[0].(*mcp.TextContent).Text
}

// refreshStatus sends a refresh token on its own.
func refreshStatus(t *testing.T, g *tokenstore.Grant) (int, string) {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.RefreshToken.Reveal()}, "client_id": {g.ClientID}}
	if !g.ClientSecret.IsZero() {
		form.Set("client_secret", g.ClientSecret.Reveal())
	}
	status, answer := post(t, g.TokenEndpoint, form)
	description, _ := answer["error_description"].(string)
	return status, description
}

// shorten has a client's access tokens live for shortLife.
func shorten(a *admin, clientID string) {
	a.t.Helper()
	path := a.client(clientID)
	var client object
	a.do("GET", path, nil, &client)
	client["attributes"].(object)["access.token.lifespan"] = "5"
	a.do("PUT", path, client, nil)
}

// lifeOf returns how long an access token of Keycloak lives by its own claims.
func lifeOf(t *testing.T, token tokenstore.Secret) time.Duration {
	t.Helper()
	var claims struct{ IAT, EXP int64 }
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		t.Fatal("the access token is no JWT")
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(claims.EXP-claims.IAT) * time.Second
}

// TestLibrary goes all the way with the library, through Keycloak's pages in Chromium.
func TestLibrary(t *testing.T) {
	k := testenv.Keycloak(t, "")
	tab := testenv.Chromium(t)
	for _, c := range []struct {
		name         string
		registration mcpclient.Registration
	}{
		{"dynamic registration", mcpclient.Registration{}},
		{"pre-registered app with a secret", mcpclient.Registration{ClientID: "astravue-app", ClientSecret: tokenstore.NewSecret("acme-reports-secret")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := asAdmin(t, k)
			a.forget("olivia")
			r := newRun(t, k, func(ctx context.Context, page string) error {
				if c.registration.ClientID == "" {
					address, err := testenv.Begin(ctx, testenv.NewBrowser(), page)
					if err != nil {
						return err
					}
					u, _ := url.Parse(address)
					shorten(a, u.Query().Get("client_id"))
				}
				return chromium(t, tab, page, "olivia", true)
			})
			r.Registration, r.SignInTimeout = c.registration, time.Minute
			var said []time.Duration // expires_in
			r.Transport = testenv.RoundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil || !strings.HasSuffix(req.URL.Path, "/token") {
					return resp, err
				}
				defer resp.Body.Close()
				data, err := io.ReadAll(resp.Body)
				resp.Body = io.NopCloser(bytes.NewReader(data))
				var answer struct {
					Seconds int64 `json:"expires_in"`
				}
				_ = json.Unmarshal(data, &answer)
				said = append(said, time.Duration(answer.Seconds)*time.Second)
				return resp, err
			})
			session := r.connect()
			who := whoami(t, session)
			first := r.grant()
			if st, err := r.Status(t.Context()); err != nil || st.Issuer != k.Issuer || !st.Refreshable || st.Resource != k.MCP.URL {
				t.Errorf("status: %+v, %v", st, err)
			}
			// Keycloak counts whole seconds, and reads its clock anew for iat, exp and expires_in: a second
			// may end between two of them.
			if life := lifeOf(t, first.AccessToken); life != shortLife && life != shortLife+time.Second {
				t.Fatalf("the access token lives %s", life)
			}
			if life := first.ExpiresAt.Sub(first.ObtainedAt); life != said[0] {
				t.Errorf("the access token is taken to live %s, the server says %s", life, said[0])
			}

			time.Sleep(time.Until(first.ExpiresAt) + 500*time.Millisecond)
			if again := whoami(t, session); again != who {
				t.Errorf("the token speaks for %q, then for %q", who, again)
			}
			second := r.grant()
			if second.RefreshToken.Equal(first.RefreshToken) || second.AccessToken.Equal(first.AccessToken) {
				t.Error("nothing was rotated")
			}
			if r.browsers() != 1 {
				t.Errorf("%d browsers were opened", r.browsers())
			}

			session.Close()
			res, err := r.Logout(t.Context())
			if err != nil || res.Revocation != mcpclient.Revoked {
				t.Errorf("logout: %+v, %v", res, err)
			}
			if status, description := refreshStatus(t, second); status != http.StatusBadRequest {
				t.Errorf("after the logout a refresh is answered %d %q", status, description)
			}
			if st, err := r.Status(t.Context()); err != nil || st.SignedIn {
				t.Errorf("status after the logout: %+v, %v", st, err)
			}
		})
	}
}

var command struct {
	once      sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if command.dir != "" {
		os.RemoveAll(command.dir)
	}
	os.Exit(code)
}

// astravue is the built command.
func astravue(t *testing.T) string {
	t.Helper()
	command.once.Do(func() {
		if command.dir, command.err = os.MkdirTemp("", "keycloak-command"); command.err != nil {
			return
		}
		command.path = filepath.Join(command.dir, "astravue-mcp")
		if runtime.GOOS == "windows" {
			command.path += ".exe"
		}
		out, err := exec.Command("go", "build", "-o", command.path, "../../../cmd/astravue-mcp").CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
			command.err = err
		}
	})
	if command.err != nil {
		t.Fatal(command.err)
	}
	return command.path
}

// A terminal runs the command with a file store of its own.
type terminal struct {
	t      *testing.T
	server string
	env    []string
}

func newTerminal(t *testing.T, server string) *terminal {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	file := filepath.Join(home, "identity")
	if err := os.WriteFile(file, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &terminal{t, server, append(os.Environ(),
		"HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_RUNTIME_DIR="+home, "BROWSER=",
		"ASTRAVUE_MCP_STORE=file", "ASTRAVUE_MCP_IDENTITY_FILE="+file, "ASTRAVUE_MCP_SERVER="+server)}
}

// A result is how a run of the command ended.
type result struct {
	status         int
	stdout, stderr string
	object         object // of stdout, or of stderr's last line
}

// hint is what a failed command tells people to do.
func (r result) hint() (code, hint string) {
	e, _ := r.object["error"].(object)
	code, _ = e["code"].(string)
	hint, _ = e["hint"].(string)
	return code, hint
}

// run runs the command. open gets the authorization URL, if it prints one.
func (term *terminal) run(open func(address string), args ...string) result {
	t := term.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, astravue(t), append(args, "--output", "json")...)
	cmd.Env = term.env
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	last := ""
	for lines := bufio.NewScanner(io.TeeReader(stderr, &printed)); lines.Scan(); {
		last = lines.Text()
		var line struct {
			URL string `json:"authorization_url"`
		}
		if json.Unmarshal([]byte(last), &line) == nil && line.URL != "" && open != nil {
			open(line.URL)
		}
	}
	cmd.Wait()
	r := result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: printed.String()}
	if r.status == 0 {
		last = r.stdout
	}
	json.Unmarshal([]byte(last), &r.object)
	return r
}

// must is run for a command that has to succeed.
func (term *terminal) must(open func(address string), args ...string) result {
	term.t.Helper()
	r := term.run(open, args...)
	if r.status != 0 {
		term.t.Fatalf("%q ended with %d:\n%s%s", args, r.status, r.stdout, r.stderr)
	}
	return r
}

// TestCommand goes the same way with the command, each step a process.
func TestCommand(t *testing.T) {
	k := testenv.Keycloak(t, "")
	tab := testenv.Chromium(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("acme-reports-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		flags []string
	}{
		{"dynamic registration", nil},
		{"pre-registered app with a secret", []string{"--client-id", "astravue-app", "--client-secret-file", secret}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := asAdmin(t, k)
			a.forget("olivia")
			term := newTerminal(t, k.MCP.URL)
			term.must(func(address string) {
				if c.flags == nil {
					u, _ := url.Parse(address)
					shorten(a, u.Query().Get("client_id"))
				}
				if err := chromium(t, tab, address, "olivia", true); err != nil {
					t.Error(err)
				}
			}, append([]string{"login", "--no-browser"}, c.flags...)...)

			before, _ := k.MCP.Tokens()
			term.must(nil, "tools")
			term.must(nil, "call", "whoami")
			time.Sleep(shortLife + 1500*time.Millisecond) // see TestLibrary: it may live a second longer
			term.must(nil, "call", "whoami")
			if after, _ := k.MCP.Tokens(); after-before != 2 {
				t.Errorf("%d tokens were used, want the first and a refreshed one", after-before)
			}
			if out := term.must(nil, "logout").object; out["revocation"] != "revoked" {
				t.Errorf("logout: %v", out)
			}
			if r := term.run(nil, "call", "whoami"); r.status != 3 {
				t.Errorf("after the logout a call ends with %d: %s", r.status, r.stderr)
			}
			if r := term.run(nil, "status"); r.status != 3 {
				t.Errorf("after the logout status ends with %d: %s", r.status, r.stderr)
			}
		})
	}
}
