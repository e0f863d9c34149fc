package main

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// A terminal is a command on a pseudo-terminal, with a person who types.
type terminal struct {
	t       *testing.T
	cmd     *exec.Cmd
	control *os.File

	mu     sync.Mutex
	screen bytes.Buffer
}

// newTerminal starts the command in an empty home, with a file store whose
// passphrase is asked for.
func newTerminal(t *testing.T, home string, env []string, args ...string) *terminal {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	testenv.Need(t, "a pseudo-terminal", err == nil, fmt.Sprint(err))
	var number, unlocked int32
	ioctl(t, control, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	ioctl(t, control, syscall.TIOCGPTN, unsafe.Pointer(&number))
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, cmd: exec.Command("astravue-mcp", args...), control: control}
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
	x.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home, "ASTRAVUE_MCP_STORE=file",
	}, env...)
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		_ = tty.Close() // held until here, for its settings to outlive the command
		_ = control.Close()
	})
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := control.Read(buf)
			x.mu.Lock()
			x.screen.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return x
}

func ioctl(t *testing.T, f *os.File, request uintptr, arg unsafe.Pointer) {
	t.Helper()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		t.Fatal(errno)
	}
}

// see waits until the screen shows what matches, and returns the match.
func (x *terminal) see(pattern string) string {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(slow * 20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if m := re.FindString(x.text()); m != "" {
			return m
		}
	}
	x.t.Fatalf("the terminal does not show %q:\n%s", pattern, x.text())
	return ""
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.ReplaceAll(x.screen.String(), "\r\n", "\n")
}

func (x *terminal) send(keys string) {
	x.t.Helper()
	if _, err := x.control.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// hidden waits until the terminal does not show what is typed.
func (x *terminal) hidden() {
	x.t.Helper()
	for deadline := time.Now().Add(slow * 20 * time.Second); x.echoes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatal("the terminal shows what is typed")
		}
	}
}

func (x *terminal) echoes() bool {
	x.t.Helper()
	var settings syscall.Termios
	ioctl(x.t, x.control, syscall.TCGETS, unsafe.Pointer(&settings))
	return settings.Lflag&syscall.ECHO != 0
}

// ends waits for the command and checks its exit status, and that the terminal shows again what is typed.
func (x *terminal) ends(status int) {
	x.t.Helper()
	late := time.AfterFunc(slow*20*time.Second, func() { _ = x.cmd.Process.Kill() })
	defer late.Stop()
	_ = x.cmd.Wait()
	if got := x.cmd.ProcessState.ExitCode(); got != status {
		x.t.Errorf("exit status %d, want %d:\n%s", got, status, x.text())
	}
	if !x.echoes() {
		x.t.Error("the terminal was left without echo")
	}
}

