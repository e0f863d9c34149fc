package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/sandbox"
)

// TestCodes holds the list in the help to what explain returns.
func TestCodes(t *testing.T) {
	source, err := os.ReadFile("ui.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := strings.FieldsFunc(codes, func(r rune) bool { return strings.ContainsRune(", \n", r) })
	var returned []string
	for _, m := range regexp.MustCompile(`return "(\w+)", exit`).FindAllSubmatch(source, -1) {
		returned = append(returned, string(m[1]))
	}
	slices.Sort(documented)
	slices.Sort(returned)
	if returned = slices.Compact(returned); !slices.Equal(documented, returned) {
		t.Errorf("documented codes:\n%q\nreturned:\n%q", documented, returned)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 900 * time.Millisecond: "1s", 59 * time.Second: "59s", time.Minute: "1m", 90 * time.Second: "2m", 29*time.Minute + 59*time.Second: "30m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 24*time.Hour - time.Second: "24h", 10 * time.Minute: "10m", 20 * time.Second: "20s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s, want %s", d, got, want)
		}
	}
}

// TestSandboxCommand reads what the command prints while it runs.
func TestSandboxCommand(t *testing.T) {
	for _, args := range [][]string{{"-o", "json"}, {"--auto-approve", "--issuer-host", "api", "--access-ttl", "5m", "--refresh-ttl", "1h", "-o", "json"}} {
		ctx, interrupt := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan int, 1)
		var stderr bytes.Buffer
		go func() {
			ended <- run(ctx, append([]string{"sandbox"}, args...), strings.NewReader(""), w, &stderr)
			_ = w.Close()
		}()
		var got any
		if err := json.NewDecoder(r).Decode(&got); err != nil {
			t.Fatal(err)
		}
		help := new(bytes.Buffer)
		run(ctx, []string{"sandbox", "--help"}, strings.NewReader(""), help, io.Discard)
		want, err := documentIn(help.String())
		if err == nil {
			err = like(got, want, true, "sandbox")
		}
		if err != nil {
			t.Error(err)
		}
		server := got.(map[string]any)["server"].(string)
		if code := run(ctx, []string{"discover", server}, strings.NewReader(""), io.Discard, io.Discard); code != exitOK {
			t.Errorf("discover of the sandbox: exit status %d", code)
		}
		interrupt()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if code := <-ended; code != exitOK || stderr.Len() > 0 {
			t.Errorf("exit status %d, stderr %q", code, &stderr)
		}
	}
}

// Secrets collects what must not be seen, off the wire.
type secrets struct {
	mu   sync.Mutex
	seen map[string]string // the secret to what it is
}

var (
	secretMembers = []string{"code", "code_verifier", "state", "access_token", "refresh_token", "id_token", "client_secret", "registration_access_token", "token", "password"}
)

func (s *secrets) add(what, value string) {
	if len(value) < 8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[string]string)
	}
	if s.seen[value] == "" {
		s.seen[value] = what
	}
}

func (s *secrets) form(v url.Values) {
	for _, name := range secretMembers {
		for _, value := range v[name] {
			s.add(name, value)
		}
	}
}

// watch notes the secrets of a request and its answer, whose bodies it is given.
func (s *secrets) watch(req *http.Request, sent []byte, resp *http.Response, received []byte) {
	s.form(req.URL.Query())
	if v, err := url.ParseQuery(string(sent)); err == nil {
		s.form(v)
	}
	if _, token, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
		s.add("Authorization", token)
	}
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil {
		s.form(u.Query())
	}
	var doc map[string]any
	if json.Unmarshal(received, &doc) == nil {
		for _, name := range secretMembers {
			if text, ok := doc[name].(string); ok {
				s.add(name, text)
			}
		}
	}
}

// sweep looks for the secrets in what was shown. The authorization URL has to
// hold the state.
func (s *secrets) sweep(t *testing.T, where, text string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for value, what := range s.seen {
		if what == "state" {
			text = strings.ReplaceAll(text, "state="+value, "")
		}
	}
	for value, what := range s.seen {
		if strings.Contains(text, value) || strings.Contains(text, url.QueryEscape(value)) {
			t.Errorf("%s shows a secret, %s", where, what)
		}
	}
}

