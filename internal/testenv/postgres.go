package testenv

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Postgres returns the connection string of a fresh database in a PostgreSQL server that this
// test binary shares: one is started when the first test asks for it, with nothing of its data
// kept on purpose, and is stopped when the process has ended, however it ends. It costs a
// second once, and a tenth of one for each database.
//
// A process that a test starts would start a server of its own: hand it the string.
func Postgres(t testing.TB) string {
	t.Helper()
	const part = "PostgreSQL 14 or newer"
	bin, err := postgresBin()
	Need(t, part, err == nil, fmt.Sprint(err))
	if os.Geteuid() == 0 { // which PostgreSQL refuses to run as
		_, err = exec.LookPath("runuser")
		Need(t, part, err == nil, fmt.Sprint(err))
	}
	server, err := startPostgres()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "createdb"), "--host=127.0.0.1", "--port="+server.port, "--username=test", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a database: %v\n%s", err, out)
	}
	return fmt.Sprintf("postgres://test@127.0.0.1:%s/%s?sslmode=disable", server.port, name)
}

// postgresBin finds the newest server's programs. Debian keeps them out of PATH.
var postgresBin = sync.OnceValues(func() (string, error) {
	if runtime.GOOS == "windows" {
		return "", fmt.Errorf("it is not started on Windows")
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.SortFunc(installed, func(a, b string) int { return postgresVersion(b) - postgresVersion(a) })
	if len(installed) > 0 && postgresVersion(installed[0]) >= 14 {
		return filepath.Dir(installed[0]), nil
	}
	path, err := exec.LookPath("initdb")
	return filepath.Dir(path), err
})

func postgresVersion(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return n
}

type postgresServer struct {
	port string
	life io.Closer // the server's standard input; it goes with this process
}

// The script ends when its input does, and that is when this process has gone.
const postgresScript = `
bin=$1 dir=$2 port=$3
trap 'rm -rf "$dir"' EXIT
"$bin"/initdb -D "$dir/data" -U test -A trust -E UTF8 --no-locale --no-sync &&
"$bin"/pg_ctl -w -D "$dir/data" -l "$dir/log" start -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir -c fsync=off -c max_connections=200" || { cat "$dir/log"; exit 1; }
trap '"$bin"/pg_ctl -m immediate -D "$dir/data" stop; rm -rf "$dir"' EXIT
trap '' HUP INT TERM
touch "$dir/ready"
read -r _
`

var startPostgres = sync.OnceValues(func() (*postgresServer, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "postgres") // short, since it is the path of a socket
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	command := []string{"sh", "-c", postgresScript, "postgres", bin, dir, port}
	if os.Geteuid() == 0 { // the server does not run as root
		account, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(account.Uid)
		if err := os.Chown(dir, uid, -1); err != nil {
			return nil, err
		}
		command = append([]string{"runuser", "-u", account.Username, "--"}, command...)
	}
	output, err := os.CreateTemp("", "postgres") // a pipe would keep `go test` waiting
	if err != nil {
		return nil, err
	}
	defer os.Remove(output.Name())
	defer output.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := waitForFile(filepath.Join(dir, "ready"), ended); err != nil {
		life.Close()
		said, _ := os.ReadFile(output.Name())
		return nil, fmt.Errorf("%w\n%s", err, said)
	}
	return &postgresServer{port, life}, nil
})

func waitForFile(path string, ended <-chan error) error {
	deadline := time.After(time.Minute)
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("it ended: %v", err)
		case <-deadline:
			return fmt.Errorf("it is not ready after a minute")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
