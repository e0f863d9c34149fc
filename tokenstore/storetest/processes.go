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

// Processes tells [RunProcesses] about a store. Open is required.
type Processes struct {
	// Open opens the store of dir, an existing folder. All processes that open
	// one dir share one store. In a process that RunProcesses has started, the
	// cleanups that Open registers do not run.
	Open func(t testing.TB, dir string) tokenstore.Store

	// Entries lists the names of everything that the store keeps, except locks. If
	// nil, RunProcesses does not test whether a crash leaves anything that can no
	// longer be reached.
	Entries func(t testing.TB, dir string) []string

	// Stall holds up everything that processes started by RunProcesses send to the
	// service behind the store of dir, until resume is called. Then it arrives,
	// and so do the answers. A [Line] in front of the service does that. This
	// process may be held up too. If nil, calls that are given up are not tested.
	// That is right for a store whose calls return only after they were carried
	// out, such as calls to a file system.
	Stall func(t testing.TB, dir string) (resume func())

	// Kills is how often a process is killed at each crash point. If 0, once.
	Kills int
}

// Counts says how much [RunProcesses] has tested.
type Counts struct {
	Killed int // processes
	Intact int // of these, how often the record was then whole, and the old or the new one
	Late   int // calls that were given up and finished later
}

// childVar carries a child's orders. The children are not those of testenv: it would bring a driver
// of Chromium, and more, into every test that imports this package.
const childVar = "ASTRAVUE_MCP_TEST_STORE"

type orders struct {
	Role  string // count, hold, save, delete
	Dir   string
	Times int  // count: how many updates
	Point int  // the crash point to die at, counted from 1; 0: count them
	Late  bool // not to die there, but to say so, and to give up what follows
}

// RunProcesses tests the store with several processes. It kills some of them with
// SIGKILL, at each crash point of a save and of a delete in turn. Only the stores
// of this module have crash points.
//
// The processes are this test binary, started to run the calling test alone. In
// them, RunProcesses carries out its part and ends the process. So the calling
// test must reach RunProcesses in every process, also in a subtest, and each
// process does what comes before it.
func RunProcesses(t *testing.T, p Processes) Counts {
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
	type part struct {
		name string
		f    func(*testing.T, cast)
	}
	parts := []part{
		{"one at a time", testProcessExclusion},
		{"killed holder", testKilledHolder},
		{"stopped holder", testStoppedHolder},
		{"killed at any time", testKilledAnyTime},
		{"killed at crash points of the first save", testKilledFirstSave},
		{"killed at crash points of a save", testKilledSave},
		{"killed at crash points of a delete", testKilledDelete},
	}
	if p.Stall != nil {
		parts = append(parts, part{"a save that finishes late", testLateSave}, part{"a delete that finishes late", testLateDelete})
	}
	var counts Counts
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			dir := t.TempDir()
			c := cast{p, name, dir, p.Open(t, dir), &counts}
			part.f(t, c)
			c.clear(t)
		})
	}
	return counts
}

// crashSize makes a record of a few parts.
const crashSize = 5000

func (o orders) follow(t testing.TB, s tokenstore.Store) error {
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	in := bufio.NewReader(os.Stdin)
	hits := 0
	crashpoint.Arm(func(string) {
		switch hits++; {
		case hits != o.Point:
		case o.Late:
			fmt.Println("there")
			_, _ = in.ReadString('\n')
			time.AfterFunc(haste, giveUp)
		default:
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
		crashpoint.Hit("storetest.delete")
		err = s.Delete(ctx, key)
	default:
		err = fmt.Errorf("unknown role %q", o.Role)
	}
	if o.Late {
		fmt.Println(err != nil)
		_, _ = io.Copy(io.Discard, in) // what was given up goes on
		return nil
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
		crashpoint.Hit("storetest.save")
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
	*Counts
}

// killed counts a process that was killed, and whether the record that it left
// is whole and one that it may be.
func (c cast) killed(intact bool) {
	c.Killed++
	if intact {
		c.Intact++
	}
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

// crash runs a child that should die. died is false if it ran to its end.
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
	in, out := pipes(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = wait() })
	if line, err := out.ReadString('\n'); line != "held\n" {
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
	holder := wantTimeout(t, c.store, key)
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
	wantTimeout(t, c.store, key)
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
		cmd.Stdout = os.Stderr // it says something only if it fails
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
		n := readNext(t, c.store, last)
		c.killed(n > last)
		last = n
	}
}

func testKilledFirstSave(t *testing.T, c cast) {
	first := orders{Role: "count", Times: 1}
	points := c.points(t, first)
	if points == 0 {
		t.Skip("this store names no crash points; its processes are killed at any time")
	}
	entries := c.entries(t)
	for round := range max(1, c.Kills) {
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) { // its stores are closed when it is over
			for point := 1; point <= points; point++ {
				c := cast{c.Processes, c.test, t.TempDir(), nil, c.Counts}
				c.store = c.Open(t, c.dir)
				first.Point = point
				if !c.crash(t, first) {
					t.Errorf("point %d: the process came to its end", point)
				}
				n, err := 0, error(nil)
				r, err := c.store.Get(t.Context(), key)
				if err == nil {
					n, err = wholeNumber(r)
				} else if errors.Is(err, tokenstore.ErrNotFound) {
					err = nil
				}
				if err != nil || n > 1 {
					t.Errorf("point %d: got record %d (%v)", point, n, err)
				}
				c.killed(err == nil && n <= 1)
				soon(t, fmt.Sprintf("a save after a crash at point %d", point), func() {
					if err := add(t.Context(), c.store, key, crashSize); err != nil {
						t.Errorf("point %d: %v", point, err)
					}
				})
				if next, err := wholeNumber(get(t, c.store, key)); next != n+1 {
					t.Errorf("point %d: got record %d, want %d (%v)", point, next, n+1, err)
				}
				if now := c.entries(t); len(now) != len(entries) {
					t.Errorf("point %d: after the next save there is %q, without a crash there was %q", point, now, entries)
				}
				c.clear(t)
			}
		})
	}
}

