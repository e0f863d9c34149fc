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

// A machine is all that a program has to run with: folders, a browser, and an
// environment that names them.
type machine struct {
	*env
	dir   string // all that they may write to
	given string // what they are given to read
	bin   string
	vars  []string
	moved time.Duration
}

// newMachine builds the program in pkg for it, by the go command with the arguments build.
func newMachine(t testing.TB, e *env, pkg string, build ...string) *machine {
	t.Helper()
	m := &machine{env: e, dir: t.TempDir(), given: t.TempDir(), bin: t.TempDir()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(m.bin, "browser")); err != nil {
		testenv.Need(t, "symbolic links", false, err.Error())
	}
	if out, err := exec.Command("go", append(build, "-o", filepath.Join(m.bin, "program"), pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink("program", filepath.Join(m.bin, filepath.Base(pkg))); err != nil {
		t.Fatal(err)
	}
	m.set("PATH", m.bin)
	m.set("BROWSER", "browser")
	m.set("ASTRAVUE_MCP_SERVER", e.server)
	m.set("GORACE", "atexit_sleep_ms=0") // of the browser
	for _, name := range []string{"HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "AppData", "LocalAppData"} {
		dir := filepath.Join(m.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		m.set(name, dir)
	}
	return m
}

func (m *machine) set(name, value string) { m.vars = append(m.vars, name+"="+value) }

// give writes what a program is to read: the file is no place to look at.
func (m *machine) give(name, text string) (path string) {
	m.t.Helper()
	path = filepath.Join(m.given, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(m.t.Context(), filepath.Join(m.bin, program), args...)
	cmd.Env = m.vars
	return cmd
}

// advance moves the clocks of the server and of all that is run from now on.
func (m *machine) advance(d time.Duration) {
	m.srv.Advance(d)
	m.moved += d
	m.set(clock.EnvVar, m.moved.String())
}

// do runs the command with both forms of output.
func (m *machine) do(status int, args ...string) {
	m.t.Helper()
	m.run("text", status, args...)
	m.run("json", status, args...)
}

// run runs the command and shows all that it says.
func (m *machine) run(output string, status int, args ...string) {
	m.t.Helper()
	args = append([]string{"--timeout", "30s", "--verbose", "-o", output}, args...)
	cmd := m.command("astravue-mcp", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != status {
		m.t.Errorf("%q: %v, want exit status %d:\n%s%s", args, err, status, &stdout, &stderr)
	}
	m.show(fmt.Sprintf("%q on stdout", args), stdout.String())
	m.show(fmt.Sprintf("%q on stderr", args), authorization.ReplaceAllString(stderr.String(), ""))
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
	t.Parallel() // no test that runs beside it starts a process
	e := newEnv(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token", "client_secret", "identity", "passphrase")
	// The tests' binary, under the command's name, is the command with a clock that can be moved.
	m := newMachine(t, e, "../../../cmd/astravue-mcp", "test", "-c")
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

	m.set("ASTRAVUE_MCP_STORE", "file")
	sealed := *m
	sealed.set("XDG_CONFIG_HOME", filepath.Join(m.dir, "passphrase"))
	sealed.set("AppData", filepath.Join(m.dir, "passphrase"))
	sealed.set("ASTRAVUE_MCP_PASSPHRASE_FILE", m.give("passphrase", passphrase))
	sealed.do(0, "login")
	sealed.set("ASTRAVUE_MCP_PASSPHRASE_FILE", m.give("other", passphrase+"r"))
	sealed.do(1, "status")

	for _, args := range [][]string{{"--help"}, {"login", "--help"}, {"--version"}} {
		m.do(0, args...)
	}
	m.set("ASTRAVUE_MCP_IDENTITY_FILE", m.give("not", "AGE-SECRET-KEY-1"+passphrase))
	m.do(1, "login")
	m.set("ASTRAVUE_MCP_IDENTITY_FILE", m.give("identity", identity.String()))
	m.do(0, "discover")
	m.do(3, "tools")
	m.do(0, "login")
	m.do(0, "status")
	m.do(0, "tools", "list_spaces")
	m.do(0, "call", "list_spaces")
	m.do(4, "call", "create_project_task", "project_id=nowhere", "title=x")
	m.do(0, "login", "--account", "app", "--client-id", client, "--client-secret-file", m.give("secret", secret))
	m.do(1, "login", "--account", "app", "--client-id", client, "--client-secret-file", m.give("wrong", wrong))
	login := func() { m.do(1, "login", "--account", "x") }
	fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"error": "access_denied", "code": nil}}, login)
	fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"iss": "https://other.example"}}, login)
	fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Status: 400, Body: `{"error":"invalid_grant"}`}, login)
	fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"token_type": "mac"}}, login)
	fail(sandbox.StepExchange, sandbox.Fault{CarryOut: true, Cut: 200, Drop: true}, login)
	fail(sandbox.StepRegister, sandbox.Fault{CarryOut: true, Set: map[string]any{"client_id": 7}}, func() {
		m.do(1, "login", "--account", "x", "--redirect-url", "http://127.0.0.1/x")
	})
	m.do(3, "call", "no_such_tool", "--account", planted)
	fail(sandbox.StepMCP, sandbox.Fault{Status: 500, Body: "oops"}, func() { m.do(1, "tools") })
	m.advance(31 * time.Minute)
	m.do(0, "call", "list_spaces")
	m.do(0, "call", "list_spaces", "--account", "app")
	m.advance(31 * time.Minute)
	fail(sandbox.StepRefresh, sandbox.Fault{Status: 503}, func() { m.do(1, "tools") })
	fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true}, func() { m.do(1, "tools", "--account", "app") })
	m.advance(31 * time.Minute)
	m.do(3, "tools", "--account", "app")
	m.do(0, "login", "--account", "app", "--client-id", client, "--client-secret-file", m.give("secret", secret))

	m.do(2, "no-such-command")
	fail(sandbox.StepRevoke, sandbox.Fault{Status: 500}, func() { m.run("text", 0, "logout", "--account", "app") })
	if n := e.files(m.dir); n < 10 {
		t.Errorf("only %d files were written", n)
	}
	m.run("json", 0, "logout")
	e.files(m.dir)
	m.do(3, "status", "--account", planted)
	e.wantPlanted(`"status" "--account" "`+planted+`"] on stdout`, `] on stderr`)
	if n := stop(); runtime.GOOS == "linux" && n < 2 {
		t.Errorf("of the command and its browser, %d were seen", n)
	}
	// What a person types is in the arguments, which are no longer watched.
	m.do(2, "logout", "--server", "https://me:"+wrong+"@mcp.example/mcp")
}
