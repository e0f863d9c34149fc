//go:build !unix

package postgres_test

import (
	"os"
	"testing"
)

func stop(t testing.TB, _ *os.Process) { t.Skip("this platform cannot stop a process") }
func resume(testing.TB, *os.Process)   {}
