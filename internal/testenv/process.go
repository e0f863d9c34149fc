package testenv

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

const childVar = "ASTRAVUE_MCP_TEST_CHILD"

// Serve does the tasks of a child, if [Spawn] has started this process, and ends the process after
// the last one. Otherwise it does nothing. TestMain calls it first.
//
// Tasks and results are JSON, one after the other, over the child's standard input and output.
func Serve[Task, Result any](do func(Task) Result) {
	if os.Getenv(childVar) == "" {
		return
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var task Task
		switch err := in.Decode(&task); err {
		case nil:
		case io.EOF:
			os.Exit(0)
		default:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(do(task)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// A Child is this test binary, started once more, in which [Serve] does the tasks.
type Child struct {
	*exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end io.Closer
}

// Spawn starts a child, with more variables in its environment. It is killed when the test ends.
// It runs no test: its tasks say all that it needs to know.
func Spawn(t testing.TB, env ...string) *Child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), env...)
	return Start(t, cmd)
}

// Start is [Spawn] for a child that runs as another user, in another folder or with few variables:
// cmd starts this test binary so, and is not started yet.
func Start(t testing.TB, cmd *exec.Cmd) *Child {
	t.Helper()
	// Under -race a process sleeps a second before it exits, unless told not to.
	cmd.Env = append(cmd.Environ(), childVar+"=1", "GORACE=atexit_sleep_ms=0")
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
	return &Child{cmd, json.NewEncoder(in), json.NewDecoder(out), in}
}

// Send gives the child a task. A dead child takes none, and no error says so: [Child.Receive] does.
func (c *Child) Send(task any) { _ = c.in.Encode(task) }

// Receive waits for the result of the oldest task that has none yet, and reports false if the child
// has died.
func (c *Child) Receive(result any) bool { return c.out.Decode(result) == nil }

// Stop lets the child end when it has done all its tasks, and waits for its end.
func (c *Child) Stop() error {
	_ = c.end.Close()
	return c.Wait()
}
