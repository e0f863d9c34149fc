package refresh_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A job is what a re-executed test binary does with a Source.
type job struct {
	Dir, Identity string
	API           string        // each token is tried there
	Goroutines    int           // 0: one
	For           time.Duration // how long each goes on; 0: one call each
	LockTimeout   time.Duration
	Record        bool // report the crash points
	StopAt        string
}

// A result is what came of it.
type result struct {
	Calls  int
	Errors map[string]int
	Lost   bool // errors.Is(err, refresh.ErrAnswerLost)
	Login  bool
	Locked *tokenstore.LockTimeoutError
	Close  string
	Points []string
}

const jobVar = "ASTRAVUE_MCP_TEST_REFRESH"

func TestMain(m *testing.M) {
	if data := os.Getenv(jobVar); data != "" {
		var j job
		if err := json.Unmarshal([]byte(data), &j); err != nil {
			panic(err)
		}
		j.run()
		return
	}
	os.Exit(m.Run())
}

func (j job) store() *tokenstore.File {
	return &tokenstore.File{Dir: j.Dir, Identity: tokenstore.NewSecret(j.Identity), LockTimeout: j.LockTimeout}
}

// run waits for a line on standard input, works, and reports.
func (j job) run() {
	s := refresh.New(refresh.Config{Store: j.store(), Key: grantKey})
	res := result{Errors: map[string]int{}}
	crashpoint.ArmFromEnv()
	if j.Record {
		crashpoint.Arm(func(p string) { res.Points = append(res.Points, p) })
	}
	if j.StopAt != "" {
		crashpoint.Arm(func(p string) {
			if p == j.StopAt {
				stop()
			}
		})
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')

	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(j.For)
	for range max(j.Goroutines, 1) {
		wg.Go(func() {
			for {
				a, err := s.Access(context.Background())
				if err == nil {
					err = call(hc, j.API, a)
				}
				if errors.Is(err, errUnauthorized) { // it ended on the way
					if a, err = s.Refused(context.Background(), a.Generation); err == nil {
						err = call(hc, j.API, a)
					}
				}
				mu.Lock()
				if err == nil {
					res.Calls++
				} else {
					res.Errors[err.Error()]++
					res.Lost = res.Lost || errors.Is(err, refresh.ErrAnswerLost)
					res.Login = res.Login || errors.Is(err, refresh.ErrLoginRequired)
					errors.As(err, &res.Locked)
				}
				mu.Unlock()
				if !time.Now().Before(end) {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		res.Close = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
		panic(err)
	}
}

func call(hc *http.Client, api string, a *refresh.Access) error {
	req, err := http.NewRequest(http.MethodGet, api, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.Token.Reveal())
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errUnauthorized
	}
	return nil
}

var errUnauthorized = errors.New("the API refuses the token")

func newJob(t *testing.T, a *authServer) job {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return job{Dir: t.TempDir(), Identity: id.String(), API: a.URL + "/api"}
}

// A process is one that is ready to begin.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, j job, env ...string) *process {
	t.Helper()
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	// Under -race a process sleeps a second before it exits, unless told not to.
	cmd.Env = append(append(os.Environ(), env...), jobVar+"="+string(data), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
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
	p := &process{cmd, in, bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process said %q, %v", line, err)
	}
	return p
}

func (p *process) begin() { _, _ = io.WriteString(p.in, "\n") }

// end returns the result, or false if the process died.
func (p *process) end(t *testing.T) (res result, ok bool) {
	t.Helper()
	err := json.NewDecoder(p.out).Decode(&res)
	_ = p.Wait()
	return res, err == nil
}

// together runs n processes that begin at the same moment.
func together(t *testing.T, n int, j job) []result {
	t.Helper()
	processes := make([]*process, n)
	for i := range processes {
		processes[i] = start(t, j)
	}
	for _, p := range processes {
		p.begin()
	}
	results := make([]result, n)
	for i, p := range processes {
		var ok bool
		if results[i], ok = p.end(t); !ok {
			t.Fatalf("process %d died", i)
		}
	}
	return results
}

func TestManyProcessesRenewOnce(t *testing.T) {
	for name, delay := range map[string]time.Duration{"at once": 0, "after 200 ms": 200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			a := newAuthServer(t)
			a.TTL = 90 * time.Second
			a.fault = func(http.ResponseWriter, *http.Request) bool { time.Sleep(delay); return false }
			j := newJob(t, a)
			j.Goroutines = 64
			save(t, j.store(), a.issue(time.Hour))
			calls := 0
			for _, res := range together(t, 8, j) {
				calls += res.Calls
				if len(res.Errors) > 0 || res.Close != "" {
					t.Errorf("got %v, %v", res.Errors, res.Close)
				}
			}
			if calls != 8*64 {
				t.Errorf("%d calls succeeded, want %d", calls, 8*64)
			}
			a.wantRequests(t, 1)
		})
	}
}

// Eight processes go on for some lives of a token: each is renewed once, and
// not before its last quarter.
func TestManyProcessesAndShortLives(t *testing.T) {
	a := newAuthServer(t)
	a.TTL = 2 * time.Second
	a.fault = func(http.ResponseWriter, *http.Request) bool { time.Sleep(200 * time.Millisecond); return false }
	j := newJob(t, a)
	j.Goroutines, j.For = 16, 3*time.Second
	save(t, j.store(), a.issue(time.Hour))
	for _, res := range together(t, 8, j) {
		if len(res.Errors) > 0 || res.Close != "" {
			t.Errorf("got %v, %v", res.Errors, res.Close)
		}
	}
	a.wantRequests(t, len(a.issued))
	for i, at := range a.issued[1:] {
		if life := at.Sub(a.issued[i]); life < 1200*time.Millisecond {
			t.Errorf("a token was renewed after %v", life)
		}
	}
	if len(a.issued) < 2 {
		t.Errorf("only %d refreshes", len(a.issued))
	}
}

// A process is killed at every point that a refresh passes, of the store's as
// well. Afterwards the record is whole, and a sign-in is asked for only where
// the answer was lost.
func TestKilledAtEveryPoint(t *testing.T) {
	a := newAuthServer(t)
	j := newJob(t, a)
	renew := func(j job, env ...string) (result, bool) {
		p := start(t, j, env...)
		p.begin()
		return p.end(t)
	}
	save(t, j.store(), a.issue(time.Hour))
	recorder := j
	recorder.Record = true
	res, ok := renew(recorder)
	if !ok || res.Calls != 1 {
		t.Fatalf("got %+v", res)
	}
	hits := map[string]int{}
	var points []string
	for _, p := range res.Points {
		hits[p]++
		points = append(points, fmt.Sprintf("%s#%d", p, hits[p]))
	}
	for _, p := range []string{"locked", "marked", "answered", "saved", "cleared", "released"} {
		if hits["refresh."+p] != 1 {
			t.Errorf("refresh.%s was passed %d times", p, hits["refresh."+p])
		}
	}
	lost := map[string]bool{}
	for _, point := range points {
		a.set(func() { clear(a.spent); a.requests = 0 })
		old := a.issue(time.Hour)
		save(t, j.store(), old)
		if res, ok := renew(j, crashpoint.EnvVar+"="+point); ok {
			t.Errorf("%s: the process lived: %+v", point, res)
			continue
		}
		rec := stored(t, j.store())
		var spent bool
		a.set(func() { spent = a.spent[rec.Grant.RefreshToken.Reveal()] })
		if !rec.Grant.RefreshToken.Equal(old.RefreshToken) && spent {
			t.Errorf("%s: stored is neither the old nor the new grant", point)
		}
		res, _ := renew(j)
		if spent {
			lost[point] = true
		}
		if res.Lost != spent || res.Login != spent || (res.Calls == 1) == spent {
			t.Errorf("%s: the stored token was spent: %v; the next process got %+v", point, spent, res)
		}
		if n := a.count(); n > 2 {
			t.Errorf("%s: %d token requests", point, n)
		}
	}
	for _, point := range []string{"refresh.locked#1", "refresh.marked#1", "refresh.saved#1", "refresh.cleared#1", "refresh.released#1"} {
		if lost[point] {
			t.Errorf("a session was lost at %s, where no answer was", point)
		}
	}
	if !lost["refresh.answered#1"] {
		t.Error("no session was lost at refresh.answered: the test tests nothing")
	}
	t.Logf("%d points; lost answers: %v", len(points), slices.Sorted(maps.Keys(lost)))
}

// A process dies after its request was sent. What the next one gets depends on
// whether the server had carried it out.
func TestKilledWhileTheServerAnswers(t *testing.T) {
	for _, spent := range []bool{false, true} {
		t.Run(fmt.Sprintf("spent %v", spent), func(t *testing.T) {
			a := newAuthServer(t)
			j := newJob(t, a)
			save(t, j.store(), a.issue(time.Hour))
			p := start(t, j)
			kill := func(w http.ResponseWriter, r *http.Request) bool {
				_ = p.Process.Kill()
				return hangsUp(w, r)
			}
			a.set(func() {
				if spent {
					a.lose = kill
				} else {
					a.fault = kill
				}
			})
			p.begin()
			if _, ok := p.end(t); ok {
				t.Fatal("the process lived")
			}
			a.set(func() { a.lose, a.fault = nil, nil })
			res := together(t, 1, j)[0]
			if res.Lost != spent || res.Calls == 1 && spent {
				t.Errorf("got %+v", res)
			}
			a.wantRequests(t, 2)
		})
	}
}

// A process is stopped while it holds the lock: the others wait no longer than
// their deadline, say who holds it, and recover when it goes on or dies.
func TestStoppedWhileHoldingTheLock(t *testing.T) {
	testenv.Need(t, "a platform that can stop a process", canStop, "this one cannot")
	for _, dies := range []bool{true, false} {
		t.Run(fmt.Sprintf("dies %v", dies), func(t *testing.T) {
			a := newAuthServer(t)
			j := newJob(t, a)
			save(t, j.store(), a.issue(time.Hour))
			stopped := j
			stopped.StopAt = "refresh.marked"
			p := start(t, stopped)
			p.begin()
			eventually(t, "it has the lock", func() bool { return isStopped(p.Process.Pid) })

			j.LockTimeout = 300 * time.Millisecond
			res := together(t, 1, j)[0]
			if res.Locked == nil || !strings.Contains(res.Locked.Holder, fmt.Sprint(p.Process.Pid)) || res.Locked.Waited > 5*time.Second {
				t.Errorf("got %+v", res)
			}
			a.wantRequests(t, 0)
			if dies {
				_ = p.Process.Kill()
				_ = p.Wait()
			} else {
				resume(p.Process)
				if res, ok := p.end(t); !ok || res.Calls != 1 {
					t.Errorf("the stopped one got %+v", res)
				}
			}
			if res := together(t, 1, j)[0]; res.Calls != 1 {
				t.Errorf("got %+v", res)
			}
			a.wantRequests(t, 1)
		})
	}
}
