package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

const (
	// How long a client waits that is to wait in vain.
	lockTimeout = 2 * time.Second
	callTimeout = 4 * time.Second

	blip = time.Second // is over while a save is still tried
)

// A storeEnv is a case's store, as two processes see it.
type storeEnv struct {
	t     *testing.T
	store tokenstore.Store        // the client's
	other tokenstore.Store        // another process's
	again func() tokenstore.Store // the client's, of its next process

	dir  string // of a File's records, or of a Keychain's locks
	line *relay // to the service
	dsn  string // of the database

	held  *together // nil: no other case shares the relay
	began bool
}

// hurry has the client wait for less than a test does.
func (s *storeEnv) hurry() {
	switch store := s.store.(type) {
	case *tokenstore.File:
		store.LockTimeout = lockTimeout
	case *tokenstore.Keychain:
		store.LockTimeout, store.CallTimeout = lockTimeout, callTimeout
	case *postgres.Store:
		store.LockTimeout, store.CallTimeout = lockTimeout, callTimeout
	}
}

// together calls f, with all that share the relay: in phase 0 when they fail, in phase 1 when
// they go on.
func (s *storeEnv) together(phase int, f func()) {
	if s.held == nil {
		f()
		return
	}
	if phase == 1 && !s.began { // it has failed before it should
		s.held.pass(0)
	}
	s.began = true
	s.held.do(phase, f)
}

// A storeFault is one way in which a store fails.
type storeFault struct {
	name  string
	begin func(*storeEnv)
	end   func(*storeEnv) // nil: it is over by itself
	wrong func(*storeEnv) // it is there from the start, in the client's own store
}

// A moment is when a storeFault begins.
type moment struct {
	name string
	x    exchange // whose requests are counted
	play func(*saveCase) error
}

// A saveDecision is what becomes of a moment in some troubles.
type saveDecision struct {
	at    *moment
	on    []*storeFault
	err   string // what identity says
	asked int
	store string // what kept.changes says, when the trouble is over
	after string
}

// A saveCase is one case.
type saveCase struct {
	*env
	storeEnv   *storeEnv
	storeFault *storeFault
	d          saveDecision
	once       sync.Once
	before     kept
}

const (
	asItWas    = "as it was"
	unreadable = "the grant stays as it is, unreadable"
	mended     = "a sign-in mends it"
	loggedOut  = "`mcpclient.ErrLoginRequired`, and a sign-in mends it"
	nextGoesOn = "the next process goes on"
	nextLost   = "in the next process " + lost
)

var (
	atStart = &moment{"at the start, while the access token lives", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.fail()
		return c.ask()
	}}
	inLife = &moment{"in mid-session, while the access token lives", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		if err := c.ask(); err != nil {
			c.t.Fatal(err)
		}
		c.fail()
		return c.ask()
	}}
	atRefresh = &moment{"before a refresh", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(-time.Minute))
		c.fail()
		return c.ask()
	}}
	atSave = &moment{"at the save after a refresh, and over before the process ends", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(-time.Minute))
		c.failAt(refreshing)
		err := c.ask()
		if !strings.Contains(c.log.String(), `"outcome":"not-saved"`) {
			c.t.Error("that it is not saved is not logged")
		}
		c.mend()
		return errors.Join(err, c.restart())
	}}
	atSaveForGood = &moment{"at the save after a refresh, and until the process has ended", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(-time.Minute))
		c.failAt(refreshing)
		if err := c.ask(); err != nil {
			c.t.Errorf("the token is not used from memory: %v", err)
		}
		if err := c.ask(); err != nil {
			c.t.Errorf("the second time: %v", err)
		}
		err := c.restart()
		c.mend()
		return err
	}}
	atSaveForAMoment = &moment{"at the save after a refresh, for a second", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(-time.Minute))
		c.failAt(refreshing)
		err := c.ask()
		if strings.Contains(c.log.String(), `"outcome":"not-saved"`) {
			c.t.Errorf("the save is not tried again: %s", c.log.String())
		}
		return err
	}}
	atClear = &moment{"when the pending mark is to be removed", refreshing, func(c *saveCase) error {
		c.start(time.Now().Add(-time.Minute))
		c.failAt(refreshing)
		return c.ask()
	}}
	atLogin = &moment{"before a sign-in", codeExchange, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.fail()
		return c.login()
	}}
	atRegistration = &moment{"at the save after a registration", registration, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.failAt(registration)
		return c.login()
	}}
	atExchange = &moment{"at the save after the exchange", codeExchange, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.failAt(codeExchange)
		return c.login()
	}}
	atExchangeForAMoment = &moment{"at the save after the exchange, for a second", codeExchange, atExchange.play}
	atLogout             = &moment{"before a logout", revocation, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.fail()
		return c.logout()
	}}
	atRevocation = &moment{"at a logout, after the revocation", revocation, func(c *saveCase) error {
		c.start(time.Now().Add(time.Hour))
		c.failAt(revocation)
		return c.logout()
	}}
)

// start puts a grant in the store whose access token ends at that time.
func (c *saveCase) start(ends time.Time) {
	c.seed(ends)
	c.before = c.kept()
	c.startFault(c.d.at.x, &fault{})
}

