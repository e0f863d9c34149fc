// Package clock tells the time to everything in this module that compares it
// with a token's expiry, so that tests and the demonstration can move it.
//
// It does not drive timers: a wait is a real wait.
package clock

import (
	"sync/atomic"
	"time"
)

// EnvVar names the variable from which a test binary takes the offset of its
// clock, as [time.ParseDuration] reads it. Only test binaries look at it.
const EnvVar = "ASTRAVUE_MCP_TEST_CLOCK"

var offset atomic.Int64

// Now returns the wall clock's time, moved by the sum of all Advance calls.
// It carries no monotonic reading, since that stands still while a computer
// sleeps and a token's life does not. Safe for concurrent use.
func Now() time.Time {
	now := time.Now().Round(0)
	if d := offset.Load(); d != 0 {
		return now.Add(time.Duration(d))
	}
	return now
}

// Advance moves the clock of this process by d, which may be negative, and
// returns a function that takes the move back.
func Advance(d time.Duration) (undo func()) {
	offset.Add(int64(d))
	return func() { offset.Add(-int64(d)) }
}
