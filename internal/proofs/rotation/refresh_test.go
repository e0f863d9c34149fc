package rotation

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	processes  = 8
	goroutines = 64
)

var (
	lives     = []time.Duration{3 * time.Second, 15 * time.Second, 90 * time.Second}
	endpoints = []time.Duration{0, 200 * time.Millisecond, slow}
)

// slow is how long the token endpoint takes for an answer, if that is longer than the shortest life.
const slow = 5 * time.Second

var roundsFlag = flag.Int("rounds", 0, "how often each case is repeated; 0: once, in the long mode 100 times")

func rounds() int {
	switch {
	case *roundsFlag > 0:
		return *roundsFlag
	case long:
		return 100
	}
	return 1
}

// eachCase runs the test for each store, token endpoint and life of a token. In the short mode it
// leaves out those for which brief returns false. At the slow endpoint the cases run in parallel.
func eachCase(t *testing.T, brief func(kind string, endpoint, life time.Duration) bool,
	test func(t *testing.T, p storeSpec, endpoint, life time.Duration),
) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			for _, endpoint := range endpoints {
				met := slices.DeleteFunc(slices.Clone(lives), func(life time.Duration) bool {
					return !long && *roundsFlag == 0 && !brief(kind, endpoint, life)
				})
				if len(met) == 0 {
					continue
				}
				t.Run(answers(endpoint), func(t *testing.T) {
					for _, life := range met {
						t.Run(seconds(life), func(t *testing.T) {
							if endpoint == slow {
								t.Parallel()
							}
							test(t, newStoreSpec(t, kind), endpoint, life)
						})
					}
				})
			}
		})
	}
}

// answers says how soon an endpoint answers.
func answers(endpoint time.Duration) string {
	if endpoint == 0 {
		return "at once"
	}
	return endpoint.String()
}

// seconds is a life in seconds, as expires_in has it.
func seconds(life time.Duration) string { return fmt.Sprintf("%gs", life.Seconds()) }

// Eight processes with 64 goroutines each call when their token has just expired. With every
// store each token is renewed by one request, in the last quarter of its life or afterwards, and no
// call fails.
func TestOneRefresh(t *testing.T) {
	if bare {
		t.Parallel()
	}
	brief := func(kind string, endpoint, life time.Duration) bool {
		switch endpoint {
		case 0:
			return life == lives[0]
		case slow:
			return kind == "file" && life != lives[2]
		}
		return kind == "file" && life == lives[2]
	}
	eachCase(t, brief, func(t *testing.T, p storeSpec, endpoint, life time.Duration) {
		if endpoint > life {
			deadOnArrival(t, p, endpoint, life)
			return
		}
		srv := startSandbox(t, sandbox.Options{AccessTTL: life, AutoApprove: true})
		store := p.open()
		sent := []time.Time{seed(t, store, srv, 0)}
		all := spawn(t, processes)
		total := all.do(t, callTask{Connect: &connectTask{Store: p, Server: srv.URL()}})
		srv.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: endpoint})
		n := rounds()
		for round := range n {
			settle(t, store, srv)
			srv.Advance(life)
			total.add(all.do(t, callTask{Advance: life}))
			got := all.do(t, callTask{Callers: goroutines})
			if got.Called != processes*goroutines || srv.Counts().Grants != 1 {
				t.Fatalf("round %d: %v; %d sessions are left", round, got, srv.Counts().Grants)
			}
			total.add(got)
		}
		total.add(all.do(t, callTask{Leave: true}))
		sent = append(sent, total.Sent...)
		requests := len(sent) - 1
		if got := srv.Counts().Requests[sandbox.StepRefresh]; got != requests || requests < n {
			t.Errorf("%d token requests were begun and %d arrived, for %d tokens that had expired", requests, got, n)
		}
		wantSpentOnce(t, sent, life*3/4)
		wantNoSignIn(t, total, srv)
		testenv.Count(t, "one refresh", "store", p.Kind, "token life", seconds(life), "token endpoint", answers(endpoint),
			"callers", callers, "rounds", n, "calls", total.Called, "failed", len(total.Failed), "token requests", requests,
			"of these early", requests-n, "sign-ins", total.Browsers)
	})
}

var callers = fmt.Sprintf("%d × %d", processes, goroutines)

