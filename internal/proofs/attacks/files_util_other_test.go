//go:build !linux

package attacks

import (
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

func filesHang(t *testing.T, _ string) {
	testenv.Need(t, "FUSE", false, "only Linux mounts it without a program of its own")
}
