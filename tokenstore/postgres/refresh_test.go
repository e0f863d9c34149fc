package postgres_test

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
	"github.com/jackc/pgx/v5/pgxpool"

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
	answers  = 50 * time.Millisecond // what the token endpoint takes
	steps    = 6                     // in which the minute passes that the tokens end in
	signIns  = 20                    // that each replica begins at the same moment

	appName     = "Many Users"
	redirectURL = "https://many.example.com/callback"
)

func TestMain(m *testing.M) {
	r := new(replica)
	testenv.Serve(r.do)
	os.Exit(m.Run())
}

// Four replicas of a web application serve the same users, whose tokens end within one minute,
// against a server that ends the session of who sends a refresh token twice: first while they
// come due, step by step, and the replicas hold live ones; then with all of them dead, and every
// user at every replica at the same moment; and then with no more callers at a time than may
// refresh, so that it shows what a refresh costs without the queue for it.
func TestManyUsers(t *testing.T) {
	all := []func(*many) *wave{(*many).comeDue, (*many).allDead, (*many).inTurn}
	waves := map[int][]func(*many) *wave{100: all[:2], 1000: all[1:2]}
	if os.Getenv(testenv.Long) == "1" {
		waves = map[int][]func(*many) *wave{100: all, 1000: all, 10_000: all}
	}
	before := make(map[string]*wave)
	for _, users := range slices.Sorted(maps.Keys(waves)) {
		t.Run(fmt.Sprint(users), func(t *testing.T) {
			m := newMany(t, users)
			for _, run := range waves[users] {
				w := run(m)
				m.check(w)
				testenv.Count(t, "many users", w.row()...)
				if b := before[w.name]; b != nil {
					testenv.Count(t, "many users, growth", w.growth(b)...)
				}
				before[w.name] = w
			}
			m.callAll()
		})
	}
}

// many is the application, its users and their server.
type many struct {
	t        *testing.T
	sb       *sandbox.Server
	dsn      string
	db       *pgx.Conn
	version  string // of the database
	users    int
	client   string           // the one that is registered
	signedIn [steps]time.Time // when the last user of each group has, by the sandbox's clock
	replicas []*testenv.Process
}

func newMany(t *testing.T, users int) *many {
	sb, err := sandbox.Start(sandbox.Options{CheckSession: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sb.Close() })
	m := &many{t: t, sb: sb, dsn: testenv.Postgres(t), users: users}
	m.db = admin(t, m.dsn)
	m.version = query[string](t, m.db, `select current_setting('server_version')`)[0]
	store := open(t, m.dsn, poolSize)
	for range replicas {
		m.replicas = append(m.replicas, testenv.Spawn(t))
	}
	m.order(order{Open: &place{DSN: m.dsn, Server: sb.URL(), API: sb.APIURL()}})

	for _, a := range m.order(order{SignIns: signIns}) {
		for _, id := range a.Clients {
			if m.client == "" {
				m.client = id
			} else if id != m.client {
				t.Fatalf("sign-ins of clients %s and %s", m.client, id)
			}
		}
	}
	if n := sb.Counts().Requests[sandbox.StepRegister]; n != 1 {
		t.Fatalf("%d registrations by %d replicas with %d sign-ins each", n, replicas, signIns)
	}
	registration := tokenstore.RegistrationKey(sb.Issuer(), appName, sb.APIURL(), redirectURL)
	if r, err := store.Get(t.Context(), registration); err != nil || r.Registration.ClientID != m.client {
		t.Fatalf("the stored registration is %+v, %v, not that of client %s", r.Registration, err, m.client)
	}

	start := sb.Now()
	for step := range steps {
		var g sync.WaitGroup
		for worker := range poolSize {
			from, to := m.group(step)
			g.Go(func() {
				for i := from + worker; i < to; i += poolSize {
					m.seed(store, registration, i)
				}
			})
		}
		g.Wait()
		m.signedIn[step] = sb.Now()
		sb.Advance(max(0, start.Add(time.Duration(step+1)*time.Minute/steps).Sub(sb.Now())))
	}
	if t.Failed() {
		t.FailNow()
	}
	if n := query[int](t, m.db, `select count(*)::int from astravue_mcp_tokens`)[0]; n != m.rows() {
		t.Fatalf("%d rows, want %d", n, m.rows())
	}
	store.Pool.Close()
	sb.Fail(sandbox.StepRefresh, sandbox.Fault{Delay: answers})
	return m
}

