package testenv

import (
	"testing"

	"github.com/astravue/mcp-client-go/sandbox"
)

// Sandbox starts a sandbox, which ends with the test.
func Sandbox(t testing.TB, o sandbox.Options) *sandbox.Server {
	t.Helper()
	srv, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}
