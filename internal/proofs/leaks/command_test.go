package leaks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// A house is where programs run that have nothing else: folders, a browser, and
// an environment that names them.
type house struct {
	*env
	dir   string // all that they may write to
	given string // what they are given to read
	bin   string
	vars  []string
	moved time.Duration
}

// newHouse builds the program in pkg for it by the go command with arguments.
func newHouse(t testing.TB, e *env, pkg string, build ...string) *house {
	t.Helper()
	h := &house{env: e, dir: t.TempDir(), given: t.TempDir(), bin: t.TempDir()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(h.bin, "browser")); err != nil {
		testenv.Need(t, "symbolic links", false, err.Error())
	}
	if out, err := exec.Command("go", append(build, "-o", filepath.Join(h.bin, "program"), pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink("program", filepath.Join(h.bin, filepath.Base(pkg))); err != nil {
		t.Fatal(err)
	}
	h.set("PATH", h.bin)
	h.set("BROWSER", "browser")
	h.set("ASTRAVUE_MCP_SERVER", e.server)
	h.set("GORACE", "atexit_sleep_ms=0") // of the browser
	for _, name := range []string{"HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "AppData", "LocalAppData"} {
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		h.set(name, dir)
	}
	return h
}

func (h *house) set(name, value string) { h.vars = append(h.vars, name+"="+value) }

// give writes what a program is to read: the file is no place to look at.
func (h *house) give(name, text string) (path string) {
	h.t.Helper()
	path = filepath.Join(h.given, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *house) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(h.bin, program), args...)
	cmd.Env = h.vars
	return cmd
}

// advance moves the clocks of the server and of all that is run from now on.
func (h *house) advance(d time.Duration) {
	h.srv.Advance(d)
	h.moved += d
	h.set(clock.EnvVar, h.moved.String())
}

// do runs the command with both forms of output.
func (h *house) do(status int, args ...string) {
	h.t.Helper()
	h.run("text", status, args...)
	h.run("json", status, args...)
}

// run runs the command and shows all that it says.
func (h *house) run(output string, status int, args ...string) {
	h.t.Helper()
	args = append([]string{"--timeout", "30s", "--verbose", "-o", output}, args...)
	cmd := h.command("astravue-mcp", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != status {
		h.t.Errorf("%q: %v, want exit status %d:\n%s%s", args, err, status, &stdout, &stderr)
	}
	h.show(fmt.Sprintf("%q on stdout", args), stdout.String())
	h.show(fmt.Sprintf("%q on stderr", args), authorization.ReplaceAllString(stderr.String(), ""))
}

// watch takes down arguments and environment of all processes that come from
// this one, until stop is called; it returns how many programs there were. Where
// the system does not show them there are none.
func (e *env) watch() (stop func() (programs int)) {
	seen, programs := map[string]bool{}, map[string]bool{}
	var look func(pid string)
	look = func(pid string) {
		lists, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
		for _, list := range lists {
			data, _ := os.ReadFile(list)
			for child := range strings.FieldsSeq(string(data)) {
				for _, what := range []string{"cmdline", "environ"} {
					data, _ := os.ReadFile("/proc/" + child + "/" + what)
					text := strings.ReplaceAll(string(data), "\x00", "\n")
					if text == "" || seen[text] {
						continue
					}
					seen[text] = true
					program, _, _ := strings.Cut(text, "\n")
					if what == "cmdline" {
						programs[filepath.Base(program)] = true
					}
					if what == "cmdline" && strings.HasSuffix(program, "browser") {
						text = authorization.ReplaceAllString(text, "")
					}
					e.show("the "+what+" of "+program, text)
				}
				look(child)
			}
		}
	}
	done, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				look("self")
			}
		}
	}()
	return sync.OnceValue(func() int {
		close(done)
		<-ended
		return len(programs)
	})
}