// group returns the users who have signed in within one step.
func (m *many) group(step int) (from, to int) {
	return m.users * step / steps, m.users * (step + 1) / steps
}

// rows is how many the table has: the users', the registration, the count of registrations, and the
// key of the names.
func (m *many) rows() int { return m.users + 3 }

func account(i int) string { return fmt.Sprintf("user-%d", i) }

func (m *many) seed(s *postgres.Store, registration tokenstore.Key, i int) {
	now := m.sb.Now()
	tokens, err := m.sb.Issue(account(i), sandbox.IssueOptions{ClientID: m.client})
	if err != nil {
		m.t.Error(err)
		return
	}
	if err := s.Update(m.t.Context(), tokenstore.GrantKey(m.sb.URL(), account(i)), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: m.sb.URL(), Account: account(i), SignIn: fmt.Sprint(i), Issuer: m.sb.Issuer(), TokenEndpoint: tokens.TokenEndpoint,
			ClientID: tokens.ClientID, AuthMethod: "none", Registration: registration,
			Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
			AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now, ExpiresAt: now.Add(tokens.ExpiresIn),
			RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
		}})
		return err
	}); err != nil {
		m.t.Error(err)
	}
}

// order gives all replicas the same order at the same moment, at the sandbox's time, and
// returns their answers.
func (m *many) order(o order) []answer {
	m.t.Helper()
	o.Now = m.sb.Now()
	for _, r := range m.replicas {
		r.Send(o)
	}
	all := make([]answer, len(m.replicas))
	for i, r := range m.replicas {
		if !r.Receive(&all[i]) {
			m.t.Fatalf("replica %d has died", i)
		}
		for _, err := range all[i].Errors {
			m.t.Errorf("replica %d: %s", i, err)
		}
	}
	if m.t.Failed() {
		m.t.FailNow()
	}
	return all
}

// A wave is every user's token renewed once.
type wave struct {
	*many
	name     string
	requests int // to the token endpoint
	took     time.Duration
	waited   []time.Duration // by callers, each for the refresh that it has started
	conns    int             // at most, at the database
	rss      int64           // of the largest replica
	heap     int64           // of the largest replica, for its users' tokens
}

// wave measures what f gives orders for.
func (m *many) wave(name string, f func(w *wave)) *wave {
	w := &wave{many: m, name: name}
	m.sb.ClearRequests()
	ctx, stop := context.WithCancel(m.t.Context())
	var sampler sync.WaitGroup
	sampler.Go(func() { w.conns = m.peak(ctx) })
	f(w)
	stop()
	sampler.Wait()
	w.requests = m.sb.Counts().Requests[sandbox.StepRefresh]
	for _, a := range m.order(order{Weigh: true}) {
		w.rss, w.heap = max(w.rss, a.RSS), max(w.heap, a.Heap)
		if a.Acquired != 0 {
			m.t.Errorf("%s: a replica whose users are all idle has %d connections in use", name, a.Acquired)
		}
	}
	return w
}

const connections = `select count(*)::int from pg_stat_activity where datname = current_database() and backend_type = 'client backend' and application_name <> 'counts'`

// peak returns the highest number of connections until ctx ends.
func (m *many) peak(ctx context.Context) (most int) {
	c, err := pgx.Connect(ctx, m.dsn+"&application_name=counts")
	if err != nil {
		m.t.Error(err)
		return 0
	}
	defer c.Close(context.WithoutCancel(ctx))
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-tick.C:
			var n int
			if err := c.QueryRow(context.WithoutCancel(ctx), connections).Scan(&n); err != nil {
				m.t.Error(err)
				return most
			}
			most = max(most, n-1) // without m.db
		case <-ctx.Done():
			tick.Stop()
			return most
		}
	}
}

