package mcpclient_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A job is what a re-executed test binary does with a Client.
type job struct {
	Server, Account, Dir, Identity string
	Logout                         bool // in place of a call
}

// A result is what came of it.
type result struct {
	Opened int // browsers
	Error  string
}

const jobVar = "ASTRAVUE_MCP_TEST_CLIENT"

func TestMain(m *testing.M) {
	if data := os.Getenv(jobVar); data != "" {
		var j job
		if err := json.Unmarshal([]byte(data), &j); err != nil {
			panic(err)
		}
		j.run()
		return
	}
	os.Exit(m.Run())
}

func (j job) client() (*mcpclient.Client, *fakeBrowser) {
	b := newBrowser()
	return &mcpclient.Client{
		Name: "Acme Notes", Server: j.Server, Account: j.Account, OpenBrowser: b.open,
		Store: &tokenstore.File{Dir: j.Dir, Identity: tokenstore.NewSecret(j.Identity)},
	}, b
}

// run waits for a line on standard input, works, and reports.
func (j job) run() {
	c, b := j.client()
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	err := j.work(c)
	if err := errors.Join(err, c.Close()); err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(result{Error: err.Error()})
		return
	}
	_ = json.NewEncoder(os.Stdout).Encode(result{Opened: int(b.opened.Load())})
}

func (j job) work(c *mcpclient.Client) error {
	ctx := context.Background()
	if j.Logout {
		_, err := c.Logout(ctx)
		return err
	}
	session, err := c.Connect(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	return callTool(ctx, session)
}

func newJob(t *testing.T, srv *sandbox.Server) job {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return job{Server: srv.URL(), Dir: t.TempDir(), Identity: id.String()}
}

// runAll has processes begin their jobs at the same moment, and returns how
// many browsers they opened.
func runAll(t *testing.T, jobs ...job) (opened int) {
	t.Helper()
	type process struct {
		in  io.Writer
		out *bufio.Reader
	}
	var processes []process
	for _, j := range jobs {
		data, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		// Under -race a process sleeps a second before it exits, unless told not to.
		cmd.Env = append(os.Environ(), jobVar+"="+string(data), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		p := process{in, bufio.NewReader(out)}
		if line, err := p.out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("the process said %q, %v", line, err)
		}
		processes = append(processes, p)
	}
	for _, p := range processes {
		_, _ = io.WriteString(p.in, "\n")
	}
	for _, p := range processes {
		var res result
		if err := json.NewDecoder(p.out).Decode(&res); err != nil {
			t.Fatal(err)
		}
		if res.Error != "" {
			t.Error(res.Error)
		}
		opened += res.Opened
	}
	return opened
}

func TestManyProcessesOpenOneBrowser(t *testing.T) {
	srv := start(t, sandbox.Options{})
	j := newJob(t, srv)
	if n := runAll(t, j, j, j, j); n != 1 {
		t.Errorf("%d browsers were opened", n)
	}
	got := steps(srv)
	if got[sandbox.StepRegister] != 1 || got[sandbox.StepExchange] != 1 || got[sandbox.StepRefresh] != 0 {
		t.Errorf("requests: %v", got)
	}
}

func TestProcessesOfTwoAccountsDoNotMix(t *testing.T) {
	srv := start(t, sandbox.Options{})
	home := newJob(t, srv)
	work := home
	work.Account = "work"
	if n := runAll(t, home, work, home, work); n != 2 {
		t.Errorf("%d browsers were opened", n)
	}
	if got := steps(srv); got[sandbox.StepRegister] != 1 || got[sandbox.StepExchange] != 2 {
		t.Errorf("requests: %v", got)
	}
	home.Logout = true
	runAll(t, home)
	if n := runAll(t, work); n != 0 {
		t.Error("a logout has ended the other account's session")
	}
}

func TestALogoutElsewhereEndsThisSessionWithinItsMinute(t *testing.T) {
	srv := start(t, sandbox.Options{})
	// So that the access token lives on, and only we can end the session.
	srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"revocation_endpoint": nil}})
	j := newJob(t, srv)
	c, _ := j.client()
	c.NonInteractive = true
	defer c.Close()
	if err := c.Login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	session := connect(t, c)
	mustCall(t, session)
	j.Logout = true
	runAll(t, j)
	mustCall(t, session) // it has not looked yet
	t.Cleanup(clock.Advance(time.Minute + time.Second))
	// The call that notices may get through: it looks off the path.
	eventually(t, "calls end", func() bool {
		err := callTool(t.Context(), session)
		if err != nil && !errors.Is(err, mcpclient.ErrLoginRequired) {
			t.Fatal(err)
		}
		return err != nil
	})
}