func (c *saveCase) fail() {
	if c.storeFault.begin != nil {
		c.storeFault.begin(c.storeEnv)
	}
}

// failAt has the trouble begin when the server has carried out a request of x and the answer is
// on its way.
func (c *saveCase) failAt(x exchange) {
	c.startFault(x, &fault{play: func(s *strike) {
		a := s.answer()
		c.once.Do(c.fail)
		s.write(a, a.body)
	}})
}

// mend ends the trouble, once.
func (c *saveCase) mend() {
	if end := c.storeFault.end; end != nil {
		c.storeFault = &storeFault{}
		end(c.storeEnv)
	}
}

// ask makes a request that needs a token.
func (c *saveCase) ask() error {
	resp, err := timely(c.t, "Get", func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, serverURL, nil)
		if err != nil {
			return nil, err
		}
		return c.client.HTTPClient().Do(req)
	})
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized { // a GET asks for no sign-in
		_, err = c.connect()
	}
	return err
}

func (c *saveCase) logout() error {
	_, err := timely(c.t, "Logout", c.client.Logout)
	return err
}

// restart ends the process, as it were, and starts another. It returns what Close says.
func (c *saveCase) restart() error {
	_, err := timely(c.t, "Close", func(context.Context) (struct{}, error) { return struct{}{}, c.client.Close() })
	c.client = &mcpclient.Client{
		Name: appName, Server: serverURL, Store: c.storeEnv.again(), Transport: c.env, NonInteractive: true,
		OpenBrowser: c.browse, SignInTimeout: patience, RequestTimeout: 2 * patience,
	}
	return err
}

// patiently tries again when that may help.
func patiently(f func() error) error {
	for range 3 {
		err := f()
		retry := new(refresh.RetryError)
		if !errors.As(err, &retry) {
			return err
		}
		time.Sleep(time.Until(retry.At))
	}
	return f()
}

