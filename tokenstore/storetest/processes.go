package storetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// Processes is what [RunProcesses] needs to know of a store.
type Processes struct {
	// Open opens the store that belongs to dir, an existing folder: the same
	// store in every process. In a process that RunProcesses has started, no
	// cleanup that it registers is run.
	Open func(t testing.TB, dir string) tokenstore.Store

	// Entries lists the names of all that the store keeps, its locks apart.
	// If nil, nothing is known of what a crash leaves unreachable.
	Entries func(t testing.TB, dir string) []string

	// Kills is how often a process is killed at each crash point; 0: once.
	Kills int
}

// childVar carries a child's orders.
const childVar = "ASTRAVUE_MCP_TEST_STORE"

type orders struct {
	Role  string // count, hold, save, delete
	Dir   string
	Times int // count: how many updates
	Crash int // die at this crash point, counted from 1; 0: count them
}

// RunProcesses tests the store with several processes, some of which die by
// SIGKILL at each of the crash points that a save and a delete pass, in turn.
// The processes are this test binary, started with only the calling test to
// run; there RunProcesses does as it is told and ends the process. So the
// calling test must reach it by itself, in a subtest too, and what it does
// before that is done in every process.
func RunProcesses(t *testing.T, p Processes) {
	if text := os.Getenv(childVar); text != "" {
		var o orders
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		if err := o.follow(t, p.Open(t, o.Dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	name := t.Name() // of the calling test, which the children run
	for _, test := range []struct {
		name string
		f    func(*testing.T, cast)
	}{
		{"one at a time", testProcessExclusion},
		{"killed holder", testKilledHolder},
		{"stopped holder", testStoppedHolder},
		{"killed at any time", testKilledAnyTime},
		{"killed at crash points of the first save", testKilledFirstSave},
		{"killed at crash points of a save", testKilledSave},
		{"killed at crash points of a delete", testKilledDelete},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.f(t, cast{p, name, dir, p.Open(t, dir)})
		})
	}
}

// crashSize makes a record of a few parts.
const crashSize = 5000

func (o orders) follow(t testing.TB, s tokenstore.Store) error {
	ctx := t.Context()
	hits := 0
	crashpoint.Arm(func(string) {
		if hits++; hits == o.Crash {
			crashpoint.Kill()
		}
	})
	var err error
	switch o.Role {
	case "hold":
		return s.Update(ctx, key, func(context.Context, *tokenstore.Locked) error {
			fmt.Println("held")
			_, err := io.Copy(io.Discard, os.Stdin)
			return err
		})
	case "count":
		for range o.Times {
			if err = add(ctx, s, key, crashSize); err != nil {
				break
			}
		}
	case "save":
		err = saveAsRefreshDoes(ctx, s)
	case "delete":
		err = s.Delete(ctx, key)
	default:
		err = fmt.Errorf("unknown role %q", o.Role)
	}
	fmt.Println(hits)
	return err
}

// saveAsRefreshDoes saves the next grant between setting and clearing the mark.
func saveAsRefreshDoes(ctx context.Context, s tokenstore.Store) error {
	return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		r, err := l.Get(ctx)
		if err != nil {
			return err
		}
		n, err := wholeNumber(r)
		if err != nil {
			return err
		}
		if err := l.SetMark(ctx, tokenstore.Mark{Pending: true, Generation: r.Generation}); err != nil {
			return err
		}
		if _, err := l.Save(ctx, grant(n+1, crashSize)); err != nil {
			return err
		}
		return l.SetMark(ctx, tokenstore.Mark{})
	})
}

// A cast is a store and the processes that play with it.
type cast struct {
	Processes
	test  string
	dir   string
	store tokenstore.Store
}

// child prepares a process; its standard error is this one's.
func (c cast) child(t testing.TB, o orders) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = c.dir
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(c.test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run="+strings.Join(parts, "/"), "-test.count=1")
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	cmd.Stderr = os.Stderr
	return cmd
}

