// Package faults plays every fault that a network, a server, a browser and a
// store can show to every exchange of a client, and holds what comes of it to
// what was decided. The tables are kept in results.md, written with
//
//	go test ./internal/proofs/faults -update
//
// A case has failed if it hangs, panics, leaks a goroutine or an answer's body,
// shows a secret, asks more often than it should, forgets what it need not, or
// does not work any more when the fault is gone.
package faults

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

var update = flag.Bool("update", false, "write results.md")

const (
	results = "results.md"
	// patience bounds every operation of a case: who takes longer hangs.
	patience = time.Minute
	// atOnce is how many cases run at a time. Most of them wait.
	atOnce = 32
)

// parts are the lists of faults, in the order of results.md. They run beside each other, so
// none of them may move the clock.
var lists = []list{
	{"The faults", legend},
	{"Refresh", refreshList},
	{"Exchange", exchangeList},
	{"MCP POST", mcpPostList},
	{"MCP GET", mcpGetList},
	{"Registration", registrationList},
	{"Resource metadata", resourceMetadataList},
	{"Server metadata", serverMetadataList},
	{"Probe", probeList},
	{"Revoke", revokeList},
	{"Callback", callbackList},
	{"Save: file", saveFileList},
	{"Save: keychain", saveKeychainList},
	{"Save: database", saveDatabaseList},
}

// A list is one list of faults. run plays its cases, by way of suite.cases, and returns what
// stands below the title in results.md. What a part wrote is kept when it lacks what it needs
// (testenv.Need).
type list struct {
	title string
	run   func(*testing.T, *suite) string
}

// A suite is what all cases share.
type suite struct {
	free    chan struct{} // a place for each case that runs
	partly  atomic.Bool   // -run has left cases out
	lasting atomic.Int32  // goroutines that outlive the test on purpose
	servers *servers

	mu     sync.Mutex
	played map[string]int // cases of each part, by the name of its test
	right  map[string]int // and those that went as decided
}

func TestFaults(t *testing.T) {
	before := runtime.NumGoroutine()
	s := &suite{free: make(chan struct{}, atOnce), servers: newServers(t), played: map[string]int{}, right: map[string]int{}}
	sections := make([]string, len(lists))
	var all sync.WaitGroup
	for i, p := range lists {
		all.Go(func() {
			t.Run(p.title, func(t *testing.T) { sections[i] = p.run(t, s) })
		})
	}
	all.Wait()
	for _, p := range lists {
		name := t.Name() + "/" + strings.ReplaceAll(p.title, " ", "_")
		if n := s.played[name]; n > 0 {
			testenv.Count(t, "faults", "list", p.title, "cases", n, "as decided", s.right[name])
		}
	}
	s.servers.close()
	wantNoLeak(t, before+int(s.lasting.Load()))
	if t.Failed() {
		return
	}
	testenv.Need(t, "a run of every case", !s.partly.Load(), "-run chose some, so there is no table")
	compare(t, sections)
}

// cases runs a case for each name, beside each other, and returns when all are done.
func (s *suite) cases(t *testing.T, names []string, run func(t *testing.T, i int)) {
	t.Helper()
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			s.free <- struct{}{}
			defer func() { <-s.free }()
			ok := t.Run(name, func(t *testing.T) { run(t, i) })
			s.count(t, ok)
		})
	}
	all.Wait()
}

func (s *suite) count(t *testing.T, asDecided bool) {
	part := strings.Join(strings.Split(t.Name(), "/")[:2], "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.played[part]++
	if asDecided {
		s.right[part]++
	}
}

// timely returns what f returns, and ends the test if that takes too long. It gives f a context
// without a deadline: what bounds f must be its own.
func timely[T any](t *testing.T, what string, f func(context.Context) (T, error)) (T, error) {
	t.Helper()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		v, err := f(ctx)
		done <- outcome{v, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-time.After(patience):
		t.Fatalf("%s hangs\n%s", what, stacks())
		panic("not reached")
	}
}

func stacks() []byte {
	buf := make([]byte, 4<<20)
	return buf[:runtime.Stack(buf, true)]
}

// wantNoLeak waits until there are no more goroutines than there were.
func wantNoLeak(t *testing.T, before int) {
	t.Helper()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d goroutines, and %d at the start\n%s", runtime.NumGoroutine(), before, stacks())
			return
		}
	}
}

// compare holds sections to those of results.md, or writes them there. Those of parts that did
// not run are kept.
func compare(t *testing.T, sections []string) {
	t.Helper()
	// The words of a broken connection are the operating system's.
	testenv.Need(t, "a Unix", runtime.GOOS != "windows", "errors read otherwise on Windows")
	data, err := os.ReadFile(results)
	if err != nil && !*update {
		t.Fatal(err)
	}
	kept := map[string]string{}
	for section := range strings.SplitSeq(string(data), "\n## ") {
		title, text, _ := strings.Cut(section, "\n")
		kept[title] = strings.TrimSpace(text)
	}
	var whole bytes.Buffer
	whole.WriteString("What becomes of each fault, from a run of `go test ./internal/proofs/faults`: a case that does\notherwise fails the test.\n")
	for i, p := range lists {
		section := cmp.Or(strings.TrimSpace(sections[i]), kept[p.title])
		if section == "" {
			continue // never run here
		}
		if !*update && section != kept[p.title] {
			t.Errorf("%s is out of date, write it anew with -update; of %s it should say\n%s", results, p.title, section)
		}
		fmt.Fprintf(&whole, "\n## %s\n\n%s\n", p.title, section)
	}
	if *update {
		if err := os.WriteFile(results, whole.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// table returns a table in Markdown.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("|")
		for _, c := range cells {
			b.WriteString(" " + strings.NewReplacer("|", `\|`, "\n", " ").Replace(c) + " |")
		}
		b.WriteString("\n")
	}
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}
