//go:build unix

package postgres_test

import (
	"os"
	"syscall"
	"testing"
)

func stop(t testing.TB, p *os.Process)   { signal(t, p, syscall.SIGSTOP) }
func resume(t testing.TB, p *os.Process) { signal(t, p, syscall.SIGCONT) }

func signal(t testing.TB, p *os.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}
