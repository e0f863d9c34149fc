package attacks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// TestMain removes what the attacks have built. With Go alone more areas are played at a time.
func TestMain(m *testing.M) {
	if os.Getenv(testenv.CI) != "1" { // with Chromium they work more than they wait
		testenv.SideBySide(4)
	}
	code := m.Run()
	if programs != "" {
		_ = os.RemoveAll(programs)
	}
	os.Exit(code)
}

// programs is the folder of the programs, "" until one is built. Other users may run them.
var programs string

var programsMu sync.Mutex // guards programs

// command and webapp build a program of this module, once, and return its path.
var (
	command = sync.OnceValues(func() (string, error) { return build("cmd/astravue-mcp") })
	webapp  = sync.OnceValues(func() (string, error) { return build("examples/webapp") })
)

func build(folder string) (string, error) {
	programsMu.Lock()
	defer programsMu.Unlock()
	if programs == "" {
		dir, err := os.MkdirTemp("", "attacks")
		if err != nil {
			return "", err
		}
		programs = dir
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
	}
	name := filepath.Join(programs, filepath.Base(folder))
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", name, "github.com/astravue/mcp-client-go/"+folder).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
}
