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

// Serve makes this process what its parent asks for, if [Spawn] has started it: each order that
// comes is answered, one at a time, until there are no more, and the process ends. Otherwise it
// does nothing. TestMain calls it before anything else.
//
// Orders and answers are JSON.
func Serve[Order, Answer any](answer func(Order) Answer) {
	if os.Getenv(childVar) == "" {
		return
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o Order
		switch err := in.Decode(&o); err {
		case nil:
		case io.EOF:
			os.Exit(0)
		default:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Encode(answer(o)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// A Process is this test binary once more, of which [Serve] makes a child.
type Process struct {
	*exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	end io.Closer
}

// Spawn starts a child, with more variables in its environment. It is killed when the test ends.
// It has no test of its own: what it needs to know is in its orders.
func Spawn(t testing.TB, env ...string) *Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	// Under -race a process sleeps a second before it exits, unless told not to.
	cmd.Env = append(append(os.Environ(), childVar+"=1", "GORACE=atexit_sleep_ms=0"), env...)
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
	return &Process{cmd, json.NewEncoder(in), json.NewDecoder(out), in}
}

// Send gives the child an order. One that is dead does not take it.
func (p *Process) Send(order any) { _ = p.in.Encode(order) }

// Receive waits for the answer to the oldest order that has none; false: the child has died.
func (p *Process) Receive(answer any) bool { return p.out.Decode(answer) == nil }

// Stop ends the child once it has answered all its orders, and waits for that.
func (p *Process) Stop() error {
	_ = p.end.Close()
	return p.Wait()
}
