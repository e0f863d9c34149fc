package mcpclient_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A job is what another process does with a Client.
type job struct {
	Server, Account, Dir, Identity string
	Logout                         bool // in place of a call
}

// A result is what came of it.
type result struct {
	Opened int // browsers
	Error  string
}

func TestMain(m *testing.M) {
	testenv.Serve(job.run)
	testenv.SideBySide(8)
	os.Exit(m.Run())
}

func (j job) client() (*mcpclient.Client, *fakeBrowser) {
	b := newBrowser()
	return &mcpclient.Client{
		Name: "Acme Notes", Server: j.Server, Account: j.Account, OpenBrowser: b.open,
		Store: &tokenstore.File{Dir: j.Dir, Identity: tokenstore.NewSecret(j.Identity)},
	}, b
}

func (j job) run() result {
	c, b := j.client()
	err := j.work(c)
	if err := errors.Join(err, c.Close()); err != nil {
		return result{Error: err.Error()}
	}
	return result{Opened: int(b.opened.Load())}
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

// runAll has processes do their jobs at the same time, and returns how many
// browsers they opened.
func runAll(t *testing.T, jobs ...job) (opened int) {
	t.Helper()
	processes := make([]*testenv.Child, len(jobs))
	for i := range jobs {
		processes[i] = testenv.Spawn(t)
	}
	for i, j := range jobs {
		processes[i].Send(j)
	}
	for _, p := range processes {
		var res result
		if !p.Receive(&res) {
			t.Fatal("a process died")
		}
		if res.Error != "" {
			t.Error(res.Error)
		}
		opened += res.Opened
	}
	return opened
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
