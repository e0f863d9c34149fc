package rotation

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

const (
	replicas = 4
	poolSize = 16                    // of each replica; half of it may refresh at a time
	delay    = 50 * time.Millisecond // of the token endpoint's answers
	steps    = 6                     // of the minute in which the tokens end
	signIns  = 20                    // that each replica begins at the same moment

	appName     = "Many Users"
	redirectURL = "https://many.example.com/callback"
)

// Four replicas of a web application serve the same users over one database, and each case renews
// the token of every user once. First the tokens come due, step by step, while the replicas hold
// live ones. Then all tokens have ended, and every user comes to every replica at one moment. Last,
// no more users come at a time than may refresh, so that the figures show the cost of a refresh
// without the queue for it.
func TestManyUsers(t *testing.T) {
	all := []func(*usersEnv) *usersResult{(*usersEnv).comeDue, (*usersEnv).allEnded, (*usersEnv).inTurn}
	cases := map[int][]func(*usersEnv) *usersResult{100: all[:2], 1000: all[1:2]}
	if long {
		cases = map[int][]func(*usersEnv) *usersResult{100: all, 1000: all, 10_000: all}
	}
	fewer := make(map[string]*usersResult) // of each case, with fewer users
	for _, users := range slices.Sorted(maps.Keys(cases)) {
		t.Run(fmt.Sprint(users), func(t *testing.T) {
			e := newUsersEnv(t, users)
			for _, run := range cases[users] {
				r := run(e)
				e.check(r)
				testenv.Count(t, "many users", r.row()...)
				if f := fewer[r.name]; f != nil {
					testenv.Count(t, "many users, growth", r.growth(f)...)
				}
				fewer[r.name] = r
			}
			e.callAll()
		})
	}
}

// A usersEnv is the sandbox, the database and the replicas of one number of users.
type usersEnv struct {
	t        *testing.T
	sb       *sandbox.Server
	spec     storeSpec
	db       *pgx.Conn
	version  string // of the database
	users    int
	client   string           // the ID of the one registered client
	signedIn [steps]time.Time // when the last user of each group signed in, by the sandbox's clock
	replicas []*testenv.Child
}

func newUsersEnv(t *testing.T, users int) *usersEnv {
	sb := startSandbox(t, sandbox.Options{})
	e := &usersEnv{t: t, sb: sb, spec: newStoreSpec(t, "postgres"), users: users}
	e.spec.Conns = poolSize
	e.db = admin(t, e.spec.DSN)
	e.version = query[string](t, e.db, `select current_setting('server_version')`)
	store := e.spec.open().(*postgres.Store)
	t.Cleanup(store.Pool.Close)
	for range replicas {
		e.replicas = append(e.replicas, testenv.Spawn(t))
	}
	e.do(userTask{Open: &replicaConfig{Store: e.spec, Server: sb.URL(), API: sb.APIURL()}})

	for _, a := range e.do(userTask{SignIns: signIns}) {
		for _, id := range a.Clients {
			if e.client == "" {
				e.client = id
			} else if id != e.client {
				t.Fatalf("sign-ins of clients %s and %s", e.client, id)
			}
		}
	}
	if n := sb.Counts().Requests[sandbox.StepRegister]; n != 1 {
		t.Fatalf("%d registrations by %d replicas with %d sign-ins each", n, replicas, signIns)
	}
	registration := tokenstore.RegistrationKey(sb.Issuer(), appName, sb.APIURL(), redirectURL)
	if r, err := store.Get(t.Context(), registration); err != nil || r.Registration.ClientID != e.client {
		t.Fatalf("the stored registration is %+v, %v, not that of client %s", r.Registration, err, e.client)
	}

	start := sb.Now()
	for step := range steps {
		var g sync.WaitGroup
		for worker := range poolSize {
			from, to := e.group(step)
			g.Go(func() {
				for i := from + worker; i < to; i += poolSize {
					e.seed(store, registration, i)
				}
			})
		}
		g.Wait()
		e.signedIn[step] = sb.Now()
		sb.Advance(max(0, start.Add(time.Duration(step+1)*time.Minute/steps).Sub(sb.Now())))
	}
	if t.Failed() {
		t.FailNow()
	}
	if n := query[int](t, e.db, `select count(*)::int from astravue_mcp_tokens`); n != e.rows() {
		t.Fatalf("%d rows, want %d", n, e.rows())
	}
	store.Pool.Close()
	sb.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: delay})
	return e
}