// crash runs a child that is to die; died is false if it came to its end.
func (c cast) crash(t testing.TB, o orders) (died bool) {
	t.Helper()
	out, err := c.child(t, o).Output()
	if err == nil {
		return false
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() == 1 && len(out) > 0 {
		t.Fatalf("%+v: %v: %s", o, err, out)
	}
	return true
}

// points returns how many crash points a child with these orders passes.
func (c cast) points(t testing.TB, o orders) int {
	t.Helper()
	out, err := c.child(t, o).Output()
	if err != nil {
		t.Fatalf("%+v: %v: %s", o, err, out)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return n
}

// holder starts a child that holds the lock until let go.
func (c cast) holder(t testing.TB) (cmd *exec.Cmd, letGo func() error) {
	t.Helper()
	cmd = c.child(t, orders{Role: "hold"})
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	return cmd, func() error { _ = in.Close(); return wait() }
}

func testProcessExclusion(t *testing.T, c cast) {
	const processes, updates = 4, 5
	done := make(chan struct{})
	var children, reader sync.WaitGroup
	for range processes {
		children.Go(func() {
			if out, err := c.child(t, orders{Role: "count", Times: updates}).Output(); err != nil {
				t.Errorf("a counting process: %v: %s", err, out)
			}
		})
	}
	reader.Go(func() {
		for last := 0; ; {
			select {
			case <-done:
				return
			default:
			}
			if last > 0 {
				last = readNext(t, c.store, last)
			} else if _, err := c.store.Get(t.Context(), key); err == nil {
				last = 1
			} else if !errors.Is(err, tokenstore.ErrNotFound) {
				t.Errorf("a reader before the first save: %v", err)
			}
		}
	})
	children.Wait()
	close(done)
	reader.Wait()
	if n, err := wholeNumber(get(t, c.store, key)); n != processes*updates {
		t.Errorf("%d of %d updates were lost (%v)", processes*updates-n, processes*updates, err)
	}
}

func testKilledHolder(t *testing.T, c cast) {
	cmd, letGo := c.holder(t)
	holder := wantTimeout(t, c.store, key, 200*time.Millisecond)
	if holder != "" && !strings.Contains(holder, strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("the holder is process %d, not %q", cmd.Process.Pid, holder)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = letGo()
	soon(t, "an Update after the holder's death", func() { save(t, c.store, key, grant(1, 10)) })
}

func testStoppedHolder(t *testing.T, c cast) {
	if !canStop {
		t.Skip("this platform cannot stop a process")
	}
	cmd, letGo := c.holder(t)
	stop(t, cmd.Process)
	wantTimeout(t, c.store, key, 200*time.Millisecond)
	resume(t, cmd.Process)
	if err := letGo(); err != nil {
		t.Errorf("the holder: %v", err)
	}
	soon(t, "an Update after the holder has gone on", func() { save(t, c.store, key, grant(1, 10)) })
}

func testKilledAnyTime(t *testing.T, c cast) {
	last := 0
	for round := range 5 * max(1, c.Kills) {
		cmd := c.child(t, orders{Role: "count", Times: 1 << 20})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); ; { // until it has saved something
			if r, err := c.store.Get(t.Context(), key); err == nil {
				if n, _ := wholeNumber(r); n > last {
					break
				}
			}
			if time.Now().After(deadline) {
				t.Fatal("the process saves nothing")
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(round*7%31) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		last = readNext(t, c.store, last)
	}
}

func testKilledFirstSave(t *testing.T, c cast) {
	first := orders{Role: "count", Times: 1}
	points := c.points(t, first)
	entries := c.entries(t)
	for point := 1; point <= points; point++ {
		c := cast{c.Processes, c.test, t.TempDir(), nil}
		c.store = c.Open(t, c.dir)
		first.Crash = point
		if !c.crash(t, first) {
			t.Errorf("point %d: the process came to its end", point)
		}
		want := 1
		switch _, err := c.store.Get(t.Context(), key); {
		case err == nil:
			want++
		case !errors.Is(err, tokenstore.ErrNotFound):
			t.Errorf("point %d: %v", point, err)
		}
		soon(t, fmt.Sprintf("a save after a crash at point %d", point), func() {
			if err := add(t.Context(), c.store, key, crashSize); err != nil {
				t.Errorf("point %d: %v", point, err)
			}
		})
		if n, err := wholeNumber(get(t, c.store, key)); n != want {
			t.Errorf("point %d: got record %d, want %d (%v)", point, n, want, err)
		}
		if now := c.entries(t); len(now) != len(entries) {
			t.Errorf("point %d: after the next save there is %q, without a crash there was %q", point, now, entries)
		}
	}
	t.Logf("%d points", points)
}

func testKilledSave(t *testing.T, c cast) {
	save(t, c.store, key, grant(1, crashSize))
	entries := c.entries(t)
	points := c.points(t, orders{Role: "save"})
	kills := 0
	for range max(1, c.Kills) {
		for point := 1; point <= points; point++ {
			before, err := wholeNumber(get(t, c.store, key))
			if err != nil {
				t.Fatal(err)
			}
			if c.crash(t, orders{Role: "save", Crash: point}) {
				kills++
			} else {
				t.Errorf("point %d: the process came to its end", point)
			}
			// Whole, and the old or the new one; and so to who holds the lock.
			after, err := wholeNumber(get(t, c.store, key))
			if err != nil || after != before && after != before+1 {
				t.Errorf("point %d: got record %d after %d (%v)", point, after, before, err)
			}
			soon(t, fmt.Sprintf("a save after a crash at point %d", point), func() {
				if err := saveAsRefreshDoes(t.Context(), c.store); err != nil {
					t.Errorf("point %d: %v", point, err)
				}
			})
			if n, err := wholeNumber(get(t, c.store, key)); n != after+1 {
				t.Errorf("point %d: got record %d after %d (%v)", point, n, after, err)
			}
			if now := c.entries(t); len(now) != len(entries) {
				t.Errorf("point %d: after the next save there is %q, at first there was %q", point, now, entries)
			}
		}
	}
	t.Logf("%d kills at %d points, every record whole", kills, points)
}

func testKilledDelete(t *testing.T, c cast) {
	reset := func() {
		save(t, c.store, key, grant(1, crashSize))
		if err := c.store.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			return l.SetMark(ctx, tokenstore.Mark{Pending: true})
		}); err != nil {
			t.Fatal(err)
		}
	}
	reset()
	if err := c.store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	entries := c.entries(t)
	reset()
	points := c.points(t, orders{Role: "delete"})
	for range max(1, c.Kills) {
		for point := 1; point <= points; point++ {
			reset()
			if !c.crash(t, orders{Role: "delete", Crash: point}) {
				t.Errorf("point %d: the process came to its end", point)
			}
			if r, err := c.store.Get(t.Context(), key); !errors.Is(err, tokenstore.ErrNotFound) && !equal(r, grant(1, crashSize)) {
				t.Errorf("point %d: got neither the record nor ErrNotFound: %v", point, err)
			}
			soon(t, fmt.Sprintf("a delete after a crash at point %d", point), func() {
				if err := c.store.Delete(t.Context(), key); err != nil {
					t.Errorf("point %d: %v", point, err)
				}
			})
			wantNone(t, c.store, key)
			if now := c.entries(t); len(now) != len(entries) {
				t.Errorf("point %d: after the next delete there is %q, at first there was %q", point, now, entries)
			}
		}
	}
	t.Logf("%d points", points)
}

func (c cast) entries(t testing.TB) []string {
	if c.Entries == nil {
		return nil
	}
	return slices.Sorted(slices.Values(c.Entries(t, c.dir)))
}
