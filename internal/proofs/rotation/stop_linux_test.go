package rotation

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const canStop = true

// stop stops this process and returns when it goes on. The signal may reach
// another thread first, so this one waits as well.
func stop() {
	goesOn := make(chan os.Signal, 1)
	signal.Notify(goesOn, syscall.SIGCONT)
	defer signal.Stop(goesOn)
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-goesOn
}

func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }

func isStopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") T "))
}
