// Package clock is the clock by which this module judges whether a token has
// expired. Tests and the demonstration can move it.
//
// It drives no timers: a wait takes real time.
package clock

import (
	"sync/atomic"
	"time"
)

// EnvVar names the environment variable that moves the clock of a test binary: a
// duration as [time.ParseDuration] reads it. Programs do not look at it.
const EnvVar = "ASTRAVUE_MCP_TEST_CLOCK"

var offset atomic.Int64

// Now returns the wall clock's time, moved by the sum of all Advance calls. It
// carries no monotonic reading: that one stands still while a computer sleeps,
// but tokens expire. Safe for concurrent use.
func Now() time.Time {
	now := time.Now().Round(0)
	if d := offset.Load(); d != 0 {
		return now.Add(time.Duration(d))
	}
	return now
}

// Advance moves the clock of this process by d, which may be negative, until undo
// is called. Safe for concurrent use.
func Advance(d time.Duration) (undo func()) {
	offset.Add(int64(d))
	return func() { offset.Add(-int64(d)) }
}