// wantSpentOnce checks that no token was renewed sooner than that after the request that brought it. A
// second refresh later than that needs no check: the server would have ended the session.
func wantSpentOnce(t *testing.T, sent []time.Time, least time.Duration) {
	t.Helper()
	for i := range sent[1:] {
		if age := sent[i+1].Sub(sent[i]); age < least {
			t.Errorf("token %d was renewed after %v, and not before %v was it due", i, age, least)
		}
	}
}

func wantNoSignIn(t *testing.T, got callResult, srv *sandbox.Server) {
	t.Helper()
	requests := srv.Counts().Requests
	if n := requests[sandbox.StepAuthorize] + requests[sandbox.StepExchange] + requests[sandbox.StepRegister]; n != 0 || got.Browsers != 0 {
		t.Errorf("%d browsers were opened: %v", got.Browsers, requests)
	}
	if len(got.Failed) > 0 {
		t.Errorf("failed: %q", got.Failed)
	}
}

// settle waits for a refresh that the last call of a round may have started in the background, so that
// the clock does not move during it.
func settle(t *testing.T, store tokenstore.Store, srv *sandbox.Server) {
	t.Helper()
	rec, err := store.Get(t.Context(), key(srv))
	if err != nil {
		t.Fatal(err)
	}
	g := rec.Grant
	if life := g.ExpiresAt.Sub(g.ObtainedAt); srv.Now().Sub(g.ObtainedAt) > life*7/10 {
		time.Sleep(time.Second) // for it to take the lock
	}
	if err := store.Update(t.Context(), key(srv), func(context.Context, *tokenstore.Locked) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// Tokens take longer to come than they live. Each call gets an error that says so, and all processes
// together send no more requests than the back-off allows. It begins when an answer has come and
// doubles, less a quarter, up to a minute. Calls go on when the endpoint is faster.
func deadOnArrival(t *testing.T, p storeSpec, endpoint, life time.Duration) {
	srv := startSandbox(t, sandbox.Options{AccessTTL: life, AutoApprove: true})
	store := p.open()
	seed(t, store, srv, 0)
	all := spawn(t, processes)
	total := all.do(t, callTask{Connect: &connectTask{Store: p, Server: srv.URL()}})
	settle(t, store, srv)
	before := srv.Counts().Requests[sandbox.StepRefresh]
	mend := srv.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: endpoint})
	n := rounds()
	const each = 2 // the second call comes when the first has failed
	advance := func(d time.Duration) {
		srv.Advance(d)
		total.add(all.do(t, callTask{Advance: d}))
	}
	advance(life)
	var sent []time.Time
	for round := range n {
		got := all.do(t, callTask{Callers: goroutines, Each: each})
		if got.Dead != processes*goroutines*each || len(got.Sent) == 0 || srv.Counts().Grants != 1 {
			t.Fatalf("round %d: %v; %d sessions are left", round, got, srv.Counts().Grants)
		}
		sent = append(sent, got.Sent...)
		total.add(got)
		advance(got.Retry.Sub(srv.Now()) + time.Millisecond)
	}
	for i := range sent[1:] {
		backoff := min(time.Second<<min(i, 6), time.Minute) * 3 / 4
		if gap := sent[i+1].Sub(sent[i]); gap < endpoint+backoff {
			t.Errorf("token request %d came %v after the one before; the answer took %v, the back-off is at least %v", i+1, gap, endpoint, backoff)
		}
	}
	if got := srv.Counts().Requests[sandbox.StepRefresh] - before; got != len(sent) {
		t.Errorf("%d token requests were begun and %d arrived", len(sent), got)
	}
	mend()
	got := all.do(t, callTask{Callers: goroutines, Leave: true})
	if got.Called != processes*goroutines || srv.Counts().Grants != 1 {
		t.Errorf("at last: %v; %d sessions are left", got, srv.Counts().Grants)
	}
	wantNoSignIn(t, total, srv)
	testenv.Count(t, "dead on arrival", "store", p.Kind, "token life", seconds(life), "token endpoint", answers(endpoint), "callers", callers,
		"rounds", n, "calls that said so", total.Dead, "others", total.Called+total.Locked+len(total.Failed),
		"token requests", len(sent), "sign-ins", total.Browsers, "calls afterwards", got.Called)
}