// save plays one case and returns what the user reads.
func (s *suite) save(t *testing.T, open func(*testing.T) *storeEnv, held *together, d saveDecision, tr *storeFault) string {
	c := &saveCase{storeEnv: open(t), storeFault: tr, d: d}
	c.storeEnv.held = held
	if tr.wrong != nil {
		tr.wrong(c.storeEnv)
	}
	c.env = newEnv(t, s.servers, s.servers.modern, func(client *mcpclient.Client) {
		client.Store, client.NonInteractive, client.RequestTimeout = c.storeEnv.store, true, 2*patience
	})
	c.store = c.storeEnv.other
	err := d.at.play(c)
	c.endFault()
	c.mend()
	if got := identity(err); got != d.err {
		t.Errorf("error: %s\nwant: %s\n%v", got, d.err, err)
	}
	if asked := c.seen().asked; asked != d.asked {
		t.Errorf("%d requests, want %d", asked, d.asked)
	}
	if got := c.keeps(); got != d.store {
		t.Errorf("the store: %s, want: %s", got, d.store)
	}
	c.mu.Lock()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		c.wantNoSecret("an error under "+verb, fmt.Sprintf(verb, err))
	}
	c.mu.Unlock()

	if d.after == nextGoesOn || d.after == nextLost || d.after == mended {
		if c.client.Logger != nil { // not restarted yet
			if err := c.restart(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	}
	again := c.ask
	switch d.after {
	case forgotten:
		if err := c.logout(); err != nil {
			t.Errorf("another logout: %v", err)
		}
		if got := c.kept().changes(c.before); got != forgotten {
			t.Errorf("after another logout, the store: %s", got)
		}
	case loggedOut:
		if err := again(); !errors.Is(err, mcpclient.ErrLoginRequired) {
			t.Errorf("in the next process: %v", err)
		}
		if err := c.login(); err != nil {
			t.Errorf("a sign-in: %v", err)
		}
	case mended:
		if err := again(); !errors.Is(err, tokenstore.ErrCorrupt) {
			t.Errorf("in the next process: %v", err)
		}
		if err := c.login(); err != nil {
			t.Errorf("a sign-in: %v", err)
		}
	case nextLost:
		if err := again(); !errors.Is(err, refresh.ErrAnswerLost) {
			t.Errorf("in the next process: %v", err)
		}
		if err := c.login(); err != nil {
			t.Errorf("a sign-in: %v", err)
		}
	}
	if d.at == atLogin || d.at == atExchange || d.at == atRegistration || d.after == forgotten {
		again = c.login
	}
	if err := patiently(again); err != nil {
		t.Errorf("when it is over: %v", err)
	}
	text := sentence(err)
	if c.storeEnv.dir != "" {
		text = strings.ReplaceAll(text, c.storeEnv.dir, "FOLDER")
	}
	text = sockets.ReplaceAllString(text, "FOLDER/")
	text = operations.ReplaceAllString(text, "is unavailable: OPERATION: $1")
	text = holders.ReplaceAllString(text, "by HOLDER after TIME")
	return loopback.ReplaceAllString(databases.ReplaceAllString(text, "database=NAME"), "ADDRESS")
}

// What differs from run to run.
var (
	sockets = regexp.MustCompile(`/[^ ]*/line\d+/`)
	// A pool may notice at the connection or at the query that nobody answers.
	operations = regexp.MustCompile(`is unavailable: [a-z ]+: (?:timeout: )?(CAUSE|failed to connect)`)
	holders    = regexp.MustCompile(`by (process|another process).* after [0-9.]+m?s`)
	databases  = regexp.MustCompile(`database=\w+`)
	loopback   = regexp.MustCompile(`127\.0\.0\.1:\d+( \(127\.0\.0\.1\))?`)
)

// keeps says what has become of what was kept. A mark of another generation than the stored one
// is void.
func (c *saveCase) keeps() string {
	r, err := c.store.Get(context.Background(), c.key())
	if errors.Is(err, tokenstore.ErrCorrupt) {
		return unreadable
	}
	k := c.kept()
	if k.mark.Generation != r.Generation {
		k.mark = tokenstore.Mark{}
	}
	return k.changes(c.before)
}

// saves plays what was decided for one kind of store.
func (s *suite) saves(t *testing.T, open func(*testing.T) *storeEnv, shares func(*storeFault) bool, decisions []saveDecision) string {
	t.Helper()
	type one struct {
		d  saveDecision
		tr *storeFault
	}
	var cases []one
	var labels []string
	held := map[*storeFault]*together{}
	for _, d := range decisions {
		for _, tr := range d.on {
			cases = append(cases, one{d, tr})
			labels = append(labels, tr.name+" "+d.at.name)
			if shares != nil && shares(tr) {
				if held[tr] == nil {
					held[tr] = newTogether()
				}
				held[tr].n++
			}
		}
	}
	read := make([]string, len(cases))
	play := func(chosen func(*storeFault) bool) {
		var mine []int
		var names []string
		for i, c := range cases {
			if chosen(c.tr) {
				mine, names = append(mine, i), append(names, labels[i])
			}
		}
		s.cases(t, names, func(t *testing.T, i int) {
			c := cases[mine[i]]
			if held[c.tr] != nil {
				defer held[c.tr].leave()
			}
			read[mine[i]] = s.save(t, open, held[c.tr], c.d, c.tr)
		})
	}
	play(func(tr *storeFault) bool { return held[tr] == nil })
	for tr := range held {
		play(func(other *storeFault) bool { return other == tr })
	}
	var rows [][]string
	next := 0
	for _, d := range decisions {
		var sentences, names []string
		for range d.on {
			names = append(names, cases[next].tr.name)
			if s := read[next]; s != "" && !slices.Contains(sentences, s) {
				sentences = append(sentences, s)
			}
			next++
		}
		rows = append(rows, []string{
			d.at.name, strings.Join(names, "; "), d.err, strconv.Itoa(d.asked), d.store, d.after, cmp.Or(strings.Join(sentences, "<br>"), "nothing"),
		})
	}
	return table([]string{"when", "what", "error", "requests", "store", "when it is over", "the user reads"}, rows)
}

// together has cases that share a service fail and go on at the same time.
type together struct {
	mu   sync.Mutex
	cond *sync.Cond
	n    int
	at   [2]int
	done [2]bool
}

func newTogether() *together {
	g := new(together)
	g.cond = sync.NewCond(&g.mu)
	return g
}

// do calls f once, when all have come to this phase.
func (g *together) do(phase int, f func()) {
	defer time.AfterFunc(patience/2, g.leave).Stop() // a case that does not run
	g.pass(phase)
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.at[phase] < g.n && !g.done[phase] {
		g.cond.Wait()
	}
	if !g.done[phase] {
		g.done[phase] = true
		f()
	}
}

func (g *together) pass(phase int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at[phase]++
	g.cond.Broadcast()
}

// leave is called by who has ended.
func (g *together) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	g.cond.Broadcast()
}

// loggingOut is another process that logs out while this one waits for its lock.
var loggingOut = &storeFault{name: "another process holds the lock and logs out", begin: func(s *storeEnv) {
	taken := make(chan struct{})
	go func() {
		_ = s.other.Update(context.Background(), tokenstore.GrantKey(serverURL, ""), func(ctx context.Context, l *tokenstore.Locked) error {
			close(taken)
			time.Sleep(blip / 2)
			return l.Delete(ctx)
		})
	}()
	<-taken
}}

// locked has another process hold the lock of the grant.
var locked = func() *storeFault {
	var mu sync.Mutex
	free := map[*storeEnv]chan struct{}{}
	return &storeFault{
		name:  "another process holds the lock",
		wrong: (*storeEnv).hurry,
		begin: func(s *storeEnv) {
			release, taken := make(chan struct{}), make(chan struct{})
			mu.Lock()
			free[s] = release
			mu.Unlock()
			go func() {
				_ = s.other.Update(context.Background(), tokenstore.GrantKey(serverURL, ""), func(context.Context, *tokenstore.Locked) error {
					close(taken)
					<-release
					return nil
				})
			}()
			<-taken
		},
		end: func(s *storeEnv) {
			mu.Lock()
			defer mu.Unlock()
			close(free[s])
		},
	}
}()
