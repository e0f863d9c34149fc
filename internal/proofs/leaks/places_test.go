package leaks

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

// onwards finds where a page sends a browser.
var onwards = regexp.MustCompile(`<meta http-equiv="refresh" content="0; url=([^"]*)">`)

// The web application: its pages, its cookies and its log.
func TestWebapp(t *testing.T) {
	e := newEnv(t, "code", "code_verifier", "state", "access_token", "refresh_token", "cookie key")
	m := newMachine(t, e, "../../../examples/webapp", "build")
	stop := e.watch()
	defer stop()
	key := rand.Text() + rand.Text()
	e.Add("cookie key", key)
	app := m.command("webapp", "-listen", "127.0.0.1:0", "-key-file", m.give("key", key))
	var log testenv.Buffer
	app.Stderr = &log
	out, err := app.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	address := strings.TrimSpace(strings.TrimPrefix(line, "Open "))
	if err != nil {
		t.Fatalf("webapp says %q: %v", line, err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	pages := 0
	// visit returns where the page leads to, if anywhere.
	visit := func(method, page string) (next string) {
		t.Helper()
		req, err := http.NewRequest(method, page, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := httputil.DumpResponse(resp, true)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(page, address) {
			pages++
			e.show(fmt.Sprintf("webapp's page %d at %s", resp.StatusCode, req.URL.Path), authorization.ReplaceAllString(string(text), ""))
		}
		if onward := onwards.FindSubmatch(text); onward != nil {
			return html.UnescapeString(string(onward[1]))
		}
		return resp.Header.Get("Location")
	}
	signIn := func() { // and what comes before and after
		visit("GET", address)
		back := visit("GET", visit("POST", address+"/login"))
		visit("GET", strings.Replace(back, "state=", "state=other", 1))
		visit("GET", back)
		visit("GET", back)
		visit("GET", address)
	}
	signIn()
	_ = e.srv.ExpireAccess("olivia")
	visit("GET", address)
	for step, f := range map[sandbox.Step]sandbox.Fault{
		sandbox.StepAuthorize: {Set: map[string]any{"error": "access_denied", "code": nil}},
		sandbox.StepExchange:  {CarryOut: true, Drop: true},
		sandbox.StepMCP:       {Status: 500, Body: "oops"},
	} {
		undo := e.srv.Fail(step, f)
		signIn()
		undo()
	}
	signIn()
	visit("POST", address+"/logout")
	if err := app.Process.Signal(os.Interrupt); err != nil {
		testenv.Need(t, "interrupts", false, err.Error())
	}
	if err := app.Wait(); err != nil {
		t.Errorf("webapp: %v\n%s", err, log.String())
	}
	e.show("webapp's log", log.String())
	e.files(m.dir)
	if pages < 20 || log.String() == "" {
		t.Errorf("%d pages, and a log of %d bytes", pages, len(log.String()))
	}
}

// The database: its tables, and what its server writes down of every statement.
func TestPostgres(t *testing.T) {
	dsn := testenv.Postgres(t)
	e := newEnv(t, "code", "code_verifier", "access_token", "refresh_token", "registration_access_token", "sealing key")
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	query := func(sql string) (rows []string) {
		t.Helper()
		r, err := pool.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for r.Next() {
			values, err := r.Values()
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, fmt.Sprint(values...))
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		return rows
	}
	query(`do $$ begin execute 'alter database ' || current_database() || ' set log_statement = ''all'''; end $$`)
	pool.Reset()
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	key := rand.Text() + rand.Text()
	e.Add("sealing key", key[:postgres.KeySize])
	store := &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{tokenstore.NewSecret(key[:postgres.KeySize])}}
	newClient := func() *mcpclient.Client { return e.newClient(store) }
	query(`create table planted as select '` + planted + `'::bytea as sealed`)
	tables := func() {
		n := 0
		for _, table := range query(`select table_schema || '.' || table_name from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema')`) {
			rows := query(`select t::text from ` + table + ` t`)
			e.show("table "+table, strings.Join(rows, "\n"))
			for _, row := range query(`select sealed from ` + table) { // as numbers
				e.show("the bytes of "+table, row)
				n++
			}
		}
		if n < 3 {
			t.Errorf("%d rows", n)
		}
	}
	undo := e.srv.Fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true, Times: 1})
	e.live("with a lost answer", newClient, tables)
	undo()
	e.live("", newClient, tables)
	e.print("Store", store)
	e.show("what the server knows", strings.Join(query(`select a::text from pg_stat_activity a`), "\n"))
	log := strings.Join(query(`select pg_read_file(current_setting('data_directory') || '/../log')`), "\n")
	e.show("the server's log", log)
	e.wantPlanted("table public.planted", "the bytes of public.planted", "the server's log")
	if !strings.Contains(log, "insert into astravue_mcp_tokens") {
		t.Error("the server's log has no statements")
	}
}

