//go:build unix && !linux

package main

import "golang.org/x/sys/unix"

// noCoreDump keeps tokens out of core dumps. Programs that this one starts, such as the browser,
// inherit the limit and may lift it.
func noCoreDump() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit)
	}
}