// group returns the users who signed in within one step.
func (e *usersEnv) group(step int) (from, to int) {
	return e.users * step / steps, e.users * (step + 1) / steps
}

// rows is the number of rows that the table should have: one for each user, the registration, the
// count of registrations, and the key of the names.
func (e *usersEnv) rows() int { return e.users + 3 }

func account(i int) string { return fmt.Sprintf("user-%d", i) }

func (e *usersEnv) seed(s *postgres.Store, registration tokenstore.Key, i int) {
	now := e.sb.Now()
	tokens, err := e.sb.Issue(account(i), sandbox.IssueOptions{ClientID: e.client})
	if err != nil {
		e.t.Error(err)
		return
	}
	if err := s.Update(e.t.Context(), tokenstore.GrantKey(e.sb.URL(), account(i)), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: e.sb.URL(), Account: account(i), SignIn: fmt.Sprint(i), Issuer: e.sb.Issuer(), TokenEndpoint: tokens.TokenEndpoint,
			ClientID: tokens.ClientID, AuthMethod: "none", Registration: registration,
			Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
			AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now, ExpiresAt: now.Add(tokens.ExpiresIn),
			RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
		}})
		return err
	}); err != nil {
		e.t.Error(err)
	}
}

// do gives all replicas a task at one moment, and the sandbox's time, and returns their results.
func (e *usersEnv) do(todo userTask) []userResult {
	e.t.Helper()
	todo.Now = e.sb.Now()
	for _, child := range e.replicas {
		child.Send(task{User: &todo})
	}
	all := make([]userResult, len(e.replicas))
	for i, child := range e.replicas {
		var r result
		if !child.Receive(&r) {
			e.t.Fatalf("replica %d has died", i)
		}
		all[i] = r.User
		for _, err := range all[i].Errors {
			e.t.Errorf("replica %d: %s", i, err)
		}
	}
	if e.t.Failed() {
		e.t.FailNow()
	}
	return all
}

// A usersResult is the result of a case, in which every user's token is renewed once.
type usersResult struct {
	*usersEnv
	name     string // of the case
	requests int    // to the token endpoint
	took     time.Duration
	waited   []time.Duration // by each caller who started a refresh, for its end
	conns    int             // at most, at the database
	rss      int64           // of the largest replica
	heap     int64           // of the largest replica, without what it held before it had users
}

// measure runs f, which gives the replicas their tasks, and returns the result of the case.
func (e *usersEnv) measure(name string, f func(r *usersResult)) *usersResult {
	r := &usersResult{usersEnv: e, name: name}
	e.sb.ClearRequests()
	ctx, stop := context.WithCancel(e.t.Context())
	var sampler sync.WaitGroup
	sampler.Go(func() { r.conns = e.peak(ctx) })
	f(r)
	stop()
	sampler.Wait()
	r.requests = e.sb.Counts().Requests[sandbox.StepRefresh]
	for _, a := range e.do(userTask{Weigh: true}) {
		r.rss, r.heap = max(r.rss, a.RSS), max(r.heap, a.Heap)
		if a.Acquired != 0 {
			e.t.Errorf("%s: a replica whose users are all idle has %d connections in use", name, a.Acquired)
		}
	}
	return r
}

const connections = `select count(*)::int from pg_stat_activity where datname = current_database() and backend_type = 'client backend' and application_name <> 'counts'`

// peak returns the highest number of connections until ctx ends.
func (e *usersEnv) peak(ctx context.Context) (most int) {
	c, err := pgx.Connect(ctx, e.spec.DSN+"&application_name=counts")
	if err != nil {
		e.t.Error(err)
		return 0
	}
	defer c.Close(context.WithoutCancel(ctx))
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-tick.C:
			var n int
			if err := c.QueryRow(context.WithoutCancel(ctx), connections).Scan(&n); err != nil {
				e.t.Error(err)
				return most
			}
			most = max(most, n-1) // without e.db
		case <-ctx.Done():
			tick.Stop()
			return most
		}
	}
}

