// Package crashpoint marks the places where a killed process does the most harm.
// Tests kill a process exactly there.
//
// In a program the points do nothing; only test binaries arm them. The package
// has no list of the points: a test learns their names and order by recording
// them.
package crashpoint

import (
	"os"
	"sync/atomic"
)

var armed atomic.Pointer[func(point string)]

// Hit tells a test that execution has reached the point. If nothing is armed it
// costs one atomic load. Safe for concurrent use.
func Hit(point string) {
	if f := armed.Load(); f != nil {
		(*f)(point)
	}
}

// Arm has every Hit call f, on its own goroutine, until disarm is called. A later
// Arm replaces f.
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