// Calls go on for some lives of a token, by a clock that nobody moves. The first process that sees the
// last quarter of a life begin renews the token, and the others do not.
func TestOneRefreshWhileCallsGoOn(t *testing.T) {
	if bare {
		t.Parallel()
	}
	for _, kind := range []string{"keychain", "file", "postgres"} {
		if kind != "file" && !long && *roundsFlag == 0 {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			const life, callers = 3 * time.Second, 2
			p := newStoreSpec(t, kind)
			srv := startSandbox(t, sandbox.Options{AccessTTL: life, AutoApprove: true})
			srv.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: 200 * time.Millisecond})
			sent := []time.Time{seed(t, p.open(), srv, 0)}
			all := spawn(t, processes)
			total := all.do(t, callTask{Connect: &connectTask{Store: p, Server: srv.URL()}})
			n := rounds()
			total.add(all.do(t, callTask{Callers: callers, For: life*time.Duration(n) + life/2}))
			total.add(all.do(t, callTask{Leave: true}))
			sent = append(sent, total.Sent...)
			requests, early := len(sent)-1, 0
			for i := range requests {
				if sent[i+1].Sub(sent[i]) < life {
					early++
				}
			}
			if got := srv.Counts(); got.Requests[sandbox.StepRefresh] != requests || requests < n || got.Grants != 1 {
				t.Errorf("%d token requests were begun in %d lives and %d arrived; %d sessions are left",
					requests, n, got.Requests[sandbox.StepRefresh], got.Grants)
			}
			if total.Dead+total.Locked > 0 {
				t.Errorf("%v", total)
			}
			wantSpentOnce(t, sent, life*3/4)
			wantNoSignIn(t, total, srv)
			testenv.Count(t, "calls that go on", "store", kind, "token life", seconds(life), "token endpoint", "200ms",
				"callers", fmt.Sprintf("%d × %d", processes, callers), "lives", n, "calls", total.Called,
				"failed", len(total.Failed)+total.Dead+total.Locked, "token requests", requests, "of these early", early,
				"sign-ins", total.Browsers)
		})
	}
}

// TestOneRefreshFromColdStart is TestOneRefresh with processes that start when the token has expired.
func TestOneRefreshFromColdStart(t *testing.T) {
	brief := func(_ string, endpoint, life time.Duration) bool { return endpoint == endpoints[1] && life == lives[1] }
	eachCase(t, brief, func(t *testing.T, p storeSpec, endpoint, life time.Duration) {
		srv := startSandbox(t, sandbox.Options{AccessTTL: life, AutoApprove: true})
		srv.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: endpoint})
		store := p.open()
		var total callResult
		n := rounds()
		for round := range n {
			if err := srv.EndSession("mia"); err != nil {
				t.Fatal(err)
			}
			seed(t, store, srv, life)
			all := spawn(t, processes)
			got := all.do(t, callTask{Connect: &connectTask{Store: p, Server: srv.URL()}, Callers: goroutines, Leave: true})
			for _, p := range all {
				_ = p.Stop()
			}
			called, dead, least := processes*goroutines, 0, life*3/4
			if endpoint > life {
				called, dead, least = 0, processes, endpoint+time.Second*3/4 // none is connected
			}
			if got.Called != called || got.Dead != dead || len(got.Sent) == 0 || srv.Counts().Grants != 1 {
				t.Fatalf("round %d: %v; %d sessions are left", round, got, srv.Counts().Grants)
			}
			wantSpentOnce(t, got.Sent, least)
			total.add(got)
		}
		if got := srv.Counts().Requests[sandbox.StepRefresh]; got != len(total.Sent) {
			t.Errorf("%d token requests were begun and %d arrived", len(total.Sent), got)
		}
		wantNoSignIn(t, total, srv)
		testenv.Count(t, "cold start", "store", p.Kind, "token life", seconds(life), "token endpoint", answers(endpoint),
			"callers", callers, "rounds", n, "calls", total.Called, "failed", len(total.Failed), "dead on arrival", total.Dead,
			"token requests", len(total.Sent), "beyond one a round", len(total.Sent)-n, "sign-ins", total.Browsers)
	})
}

