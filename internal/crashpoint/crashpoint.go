// Package crashpoint names the places in this module where being killed is
// hardest, so that tests can kill a process exactly there.
//
// In a program no point does anything; only test binaries arm them. The
// package does not know which points there are: a test that arms a recorder
// learns their names and order.
package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// EnvVar names the variable from which a test binary takes the point at which
// it dies, as [ArmFromEnv] reads it. Only test binaries look at it.
const EnvVar = "ASTRAVUE_MCP_TEST_CRASH"

var armed atomic.Pointer[func(point string)]

// Hit tells an armed test that execution has reached the point. It costs one
// atomic load otherwise. Safe for concurrent use.
func Hit(point string) {
	if f := armed.Load(); f != nil {
		(*f)(point)
	}
}

// Arm calls f at every Hit, on the goroutine that hits, until disarm is
// called. One function is armed at a time.
func Arm(f func(point string)) (disarm func()) {
	armed.Store(&f)
	return func() { armed.CompareAndSwap(&f, nil) }
}

// ArmFromEnv makes the process die as [Kill] lets it, at the point that
// [EnvVar] names; "point#3" is the third hit of it. An unset variable arms
// nothing.
func ArmFromEnv() {
	want, nth, _ := strings.Cut(os.Getenv(EnvVar), "#")
	if want == "" {
		return
	}
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	var hits atomic.Int64
	Arm(func(point string) {
		if point == want && hits.Add(1) == n {
			Kill()
		}
	})
}

// Kill ends this process as SIGKILL does: nothing deferred runs, nothing is
// flushed. It does not return.
func Kill() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {} // the signal is on its way
}
