//go:build !linux

package rotation

import "os"

const canStop = false

func stop()              {}
func resume(*os.Process) {}
func isStopped(int) bool { return false }