// One process is stopped while it holds the lock. The others wait no longer than their own lock
// timeout, and their errors name the holder. Calls go on when the holder goes on or dies, or when the
// database takes the lock away from a holder that says nothing.
func TestStoppedWhileHoldingTheLock(t *testing.T) {
	if bare {
		t.Parallel()
	}
	testenv.Need(t, "a platform that can stop a process", canStop, "this one cannot")
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			for _, end := range []string{"goes on", "dies", "is cut off"} {
				if end == "is cut off" && kind != "postgres" {
					continue // a file's lock lasts as long as its holder
				}
				t.Run(end, func(t *testing.T) { stoppedHolder(t, newStoreSpec(t, kind), end) })
			}
		})
	}
}

func stoppedHolder(t *testing.T, p storeSpec, end string) {
	const callers, patience = goroutines, 500 * time.Millisecond
	const late = patience + 2*time.Second // for an error that names the holder, on a busy machine
	var total callResult
	var longest time.Duration // that somebody waited for the lock
	n := rounds()
	for range n {
		srv := startSandbox(t, sandbox.Options{AutoApprove: true})
		store := p.open()
		seed(t, store, srv, 0)
		all := spawn(t, processes)
		holder, others := all[:1], all[1:]

		j := connectTask{Store: p, Server: srv.URL(), StopAt: "refresh.marked"}
		if end == "is cut off" {
			j.Store.IdleTimeout, j.RequestTimeout = 3*time.Second, 2*time.Second
		}
		holder.do(t, callTask{Connect: &j})
		j = connectTask{Store: p, Server: srv.URL()}
		j.Store.LockTimeout = patience
		others.do(t, callTask{Connect: &j})
		advance := func(c children, d time.Duration) {
			srv.Advance(d)
			c.do(t, callTask{Advance: d})
		}
		advance(all, time.Hour)
		holder.send(callTask{Callers: callers})
		testenv.Eventually(t, "it has the lock", func() bool { return isStopped(holder[0].Process.Pid) })

		got := others.do(t, callTask{Callers: callers})
		if got.Locked != len(others)*callers || srv.Counts().Requests[sandbox.StepRefresh] != 0 {
			t.Errorf("while it is stopped: %v", got)
		}
		if got.Longest > late {
			t.Errorf("somebody waited for %v", got.Longest)
		}
		longest = max(longest, got.Longest)
		for i, waited := range got.Waited {
			if waited < patience/2 || waited > late || !strings.Contains(got.Holders[i], fmt.Sprint(holder[0].Process.Pid)) {
				t.Fatalf("waited %v for %q", waited, got.Holders[i])
			}
		}
		total.add(got)

		switch end {
		case "goes on":
			resume(holder[0].Process)
			if got := holder.receive(t); got.Called != callers {
				t.Errorf("the one that was stopped %v", got)
			}
		case "dies":
			_ = holder[0].Process.Kill()
			_ = holder[0].Wait()
		case "is cut off":
			if err := store.Update(t.Context(), key(srv), func(context.Context, *tokenstore.Locked) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		advance(others, 2*time.Second) // the back-off
		// One process refreshes first, or the others would wait for it and count as locked out.
		total.add(others[:1].do(t, callTask{Callers: 1}))
		got = others.do(t, callTask{Callers: callers})
		if got.Called != len(others)*callers {
			t.Errorf("afterwards: %v", got)
		}
		total.add(got)
		if end == "is cut off" {
			resume(holder[0].Process)
			holder.receive(t) // it may have failed
			advance(holder, 2*time.Second)
			if got := holder.do(t, callTask{Callers: callers}); got.Called != callers {
				t.Errorf("the one that was cut off %v", got)
			}
		}
		if got := srv.Counts(); got.Requests[sandbox.StepRefresh] != 1 || got.Grants != 1 {
			t.Errorf("%d token requests, %d sessions are left", got.Requests[sandbox.StepRefresh], got.Grants)
		}
		wantNoSignIn(t, total, srv)
		for _, p := range all {
			_ = p.Process.Kill()
		}
		closeStore(store)
		p.clear(t)
	}
	testenv.Count(t, "stopped holder", "store", p.Kind, "the holder", end, "callers", fmt.Sprintf("%d × %d", processes, callers),
		"rounds", n, "lock timeout", patience, "calls that named the holder", total.Locked,
		"longest of them", longest.Round(10*time.Millisecond), "calls afterwards", total.Called, "failed", len(total.Failed), "sign-ins", total.Browsers)
}