// want fails unless a secret of each kind was seen: the sweep would be for nothing.
func (s *secrets) want(t *testing.T, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		found := false
		for _, what := range s.seen {
			found = found || what == kind
		}
		if !found {
			t.Errorf("no %s was seen on the wire", kind)
		}
	}
}

// listen is a transport that notes secrets.
type listen struct {
	*secrets
	base http.RoundTripper
}

func (l listen) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		sent, _ = io.ReadAll(req.Body)
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := l.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	received, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(received))
	l.watch(req, sent, resp, received)
	return resp, err
}

// TestDemoShowsNoSecret listens to every exchange of the demonstration.
func TestDemoShowsNoSecret(t *testing.T) {
	base := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = base })
	for _, output := range []string{"text", "json"} {
		s := &secrets{}
		http.DefaultTransport = listen{s, base}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"demo", "--verbose", "-o", output}, strings.NewReader(""), &stdout, &stderr); code != exitOK {
			t.Fatalf("exit status %d: %s", code, &stderr)
		}
		s.want(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token", "password")
		s.sweep(t, "stdout", stdout.String())
		s.sweep(t, "stderr", stderr.String())
	}
}

// behind puts a sandbox behind two proxies that note secrets. Whoever comes
// through them sees their addresses and not those of the sandbox.
func behind(t *testing.T, srv *sandbox.Server, s *secrets) (server string) {
	var proxies [2]*httptest.Server
	real := []string{srv.APIURL(), srv.AuthURL()}
	translate := func(text string, out bool) string {
		for i, p := range proxies {
			from, to := strings.TrimPrefix(real[i], "http://"), strings.TrimPrefix(p.URL, "http://")
			if out {
				from, to = to, from
			}
			text = strings.ReplaceAll(text, from, to)
			text = strings.ReplaceAll(text, url.QueryEscape(from), url.QueryEscape(to))
		}
		return text
	}
	for i := range proxies {
		proxies[i] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			req, err := http.NewRequestWithContext(r.Context(), r.Method, real[i]+translate(r.URL.RequestURI(), true), strings.NewReader(translate(string(body), true)))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header = r.Header.Clone()
			req.Header.Del("Accept-Encoding")
			resp, err := listen{s, &http.Transport{DisableKeepAlives: true}}.RoundTrip(req)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			answer, _ := io.ReadAll(resp.Body)
			answer = []byte(translate(string(answer), false))
			for name, values := range resp.Header {
				for _, v := range values {
					w.Header().Add(name, translate(v, false))
				}
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			w.WriteHeader(resp.StatusCode)
			_, _ = w.Write(answer)
		}))
		t.Cleanup(proxies[i].Close)
	}
	return translate(srv.URL(), false)
}

