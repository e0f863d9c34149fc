//go:build !unix

package storetest

import (
	"os"
	"testing"
)

const canStop = false

func stop(testing.TB, *os.Process)   {}
func resume(testing.TB, *os.Process) {}
