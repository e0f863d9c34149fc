//go:build !linux

package refresh_test

import "os"

const canStop = false

func stop()              {}
func resume(*os.Process) {}
func isStopped(int) bool { return false }