// comeDue has the replicas hold every user's live token, and goes through the minute in which the
// tokens come due. No user waits then: the replicas renew the tokens in the background.
func (e *usersEnv) comeDue() *usersResult {
	e.do(userTask{To: e.users})
	if n := e.sb.Counts().Requests[sandbox.StepRefresh]; n != 0 {
		e.t.Fatalf("%d token requests before anything is due", n)
	}
	return e.measure("come due", func(r *usersResult) {
		for step := range steps {
			due := e.signedIn[step].Add(29*time.Minute + time.Second) // of half an hour's life
			e.sb.Advance(max(0, due.Sub(e.sb.Now())))
			from, to := e.group(step)
			start := time.Now()
			r.add(e.do(userTask{From: from, To: to, Renewed: true}), from)
			r.took += time.Since(start)
			if n := e.sb.Counts().Requests[sandbox.StepRefresh]; n != to {
				e.t.Errorf("%d token requests when %d tokens have come due", n, to)
			}
		}
	})
}

// allEnded has all tokens end before any user comes again, and then all users come.
func (e *usersEnv) allEnded() *usersResult { return e.ended("all at once", 0) }

// inTurn is allEnded with so many users at a time that none waits for a connection.
func (e *usersEnv) inTurn() *usersResult { return e.ended("in turn", poolSize/2) }

func (e *usersEnv) ended(name string, callers int) *usersResult {
	e.sb.Advance(31 * time.Minute)
	return e.measure(name, func(r *usersResult) {
		start := time.Now()
		r.add(e.do(userTask{To: e.users, Callers: callers}), 0)
		r.took = time.Since(start)
	})
}

// add adds the results of all replicas, whose first user is from. They must hold one token for each
// user.
func (r *usersResult) add(all []userResult, from int) {
	for i, a := range all {
		r.waited = append(r.waited, a.Waited...)
		for user, generation := range a.Holds {
			if generation != all[0].Holds[user] {
				r.t.Errorf("%s: replicas 0 and %d hold different tokens of user %d", r.name, i, from+user)
			}
		}
	}
}