// comeDue has the replicas hold every user's live token, and goes through the minute in
// which they come due. Nobody waits then: the replicas renew them in the background.
func (m *many) comeDue() *wave {
	m.order(order{To: m.users})
	if n := m.sb.Counts().Requests[sandbox.StepRefresh]; n != 0 {
		m.t.Fatalf("%d token requests before anything is due", n)
	}
	return m.wave("come due", func(w *wave) {
		for step := range steps {
			due := m.signedIn[step].Add(29*time.Minute + time.Second) // of half an hour's life
			m.sb.Advance(max(0, due.Sub(m.sb.Now())))
			from, to := m.group(step)
			start := time.Now()
			w.add(m.order(order{From: from, To: to, Renewed: true}), from)
			w.took += time.Since(start)
			if n := m.sb.Counts().Requests[sandbox.StepRefresh]; n != to {
				m.t.Errorf("%d token requests when %d tokens have come due", n, to)
			}
		}
	})
}

// allDead has all tokens end before anybody asks again.
func (m *many) allDead() *wave { return m.dead("all at once", 0) }

func (m *many) inTurn() *wave { return m.dead("in turn", poolSize/2) }

func (m *many) dead(name string, callers int) *wave {
	m.sb.Advance(31 * time.Minute)
	return m.wave(name, func(w *wave) {
		start := time.Now()
		w.add(m.order(order{To: m.users, Callers: callers}), 0)
		w.took = time.Since(start)
	})
}

// add collects what the replicas say who have called for the users from one on.
func (w *wave) add(all []answer, from int) {
	for i, a := range all {
		w.waited = append(w.waited, a.Waited...)
		for user, generation := range a.Holds {
			if generation != all[0].Holds[user] {
				w.t.Errorf("%s: replicas 0 and %d hold different tokens of user %d", w.name, i, from+user)
			}
		}
	}
}

