package tokenstore_test

import (
	"os"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.SideBySide(6)
	os.Exit(m.Run())
}
