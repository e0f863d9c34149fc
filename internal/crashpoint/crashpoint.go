// Package crashpoint names the places in this module where being killed is
// hardest, so that tests can kill a process exactly there.
//
// In a program no point does anything; only test binaries arm them. The
// package does not know which points there are: a test that arms a recorder
// learns their names and order.
package crashpoint

import (
	"os"
	"sync/atomic"
)

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

// Kill ends this process as SIGKILL does: nothing deferred runs, nothing is
// flushed. It does not return.
func Kill() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {} // the signal is on its way
}