// check fails the test unless every token was renewed once and nothing is lost or left.
func (m *many) check(w *wave) {
	m.t.Helper()
	if w.requests != m.users || len(w.waited) != m.users {
		m.t.Errorf("%s: %d token requests for %d users, and the replicas know of %d", w.name, w.requests, m.users, len(w.waited))
	}
	if counts := m.sb.Counts(); counts.Grants != m.users || counts.Clients != 1 {
		m.t.Errorf("%s: %d of %d sessions are left, and %d registrations", w.name, counts.Grants, m.users, counts.Clients)
	}
	if w.conns == 0 || w.conns > replicas*poolSize {
		m.t.Errorf("%s: %d connections of %d pools of %d", w.name, w.conns, replicas, poolSize)
	}
	const locks = `select count(*)::int from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
	if n := query[int](m.t, m.db, locks)[0]; n != 0 {
		m.t.Errorf("%s: %d locks are still held", w.name, n)
	}
	if n := query[int](m.t, m.db, `select count(*)::int from astravue_mcp_tokens`)[0]; n != m.rows() {
		m.t.Errorf("%s: %d rows, want %d", w.name, n, m.rows())
	}
}

// callAll has every user make a call, each at one replica that knows the store alone.
func (m *many) callAll() {
	m.t.Helper()
	for i, r := range m.replicas {
		r.Send(order{Now: m.sb.Now(), Calls: true, From: m.users * i / replicas, To: m.users * (i + 1) / replicas})
	}
	good := 0
	for i, r := range m.replicas {
		var a answer
		if !r.Receive(&a) || len(a.Errors) > 0 {
			m.t.Errorf("replica %d: %q", i, a.Errors)
		}
		good += a.Good
	}
	if counts := m.sb.Counts(); good != m.users || counts.Grants != m.users || counts.Requests[sandbox.StepRefresh] != m.users {
		m.t.Errorf("%d calls of %d users, %d sessions, %d token requests", good, m.users, counts.Grants, counts.Requests[sandbox.StepRefresh])
	}
}

func (w *wave) rate() float64 { return float64(w.users) / w.took.Seconds() }

func (w *wave) percentile(p int) time.Duration {
	if len(w.waited) == 0 {
		return 0
	}
	slices.Sort(w.waited)
	return w.waited[(len(w.waited)-1)*p/100]
}

func (w *wave) row() []any {
	return []any{
		"wave", w.name, "users", w.users, "token requests", w.requests, "lost", w.users - w.sb.Counts().Grants, "registrations", w.sb.Counts().Clients,
		"refreshes/s", fmt.Sprintf("%.0f", w.rate()),
		"p50", w.percentile(50).Round(time.Microsecond), "p99", w.percentile(99).Round(time.Microsecond),
		"connections", w.conns, "peak MB", w.rss >> 20, "bytes/user", w.heap / int64(w.users),
		"replicas", replicas, "pool", poolSize, "token endpoint", answers,
		"at most/s", float64(replicas*poolSize/2) / answers.Seconds(),
		"PostgreSQL", w.version, "cores", runtime.NumCPU(), "Go", runtime.Version(),
	}
}

// growth is what became of each figure since there were fewer users.
func (w *wave) growth(b *wave) []any {
	times := func(now, before float64) string { return fmt.Sprintf("×%.1f", now/before) }
	return []any{
		"wave", w.name, "users", fmt.Sprintf("%d → %d", b.users, w.users), "refreshes/s", times(w.rate(), b.rate()),
		"p50", times(float64(w.percentile(50)), float64(b.percentile(50))), "p99", times(float64(w.percentile(99)), float64(b.percentile(99))),
		"connections", times(float64(w.conns), float64(b.conns)), "peak MB", times(float64(w.rss), float64(b.rss)),
		"bytes/user", times(float64(w.heap)/float64(w.users), float64(b.heap)/float64(b.users)),
	}
}

// An order is what a replica is told to do at a time of the sandbox's.
type order struct {
	Now     time.Time
	Open    *place // once, before anything else
	SignIns int    // begin so many at once
	Weigh   bool

	// The users from From to To want a token: Renewed, and wait until a live one that they are
	// given is replaced; or with Calls they make a call with a client that is new.
	From, To       int
	Renewed, Calls bool
	Callers        int // at a time; 0: all
}

type place struct{ DSN, Server, API string }

type answer struct {
	Errors   []string
	Clients  []string        // of the sign-ins
	Holds    []string        // generations, of each user
	Waited   []time.Duration // by those for whom this replica has refreshed
	Good     int             // calls
	RSS      int64           // at most
	Heap     int64           // since there are users
	Acquired int32           // connections that somebody uses
}

// A replica is a process of the application.
type replica struct {
	place
	store   *postgres.Store
	http    http.RoundTripper
	sources []*refresh.Source
	holds   []string
	empty   int64 // the heap without users

	mu        sync.Mutex
	refreshed map[string]bool // accounts, by this replica
	errors    []string
}

func (r *replica) do(o order) (a answer) {
	clock.Advance(o.Now.Sub(clock.Now()))
	r.refreshed, r.errors = make(map[string]bool), nil
	switch {
	case o.Open != nil:
		r.open(*o.Open)
	case o.SignIns > 0:
		a.Clients = r.signIn(o.SignIns)
		r.empty = heap() // with its connections
	case o.Weigh:
		// Who refreshes in the background gives the lock back after the token is there.
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

func (r *replica) open(p place) {
	r.place = p
	pool, err := pgxpool.New(context.Background(), fmt.Sprintf("%s&pool_max_conns=%d", p.DSN, poolSize))
	if err != nil {
		r.fail(err)
		return
	}
	r.store = &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}}
	r.http = mcpclient.NewTransport(p.Server)
}

func (r *replica) client(account string) *mcpclient.Client {
	return &mcpclient.Client{Name: appName, Server: r.Server, Account: account, Store: r.store, Transport: r.http,
		NonInteractive: true, Registration: mcpclient.Registration{RedirectURL: redirectURL}}
}

// signIn begins sign-ins of accounts of its own, and returns the clients that they are for.
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

// access has the users ask for a token, in any order.
func (r *replica) access(o order) []time.Duration {
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
				time.Sleep(answers)
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

// A replica is the log of its sources, too: it counts what they have refreshed.

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
