// Package leaks looks for secrets in all that the library, the command and the
// web application show or leave behind: what they print and log, errors in every
// verb, pages, the arguments and the environment of processes, files, the
// keychain and the database. What the secrets are is known here, or is taken off
// the wire before the server; see [testenv.Secrets]. That a Secret itself shows
// nothing is proved where it is.
package leaks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// TestMain makes this binary the browser that the command opens, too. The browser is no child of
// testenv: the command starts it, with an address as its argument.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "browser" {
		if err := browse(context.Background(), os.Args[len(os.Args)-1], func(_, page string) { fmt.Println(page) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testenv.SideBySide(6)
	os.Exit(m.Run())
}

// An env is a server behind proxies that take down secrets, and all that was
// shown there, which is swept when the test ends: then all secrets are known.
type env struct {
	testenv.Secrets
	t      testing.TB
	srv    *sandbox.Server
	server string // its address behind the proxies

	mu    sync.Mutex
	shown []output
}

// An output is a text that a program, a call or a place has shown.
type output struct{ where, text string }

// newEnv starts an env whose users approve of everything at once. In its end
// there must have been a secret of each of these kinds.
func newEnv(t testing.TB, kinds ...string) *env {
	t.Helper()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, srv: srv}
	t.Cleanup(func() {
		e.Want(t, kinds...)
		if len(e.shown) == 0 {
			t.Error("nothing was shown")
		}
		for _, s := range e.shown {
			e.Sweep(t, s.where, s.text)
		}
	})
	t.Cleanup(func() { _ = srv.Close() })
	_, secret := srv.App()
	e.Add("client_secret", secret)
	e.server = e.Before(t, srv.APIURL(), srv.AuthURL())(srv.URL())
	return e
}

func (e *env) show(where, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shown = append(e.shown, output{where, text})
}

// authorization is the one address that may hold state: on the command's
// standard error, in the arguments of what opens it, and in what sends a browser to it.
var authorization = regexp.MustCompile(`https?://[^\s"]*/auth\?[^\s"]*`)

// print shows a value in each of the ways in which a program might.
func (e *env) print(where string, v any) {
	e.t.Helper()
	all := []any{v, &v, []any{v}, map[string]any{"v": v}, struct{ V any }{v}, struct{ v any }{v}}
	if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && !p.IsNil() {
		all = append(all, p.Elem())
	}
	var text bytes.Buffer
	for _, v := range all {
		for _, verb := range []string{"v", "+v", "#v", "T", "s", "q", "+q", "#q", "x", "X", "# x", "d", "b", "o", "c", "U", "e", "g", "t", "p"} {
			fmt.Fprintf(&text, "%"+verb+"\n", v)
		}
		if data, err := json.Marshal(v); err == nil {
			text.Write(data)
		}
		debug := &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&text, debug), slog.NewJSONHandler(&text, debug)} {
			slog.New(handler).With("before", v).Debug("shown", "v", v, slog.Group("g", "v", v))
		}
	}
	e.show(where, text.String())
	switch err := v.(type) {
	case interface{ Unwrap() error }:
		if inner := err.Unwrap(); inner != nil {
			e.print(where, inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range err.Unwrap() {
			e.print(where, inner)
		}
	}
}

// log returns a logger of everything, whose text is swept in the end.
func (e *env) log() *slog.Logger {
	var n testenv.Buffer
	e.t.Cleanup(func() { e.show("the log", n.String()) }) // runs before the sweep
	return slog.New(slog.NewJSONHandler(&n, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// browse goes from the page to begin at as a browser does whose user approves, and
// spoils the callback first, in every way that has a page of its own.
func browse(ctx context.Context, address string, show func(where, page string)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	browser := testenv.NewBrowser()
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	get := func(method, address string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return nil, err
		}
		return browser.Do(req)
	}
	address, err := testenv.Begin(ctx, browser, address)
	if err != nil {
		return err
	}
	resp, err := get("GET", address)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		return fmt.Errorf("%s, and no redirect: %w", resp.Status, err)
	}
	answer := back.String()
	code := back.Query().Get("code")
	for _, visit := range []struct{ method, address string }{
		{"GET", strings.Replace(answer, "state=", "state=other", 1)},
		{"GET", answer + "&state=other"},
		{"GET", strings.Replace(answer, "/callback", "/other", 1)},
		{"GET", strings.Replace(answer, "state=", "none=", 1)},
		{"POST", answer}, {"HEAD", answer},
		{"GET", answer},
		{"GET", answer}, // once more, if somebody is still there
	} {
		if code == "" && visit.address != answer {
			continue
		}
		resp, err := get(visit.method, visit.address)
		if err != nil {
			continue
		}
		page, err := httputil.DumpResponse(resp, true)
		_ = resp.Body.Close()
		if err == nil {
			show(fmt.Sprintf("the callback's page %d", resp.StatusCode), string(page))
		}
	}
	return nil
}

// files shows what is below a folder, by name and content.
func (e *env) files(dir string) (n int) {
	e.t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		e.show("file "+d.Name(), path+"\n"+string(data))
		n++
		return err
	}); err != nil {
		e.t.Error(err)
	}
	return n
}
