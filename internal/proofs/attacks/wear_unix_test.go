//go:build unix

package attacks

import (
	"syscall"
	"time"
)

// spent returns how long this process has had a processor. A busy machine does not change that.
func spent() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
