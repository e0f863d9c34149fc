package main

import "golang.org/x/sys/unix"

// noCoreDump keeps tokens out of core dumps, whatever limit was set and
// whichever program takes dumps. Other programs of this user cannot read this
// one's memory then, debuggers that want to attach included. What it starts,
// such as the browser, does not inherit that.
func noCoreDump() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