// A shared buffer is written to by the command and by the browser.
type shared struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// TestSecrets runs through everything, faults included, and looks for what was
// on the wire, or is known beforehand, in all that the command leaves behind.
func TestSecrets(t *testing.T) {
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	s := &secrets{}
	home := t.TempDir()
	store := filepath.Join(home, "store")
	write := func(name, text string) string {
		name = filepath.Join(home, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("HOME", store)
	t.Setenv("XDG_CONFIG_HOME", store)
	t.Setenv("AppData", store)
	t.Setenv("ASTRAVUE_MCP_STORE", "file")
	t.Setenv("ASTRAVUE_MCP_SERVER", behind(t, srv, s))
	const passphrase, wrong = "correct horse battery staple", "the-wrong-client-secret"
	s.add("passphrase", passphrase)
	s.add("client_secret", wrong)
	client, clientSecret := srv.App()
	s.add("client_secret", clientSecret)
	app := []string{"--client-id", client, "--client-secret-file"}

	signInLimit := (slow * 10 * time.Second).String()
	var shown []string
	do := func(status int, browser string, args ...string) {
		t.Helper()
		t.Setenv("BROWSER", "browser "+browser)
		for _, output := range []string{"text", "json"} {
			var stdout, stderr shared
			line := append(slices.Clone(args), "--verbose", "--timeout", signInLimit, "-o", output)
			if got := run(t.Context(), line, strings.NewReader(""), &stdout, &stderr); got != status {
				t.Errorf("%q: exit status %d, want %d:\n%s%s", line, got, status, &stdout, &stderr)
			}
			shown = append(shown, strings.Join(line, " ")+"\n"+stdout.String()+stderr.String())
		}
	}
	fail := func(step sandbox.Step, f sandbox.Fault, act func()) {
		undo := srv.Fail(step, f)
		act()
		undo()
	}
	advance := func(d time.Duration) {
		srv.Advance(d)
		t.Cleanup(clock.Advance(d))
	}

	t.Setenv("XDG_CONFIG_HOME", filepath.Join(store, "passphrase"))
	t.Setenv("ASTRAVUE_MCP_PASSPHRASE_FILE", write("passphrase", passphrase))
	do(exitOK, "approve olivia", "login")
	t.Setenv("ASTRAVUE_MCP_PASSPHRASE_FILE", write("other", passphrase+"r"))
	do(exitFailure, "", "status")

	identity := write("identity", "")
	if err := writeIdentity(identity); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CONFIG_HOME", store)
	t.Setenv("ASTRAVUE_MCP_IDENTITY_FILE", identity)
	do(exitOK, "approve olivia", "login")
	do(exitOK, "", "status")
	do(exitOK, "", "tools", "list_spaces")
	do(exitOK, "", "call", "list_spaces")
	do(exitTool, "", "call", "create_project_task", "project_id=nowhere", "title=x")
	do(exitOK, "attack olivia", "login", "--account", "attacked")
	do(exitFailure, "deny mia", "login", "--account", "denied")
	do(exitOK, "approve olivia", append([]string{"login", "--account", "app"}, append(app, write("secret", clientSecret))...)...)
	do(exitFailure, "approve olivia", append([]string{"login", "--account", "app"}, append(app, write("wrong", wrong))...)...)
	fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Status: 400, Body: `{"error":"invalid_grant"}`}, func() { do(exitFailure, "approve olivia", "login", "--account", "x") })
	fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"token_type": "mac"}}, func() { do(exitFailure, "approve olivia", "login", "--account", "x") })
	fail(sandbox.StepExchange, sandbox.Fault{Cut: 200, Drop: true}, func() { do(exitFailure, "approve olivia", "login", "--account", "x") })
	fail(sandbox.StepRegister, sandbox.Fault{Set: map[string]any{"client_id": 7}}, func() {
		do(exitFailure, "approve olivia", "login", "--redirect-url", "http://127.0.0.1/x")
	})
	fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"iss": "https://other.example"}}, func() { do(exitFailure, "approve olivia", "login", "--account", "x") })
	fail(sandbox.StepMCP, sandbox.Fault{Status: 500, Body: "oops"}, func() { do(exitFailure, "", "tools") })
	advance(31 * time.Minute)
	do(exitOK, "", "call", "list_spaces")
	do(exitOK, "", "call", "list_spaces", "--account", "app")
	advance(31 * time.Minute)
	fail(sandbox.StepRefresh, sandbox.Fault{Status: 503}, func() { do(exitFailure, "", "tools") })
	fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true}, func() { do(exitFailure, "", "tools", "--account", "attacked") })
	advance(31 * time.Minute)
	do(exitLogin, "", "tools", "--account", "attacked")
	files := 0
	err = filepath.WalkDir(store, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		files++
		s.sweep(t, "file "+d.Name(), name+string(data))
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d stored files, %v", files, err)
	}
	do(exitUsage, "", "logout", "--server", "https://me:"+wrong+"@mcp.example/mcp")

	s.want(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token", "client_secret", "password")
	for _, text := range shown {
		line, _, _ := strings.Cut(text, "\n")
		s.sweep(t, line, strings.TrimPrefix(text, line))
	}
}