func testKilledSave(t *testing.T, c cast) {
	save(t, c.store, key, grant(1, crashSize))
	entries := c.entries(t)
	points := c.points(t, orders{Role: "save"})
	for range max(1, c.Kills) {
		for point := 1; point <= points; point++ {
			before, err := wholeNumber(get(t, c.store, key))
			if err != nil {
				t.Fatal(err)
			}
			if !c.crash(t, orders{Role: "save", Point: point}) {
				t.Errorf("point %d: the process came to its end", point)
			}
			// The record is whole, and is the old one or the new one. The next holder of
			// the lock sees that too.
			after, err := wholeNumber(get(t, c.store, key))
			intact := err == nil && (after == before || after == before+1)
			if !intact {
				t.Errorf("point %d: got record %d after %d (%v)", point, after, before, err)
			}
			c.killed(intact)
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
			if !c.crash(t, orders{Role: "delete", Point: point}) {
				t.Errorf("point %d: the process came to its end", point)
			}
			r, err := c.store.Get(t.Context(), key)
			intact := errors.Is(err, tokenstore.ErrNotFound) || err == nil && equal(r, grant(1, crashSize))
			if !intact {
				t.Errorf("point %d: got neither the record nor ErrNotFound: %v", point, err)
			}
			c.killed(intact)
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
}

// A call that was given up and finishes late never undoes what somebody has
// saved after it.
func testLateSave(t *testing.T, c cast)   { c.late(t, "save") }
func testLateDelete(t *testing.T, c cast) { c.late(t, "delete") }

// haste is how long a child waits for an answer before it gives up a call.
const haste = 50 * time.Millisecond

// late makes a child give up the call after each crash point, in turn, and saves a
// newer record as soon as the store allows it.
func (c cast) late(t *testing.T, role string) {
	const older, newer = 1, 3
	save(t, c.store, key, grant(newer, crashSize))
	entries := c.entries(t)
	save(t, c.store, key, grant(older, crashSize))
	points := c.points(t, orders{Role: role})
	late := 0
	for point := 1; point <= points; point++ {
		save(t, c.store, key, grant(older, crashSize))
		cmd := c.child(t, orders{Role: role, Point: point, Late: true})
		in, out := pipes(t, cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := func() string {
			line, err := out.ReadString('\n')
			if err != nil {
				t.Fatalf("point %d: the process says %q, %v", point, line, err)
			}
			return line
		}
		if said() != "there\n" {
			t.Fatalf("point %d: the process has not come there", point)
		}
		resume := sync.OnceFunc(c.Stall(t, c.dir))
		defer resume()
		_, _ = fmt.Fprintln(in)
		if said() == "true\n" {
			late++
		}
		// The next save may have to wait for the call that was given up.
		next := func(ctx context.Context) error {
			return c.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
				_, err := l.Save(ctx, grant(newer, crashSize))
				return errors.Join(err, l.SetMark(ctx, tokenstore.Mark{}))
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), haste)
		err := next(ctx)
		cancel()
		resume()
		if err != nil {
			soon(t, fmt.Sprintf("a save after a late call at point %d", point), func() {
				if err := next(t.Context()); err != nil {
					t.Errorf("point %d: %v", point, err)
				}
			})
		}
		time.Sleep(haste) // if something is still to come, then now
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("point %d: the process: %v", point, err)
		}
		if n, err := wholeNumber(get(t, c.store, key)); n != newer {
			t.Errorf("point %d: got record %d, and not what was saved last (%v)", point, n, err)
		}
		if now := c.entries(t); len(now) != len(entries) {
			t.Errorf("point %d: there is %q, without a late call there was %q", point, now, entries)
		}
	}
	if late == 0 {
		t.Error("nothing was given up: Stall holds up nothing")
	}
	c.Late += late
}

func pipes(t testing.TB, cmd *exec.Cmd) (in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewReader(pipe)
}

// clear deletes what a test has left. A keychain with the leavings of many tests
// is slow.
func (c cast) clear(t testing.TB) {
	t.Helper()
	if err := c.store.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
}

func (c cast) entries(t testing.TB) []string {
	if c.Entries == nil {
		return nil
	}
	return slices.Sorted(slices.Values(c.Entries(t, c.dir)))
}
