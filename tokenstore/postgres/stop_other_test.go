//go:build !unix

package postgres_test

import (
	"os"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

func stop(t testing.TB, _ *os.Process) {
	testenv.Need(t, "a platform that can stop a process", false, "this one cannot")
}
func resume(testing.TB, *os.Process) {}
