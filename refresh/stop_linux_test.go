package refresh_test

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

const canStop = true

func stop()                { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }

func isStopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") T "))
}
