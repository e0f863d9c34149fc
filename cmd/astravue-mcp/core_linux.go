package main

import "golang.org/x/sys/unix"

// noCoreDump keeps tokens out of core dumps, whatever the limit is and whatever program takes the
// dumps. It also keeps other programs of this user from reading this one's memory, and debuggers from
// attaching. Programs that this one starts, such as the browser, do not inherit that.
func noCoreDump() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
