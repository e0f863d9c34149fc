package attacks

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// filesHang mounts a file system at dir that never answers, as that of a server that went away.
func filesHang(t *testing.T, dir string) {
	t.Helper()
	filesRoot(t)
	dev, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	testenv.Need(t, "FUSE", err == nil, fmt.Sprint(err))
	err = syscall.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", dev, os.Getuid(), os.Getgid()))
	testenv.Need(t, "FUSE", err == nil, fmt.Sprint(err))
	t.Cleanup(func() {
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		_ = syscall.Close(dev) // and all who wait are told so
	})
}