func startSandbox(t *testing.T) *sandbox.Server {
	t.Helper()
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

func TestTerminalPassphrase(t *testing.T) {
	t.Parallel()
	srv, home := startSandbox(t), t.TempDir()
	env := []string{"ASTRAVUE_MCP_SERVER=" + srv.URL(), "BROWSER=browser approve olivia"}
	x := newTerminal(t, home, env, "login")
	for _, prompt := range []string{"New passphrase .*: ", "Type it again: "} {
		x.see(prompt)
		x.hidden()
		x.send("correct horse\n")
	}
	x.see("Signed in")
	x.ends(0)

	x = newTerminal(t, home, env, "call", "list_spaces")
	x.see("Passphrase of the token files: ")
	x.hidden()
	x.send("correct horse\n")
	x.see("space-1")
	x.ends(0)
	if strings.Contains(x.text(), "correct horse") {
		t.Errorf("the passphrase was shown:\n%s", x.text())
	}

	// An interrupt ends it, and so does an empty passphrase.
	for keys, says := range map[string]string{"\x03": "interrupted", "\n": "empty"} {
		x := newTerminal(t, home, env, "status")
		x.see("Passphrase")
		x.hidden()
		x.send(keys)
		x.see("astravue-mcp: .*" + says)
		x.ends(1)
	}
}

// TestTerminalPaste signs in with a browser that is on another computer: it
// cannot reach the callback, and the address is pasted.
func TestTerminalPaste(t *testing.T) {
	t.Parallel()
	srv, home := startSandbox(t), t.TempDir()
	kept := filepath.Join(home, "address")
	env := []string{"ASTRAVUE_MCP_SERVER=" + srv.URL()}
	if err := seal(filepath.Join(home, "astravue-mcp"), "correct horse"); err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{"", srv.PublicClient()} {
		x := newTerminal(t, home, env, "login", "--no-browser", "--client-id", client)
		x.see("Passphrase of the token files: ")
		x.hidden()
		x.send("correct horse\n")
		address := strings.TrimSpace(x.see(`\n  http://\S+\n`))
		x.see("paste here")
		browser := exec.Command("browser", "keep", kept, "olivia", address)
		if out, err := browser.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		// Other text that is pasted does no harm.
		u, err := url.Parse(string(got))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("state", "guessed")
		for i, wrong := range []string{"hello", "https://astravue.com/", "http://127.0.0.1/callback?" + q.Encode(), "\x1b[A", "?", "code=stolen"} {
			x.send(wrong + "\n")
			for strings.Count(x.see(`(?s).*not the address of this sign-in.*`), "not the address") <= i {
				time.Sleep(5 * time.Millisecond)
			}
		}
		x.send(string(got) + "\n")
		x.see("Signed in")
		x.ends(0)
	}
}

func TestTerminalInterrupt(t *testing.T) {
	t.Parallel()
	srv := startSandbox(t)
	home := t.TempDir()
	identity := filepath.Join(home, "identity.txt")
	if err := writeIdentity(identity); err != nil {
		t.Fatal(err)
	}
	env := []string{"ASTRAVUE_MCP_SERVER=" + srv.URL(), "ASTRAVUE_MCP_IDENTITY_FILE=" + identity}
	x := newTerminal(t, home, env, "login", "--no-browser")
	x.see("paste here")
	x.send("\x03")
	x.see("astravue-mcp: interrupted\n")
	x.ends(1)
	x = newTerminal(t, home, env, "sandbox")
	x.see("The sandbox is ready")
	x.see("Interrupt to end it")
	x.send("\x03")
	x.ends(0)
}

// TestTerminalIssuer answers the question whether to sign in at an issuer that is not announced.
func TestTerminalIssuer(t *testing.T) {
	t.Parallel()
	srv, err := sandbox.Start(sandbox.Options{IssuerHost: sandbox.IssuerSplit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	home := t.TempDir()
	identity := filepath.Join(home, "identity.txt")
	if err := writeIdentity(identity); err != nil {
		t.Fatal(err)
	}
	env := []string{"ASTRAVUE_MCP_SERVER=" + srv.URL(), "ASTRAVUE_MCP_IDENTITY_FILE=" + identity, "BROWSER=browser approve olivia"}
	for _, answer := range []string{"\n", "n\n", "yy\n", "\x04", "\x03"} {
		x := newTerminal(t, home, env, "login")
		x.see(`Sign in there\? \[y/N\] `)
		x.send(answer)
		x.ends(1)
		if n := srv.Counts().Requests[sandbox.StepRegister]; n != 0 || strings.Contains(x.text(), "To sign in, open") {
			t.Fatalf("%q: %d registrations\n%s", answer, n, x.text())
		}
	}
	x := newTerminal(t, home, env, "login")
	x.see("a token of that issuer goes to " + regexp.QuoteMeta(strings.TrimPrefix(srv.APIURL(), "http://")))
	x.send("y\n")
	x.see("Signed in")
	x.see("you named this issuer and the server does not")
	x.ends(0)
}