// The keychain: what it shows of its items to everybody, and what other processes
// see of who asks it.
func TestKeychain(t *testing.T) {
	testenv.SecretService(t)
	e := newEnv(t, "code", "code_verifier", "access_token", "refresh_token")
	stop := e.watch()
	defer stop()
	store := &tokenstore.Keychain{Service: planted + rand.Text(), LockDir: t.TempDir()}
	e.live("with the keychain", func() *mcpclient.Client { return e.newClient(store) }, func() {
		bus, err := dbus.ConnectSessionBus()
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		const service = "org.freedesktop.secrets"
		items := testenv.SecretItems(t, bus, map[string]string{"service": store.Service})
		for _, item := range items {
			var shown map[string]dbus.Variant
			if err := bus.Object(service, item).Call("org.freedesktop.DBus.Properties.GetAll", 0, "org.freedesktop.Secret.Item").Store(&shown); err != nil {
				t.Fatal(err)
			}
			e.show("an item of the keychain", fmt.Sprint(item, shown))
		}
		if len(items) < 3 {
			t.Errorf("%d items", len(items))
		}
	})
	e.print("Keychain", store)
	e.wantPlanted("an item of the keychain")
	if e.files(store.LockDir) == 0 {
		t.Error("no lock files")
	}
}

// planted is no secret, and is found where it was put: that is how the places
// are proved to be looked at.
const planted = "planted-0123456789abcdef0123456789abcdef0123456789abcdef"

// wantPlanted fails the test unless planted was shown at each of these places.
func (e *env) wantPlanted(places ...string) {
	e.t.Helper()
	var s testenv.Secrets
	s.Add("planted", planted)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, place := range places {
		if !slices.ContainsFunc(e.shown, func(at output) bool {
			return strings.Contains(at.where, place) && len(s.Find(at.text)) > 0
		}) {
			e.t.Errorf("what was planted is not found: %s", place)
		}
	}
}

// A sweep that cannot fail proves nothing: in each kind of place that is swept
// above, a secret that is put there is found.
func TestThatASecretIsFound(t *testing.T) {
	for place, plant := range map[string]func(t *testing.T, e *env){
		"stdout": func(t *testing.T, e *env) { e.show("stdout", "before "+planted[:20]+planted[20:]) },
		"a log":  func(t *testing.T, e *env) { e.log().Debug("x", "v", slog.GroupValue(slog.String("y", planted))) },
		"an error": func(t *testing.T, e *env) {
			e.print("error", fmt.Errorf("outer: %w", errors.Join(&mcpclient.StepError{Err: errors.New(planted)})))
		},
		"a field": func(t *testing.T, e *env) {
			e.print("field", &mcpclient.Discovered{Configuration: nil})
			e.print("field", struct{ s string }{planted})
		},
		"a pointer": func(t *testing.T, e *env) { e.print("pointer", &tokenstore.Grant{ClientID: planted}) },
		"bytes":     func(t *testing.T, e *env) { e.print("bytes", struct{ b []byte }{[]byte(planted)}) },
		"JSON": func(t *testing.T, e *env) {
			data, err := json.Marshal(map[string]string{"x": planted})
			if err != nil {
				t.Fatal(err)
			}
			e.show("JSON", string(data))
		},
		"a page": func(t *testing.T, e *env) { e.show("page", "<p>"+url.QueryEscape(planted)) },
		"the name of a file": func(t *testing.T, e *env) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, planted), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			e.files(dir)
		},
		"a file deep down": func(t *testing.T, e *env) {
			dir := t.TempDir()
			deep := filepath.Join(dir, "a", "b")
			if err := os.MkdirAll(deep, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(deep, ".x"), []byte("\x00"+base64.StdEncoding.EncodeToString([]byte("x"+planted))), 0o600); err != nil {
				t.Fatal(err)
			}
			e.files(dir)
		},
		"arguments":   func(t *testing.T, e *env) { watched(t, e, planted, nil) },
		"environment": func(t *testing.T, e *env) { watched(t, e, "", []string{"X=" + planted}) },
	} {
		t.Run(place, func(t *testing.T) {
			if strings.HasPrefix(place, "arg") || place == "environment" {
				_, err := os.Stat("/proc/self/environ")
				testenv.Need(t, "/proc", err == nil, fmt.Sprint(err))
				_, err = exec.LookPath("sh")
				testenv.Need(t, "a shell", err == nil, fmt.Sprint(err))
			}
			e := new(env)
			t.Run("", func(t *testing.T) { e.t = t; plant(t, e) }) // what is shown in its end is then shown
			e.t = t
			e.wantPlanted("")
		})
	}
}

// watched starts a process below another, and watches until it has been there.
func watched(t *testing.T, e *env, argument string, env []string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `sh -c 'read _' "$0"; :`, argument)
	cmd.Env = append(os.Environ(), env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := e.watch()
	var p testenv.Secrets
	p.Add("planted", planted)
	for seen := false; !seen && t.Context().Err() == nil; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		seen = slices.ContainsFunc(e.shown, func(at output) bool { return len(p.Find(at.text)) > 0 })
		e.mu.Unlock()
	}
	stop()
	_ = in.Close()
	_ = cmd.Wait()
}