// All commands, and those that fail, with all that they write and start.
func TestCommand(t *testing.T) {
	e := newEnv(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token", "client_secret", "identity", "passphrase")
	// The tests' binary, under the command's name, is the command with a clock that can be moved.
	h := newHouse(t, e, "../../../cmd/astravue-mcp", "test", "-c")
	stop := e.watch()
	defer stop()

	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const passphrase, wrong = "correct horse battery staple", "the-wrong-client-secret"
	e.Add("passphrase", passphrase)
	e.Add("client_secret", wrong)
	e.Add("identity", identity.String())
	client, secret := e.srv.App()
	fail := func(step sandbox.Step, f sandbox.Fault, act func()) {
		undo := e.srv.Fail(step, f)
		act()
		undo()
	}

	h.set("ASTRAVUE_MCP_STORE", "file")
	sealed := *h
	sealed.set("XDG_CONFIG_HOME", filepath.Join(h.dir, "passphrase"))
	sealed.set("AppData", filepath.Join(h.dir, "passphrase"))
	sealed.set("ASTRAVUE_MCP_PASSPHRASE_FILE", h.give("passphrase", passphrase))
	sealed.do(0, "login")
	sealed.set("ASTRAVUE_MCP_PASSPHRASE_FILE", h.give("other", passphrase+"r"))
	sealed.do(1, "status")

	for _, args := range [][]string{{"--help"}, {"login", "--help"}, {"--version"}} {
		h.do(0, args...)
	}
	h.set("ASTRAVUE_MCP_IDENTITY_FILE", h.give("not", "AGE-SECRET-KEY-1"+passphrase))
	h.do(1, "login")
	h.set("ASTRAVUE_MCP_IDENTITY_FILE", h.give("identity", identity.String()))
	h.do(0, "discover")
	h.do(3, "tools")
	h.do(0, "login")
	h.do(0, "status")
	h.do(0, "tools", "list_spaces")
	h.do(0, "call", "list_spaces")
	h.do(4, "call", "create_project_task", "project_id=nowhere", "title=x")
	h.do(0, "login", "--account", "app", "--client-id", client, "--client-secret-file", h.give("secret", secret))
	h.do(1, "login", "--account", "app", "--client-id", client, "--client-secret-file", h.give("wrong", wrong))
	login := func() { h.do(1, "login", "--account", "x") }
	fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"error": "access_denied", "code": nil}}, login)
	fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"iss": "https://other.example"}}, login)
	fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Status: 400, Body: `{"error":"invalid_grant"}`}, login)
	fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"token_type": "mac"}}, login)
	fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Cut: 200, Drop: true}, login)
	fail(sandbox.StepRegister, sandbox.Fault{CarryOut: true, Set: map[string]any{"client_id": 7}}, func() {
		h.do(1, "login", "--account", "x", "--redirect-url", "http://127.0.0.1/x")
	})
	h.do(3, "call", "no_such_tool", "--account", planted)
	fail(sandbox.StepMCP, sandbox.Fault{Status: 500, Body: "oops"}, func() { h.do(1, "tools") })
	h.advance(31 * time.Minute)
	h.do(0, "call", "list_spaces")
	h.do(0, "call", "list_spaces", "--account", "app")
	h.advance(31 * time.Minute)
	fail(sandbox.StepRefresh, sandbox.Fault{Status: 503}, func() { h.do(1, "tools") })
	fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true}, func() { h.do(1, "tools", "--account", "app") })
	h.advance(31 * time.Minute)
	h.do(3, "tools", "--account", "app")
	h.do(0, "login", "--account", "app", "--client-id", client, "--client-secret-file", h.give("secret", secret))

	h.do(2, "no-such-command")
	fail(sandbox.StepRevoke, sandbox.Fault{Status: 500}, func() { h.run("text", 0, "logout", "--account", "app") })
	if n := e.files(h.dir); n < 10 {
		t.Errorf("only %d files were written", n)
	}
	h.run("json", 0, "logout")
	e.files(h.dir)
	h.do(3, "status", "--account", planted)
	e.wantPlanted(`"status" "--account" "`+planted+`"] on stdout`, `] on stderr`)
	if n := stop(); runtime.GOOS == "linux" && n < 2 {
		t.Errorf("of the command and its browser, %d were seen", n)
	}
	// What a person types is in the arguments, which are no longer watched.
	h.do(2, "logout", "--server", "https://me:"+wrong+"@mcp.example/mcp")
}