// check fails the test unless every token was renewed once and nothing is lost or left.
func (e *usersEnv) check(r *usersResult) {
	e.t.Helper()
	if r.requests != e.users || len(r.waited) != e.users {
		e.t.Errorf("%s: %d token requests for %d users, and the replicas know of %d", r.name, r.requests, e.users, len(r.waited))
	}
	if counts := e.sb.Counts(); counts.Grants != e.users || counts.Clients != 1 {
		e.t.Errorf("%s: %d of %d sessions are left, and %d registrations", r.name, counts.Grants, e.users, counts.Clients)
	}
	if r.conns == 0 || r.conns > replicas*poolSize {
		e.t.Errorf("%s: %d connections of %d pools of %d", r.name, r.conns, replicas, poolSize)
	}
	const locks = `select count(*)::int from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
	if n := query[int](e.t, e.db, locks); n != 0 {
		e.t.Errorf("%s: %d locks are still held", r.name, n)
	}
	if n := query[int](e.t, e.db, `select count(*)::int from astravue_mcp_tokens`); n != e.rows() {
		e.t.Errorf("%s: %d rows, want %d", r.name, n, e.rows())
	}
}

// callAll has every user make a call, each at one replica, with a client that has only the store.
func (e *usersEnv) callAll() {
	e.t.Helper()
	for i, r := range e.replicas {
		r.Send(task{User: &userTask{Now: e.sb.Now(), Calls: true, From: e.users * i / replicas, To: e.users * (i + 1) / replicas}})
	}
	good := 0
	for i, r := range e.replicas {
		var got result
		if !r.Receive(&got) || len(got.User.Errors) > 0 {
			e.t.Errorf("replica %d: %q", i, got.User.Errors)
		}
		good += got.User.Good
	}
	if counts := e.sb.Counts(); good != e.users || counts.Grants != e.users || counts.Requests[sandbox.StepRefresh] != e.users {
		e.t.Errorf("%d calls of %d users, %d sessions, %d token requests", good, e.users, counts.Grants, counts.Requests[sandbox.StepRefresh])
	}
}

func (r *usersResult) rate() float64 { return float64(r.users) / r.took.Seconds() }

func (r *usersResult) percentile(p int) time.Duration {
	if len(r.waited) == 0 {
		return 0
	}
	slices.Sort(r.waited)
	return r.waited[(len(r.waited)-1)*p/100]
}

func (r *usersResult) row() []any {
	return []any{
		"wave", r.name, "users", r.users, "token requests", r.requests, "lost", r.users - r.sb.Counts().Grants, "registrations", r.sb.Counts().Clients,
		"refreshes/s", fmt.Sprintf("%.0f", r.rate()),
		"p50", r.percentile(50).Round(time.Microsecond), "p99", r.percentile(99).Round(time.Microsecond),
		"connections", r.conns, "peak MB", r.rss >> 20, "bytes/user", r.heap / int64(r.users),
		"replicas", replicas, "pool", poolSize, "token endpoint", delay,
		"at most/s", float64(replicas*poolSize/2) / delay.Seconds(),
		"PostgreSQL", r.version, "cores", runtime.NumCPU(), "Go", runtime.Version(),
	}
}

// growth compares each figure with that of fewer users.
func (r *usersResult) growth(b *usersResult) []any {
	times := func(now, before float64) string { return fmt.Sprintf("×%.1f", now/before) }
	return []any{
		"wave", r.name, "users", fmt.Sprintf("%d → %d", b.users, r.users), "refreshes/s", times(r.rate(), b.rate()),
		"p50", times(float64(r.percentile(50)), float64(b.percentile(50))), "p99", times(float64(r.percentile(99)), float64(b.percentile(99))),
		"connections", times(float64(r.conns), float64(b.conns)), "peak MB", times(float64(r.rss), float64(b.rss)),
		"bytes/user", times(float64(r.heap)/float64(r.users), float64(b.heap)/float64(b.users)),
	}
}

// A userTask is what a replica does next: the first of Open, SignIns, Weigh and Calls that is set, or
// else it gets tokens.
type userTask struct {
	Now     time.Time      // by the sandbox's clock
	Open    *replicaConfig // open the store, once, before all other tasks
	SignIns int            // begin so many sign-ins at once
	Weigh   bool           // report memory and connections

	// The users from From to To get a token, so many Callers at a time (0: all). With Renewed they
	// wait until it is another one than this replica held. With Calls they make a call instead, each
	// with a new client.
	From, To       int
	Renewed, Calls bool
	Callers        int
}

type replicaConfig struct {
	Store       storeSpec
	Server, API string // URLs
}

type userResult struct {
	Errors   []string        // the first three
	Clients  []string        // IDs, of the sign-ins
	Holds    []string        // the generation of each user's token
	Waited   []time.Duration // by those users whose tokens this replica refreshed
	Good     int             // calls that succeeded
	RSS      int64           // at most
	Heap     int64           // more than before there were users
	Acquired int32           // connections in use
}

// A replica is a child that is one process of the application.
type replica struct {
	replicaConfig
	store   *postgres.Store
	http    http.RoundTripper
	sources []*refresh.Source
	holds   []string
	empty   int64 // the heap without users

	mu        sync.Mutex
	refreshed map[string]bool // the accounts that this replica refreshed in this task
	errors    []string
}

func (r *replica) run(o userTask) (a userResult) {
	clock.Advance(o.Now.Sub(clock.Now()))
	r.refreshed, r.errors = make(map[string]bool), nil
	switch {
	case o.Open != nil:
		r.open(*o.Open)
	case o.SignIns > 0:
		a.Clients = r.signIn(o.SignIns)
		r.empty = heap() // with its connections
	case o.Weigh:
		// A refresh in the background gives its connection back a moment after its token is there.
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if a.Acquired = r.store.Pool.Stat().AcquiredConns(); a.Acquired == 0 {
				break
			}
		}
		a.RSS, a.Heap = peakRSS(), heap()-r.empty
	case o.Calls:
		a.Good = r.call(o.From, o.To)
	default:
		a.Waited = r.access(o)
		a.Holds = r.holds[o.From:o.To]
	}
	a.Errors = r.errors
	return a
}

// fail keeps the first errors.
func (r *replica) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && len(r.errors) < 3 {
		r.errors = append(r.errors, err.Error())
	}
}

func (r *replica) open(c replicaConfig) {
	r.replicaConfig = c
	r.store = c.Store.open().(*postgres.Store)
	r.http = mcpclient.NewTransport(c.Server)
}

func (r *replica) client(account string) *mcpclient.Client {
	return &mcpclient.Client{Name: appName, Server: r.Server, Account: account, Store: r.store, Transport: r.http,
		NonInteractive: true, Registration: mcpclient.Registration{RedirectURL: redirectURL}}
}

// signIn begins so many sign-ins, each of another account, and returns the IDs of their clients.
func (r *replica) signIn(n int) (clients []string) {
	var g sync.WaitGroup
	clients = make([]string, n)
	for i := range n {
		g.Go(func() {
			c := r.client(fmt.Sprintf("new-%d-%d", os.Getpid(), i))
			defer c.Close()
			address, _, err := c.BeginLogin(context.Background())
			r.fail(err)
			if u, err := url.Parse(address); err == nil {
				clients[i] = u.Query().Get("client_id")
			}
		})
	}
	g.Wait()
	return clients
}

// access gets a token for each user, in any order, and returns how long those waited whose token this
// replica refreshed.
func (r *replica) access(o userTask) []time.Duration {
	for i := len(r.sources); i < o.To; i++ {
		r.holds = append(r.holds, "")
		r.sources = append(r.sources, refresh.New(refresh.Config{
			Store: r.store, Key: tokenstore.GrantKey(r.Server, account(i)),
			HTTPClient: &http.Client{Transport: r.http}, Logger: slog.New(r),
		}))
	}
	took := make([]time.Duration, o.To)
	turns := make(chan bool, cmp.Or(o.Callers, o.To))
	var g sync.WaitGroup
	for _, i := range rand.Perm(o.To - o.From) {
		i += o.From
		turns <- true
		g.Go(func() {
			defer func() { <-turns }()
			start := time.Now()
			a, err := r.sources[i].Access(context.Background())
			took[i] = time.Since(start)
			for deadline := start.Add(2 * time.Minute); err == nil && o.Renewed && a.Generation == r.holds[i]; {
				if time.Now().After(deadline) {
					err = errors.New("the token is not renewed after two minutes")
					break
				}
				time.Sleep(delay)
				a, err = r.sources[i].Access(context.Background())
			}
			if err != nil {
				r.fail(fmt.Errorf("%s: %w", account(i), err))
				return
			}
			r.holds[i] = a.Generation
		})
	}
	g.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var waited []time.Duration
	for i := o.From; i < o.To; i++ {
		if r.refreshed[account(i)] {
			waited = append(waited, took[i])
		}
	}
	return waited
}

func (r *replica) call(from, to int) (good int) {
	var g sync.WaitGroup
	turns := make(chan bool, poolSize)
	for i := from; i < to; i++ {
		turns <- true
		g.Go(func() {
			defer func() { <-turns }()
			c := r.client(account(i))
			defer c.Close()
			resp, err := c.HTTPClient().Get(r.API + "/api/v1/projects")
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				}
			}
			r.fail(err)
			if err == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				good++
			}
		})
	}
	g.Wait()
	return good
}

// A replica is the log of its sources as well, and learns from it whom they refreshed.

func (r *replica) Enabled(context.Context, slog.Level) bool { return true }
func (r *replica) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *replica) WithGroup(string) slog.Handler            { return r }

func (r *replica) Handle(_ context.Context, rec slog.Record) error {
	var account, outcome string
	rec.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "account":
			account = a.Value.String()
		case "outcome":
			outcome = a.Value.String()
		}
		return true
	})
	if outcome == "refreshed" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refreshed[account] = true
	}
	return nil
}

// admin looks at the database from outside.
func admin(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func query[T any](t testing.TB, c *pgx.Conn, sql string) T {
	t.Helper()
	rows, err := c.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// heap returns how much memory is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// peakRSS returns how much memory this process had at most, 0 where that is not known.
func peakRSS() (bytesHeld int64) {
	data, _ := os.ReadFile("/proc/self/status")
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "VmHWM: %d kB", &bytesHeld); n == 1 {
			return bytesHeld << 10
		}
	}
	return 0
}
