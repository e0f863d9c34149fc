package testenv

import (
	"bufio"
	"bytes"
	"embed"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed npm/*.mjs
var scripts embed.FS

// Node returns the command that runs module: one of the scripts in npm, or a file below the
// node_modules folder.
func Node(t testing.TB, part, module string, args ...string) *exec.Cmd {
	t.Helper()
	modules := os.Getenv(NodeModules)
	Need(t, part, modules != "", NodeModules+" names no node_modules folder; .ci/parts makes one")
	path, err := exec.LookPath("node")
	Need(t, part, err == nil, "node is not installed")

	dir := t.TempDir()
	if err := os.CopyFS(dir, scripts); err != nil {
		t.Fatal(err)
	}
	if file := filepath.Join(dir, "npm", module); exists(file) {
		module = file
	} else {
		module = filepath.Join(modules, module)
		Need(t, part, exists(module), module+" does not exist")
	}
	return exec.Command(path, append([]string{module}, args...)...)
}

// node starts a server with npm/launch.mjs and returns its origin once it listens. module is
// as [Node] has it. What the server prints is kept as TEST.part.log.
func node(t testing.TB, part, module string, env ...string) string {
	t.Helper()
	module = Node(t, part, module).Args[1]
	cmd := Node(t, part, "launch.mjs", module)
	log := &output{ready: make(chan string, 1)}
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = 10 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
		}
		keep(t, part+".log", log.Bytes())
		if t.Failed() {
			t.Logf("%s printed:\n%s", part, log.Bytes())
		}
	})

	select {
	case origin := <-log.ready:
		return origin
	case <-done:
		t.Fatalf("%s ended before it was ready", part)
	case <-time.After(time.Minute):
		t.Fatalf("%s was not ready after a minute", part)
	}
	return ""
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// output keeps what a process prints, and passes on the origin of its line "ready ORIGIN".
type output struct {
	mu    sync.Mutex
	all   bytes.Buffer
	sent  bool
	ready chan string // buffered: the origin, once
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all.Write(p)
	if o.sent {
		return len(p), nil
	}
	lines := bufio.NewReader(bytes.NewReader(o.all.Bytes()))
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return len(p), nil
		}
		if origin, ok := strings.CutPrefix(strings.TrimSpace(line), "ready "); ok {
			o.ready <- origin
			o.sent = true
			return len(p), nil
		}
	}
}

func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.all.Bytes())
}
