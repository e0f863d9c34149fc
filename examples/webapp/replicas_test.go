package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// An order tells a replica what to do: the one field that is set.
type order struct {
	Run  []string      // the application, with these arguments
	Move time.Duration // by which its clock moves
	Stop bool
}

type answer struct {
	Address string // where it listens
	Err     string
}

func TestMain(m *testing.M) {
	var stop context.CancelFunc
	done := make(chan error, 1)
	testenv.Serve(func(o order) (a answer) {
		var err error
		switch {
		case o.Run != nil:
			var ctx context.Context
			ctx, stop = context.WithCancel(context.Background())
			read, write := io.Pipe()
			go func() {
				err := run(ctx, o.Run, io.Discard, write)
				_ = write.CloseWithError(err)
				done <- err
			}()
			log := bufio.NewReader(read)
			for a.Address == "" && err == nil {
				var line string
				line, err = log.ReadString('\n')
				_, a.Address, _ = strings.Cut(strings.TrimSpace(line), "msg=listening address=")
			}
			go io.Copy(io.Discard, log)
		case o.Stop:
			stop()
			err = <-done
		default:
			clock.Advance(o.Move)
		}
		if err != nil {
			a.Err = err.Error()
		}
		return a
	})
	os.Exit(m.Run())
}

// A cluster is two processes of the application behind one address.
type cluster struct {
	t        *testing.T
	app      *app // as a browser knows it
	dsn      string
	args     []string
	env      []string
	replicas [2]*testenv.Child
	at       [2]atomic.Pointer[url.URL]
	turn     atomic.Int32 // requests go to the replicas by turns
}

func startCluster(t *testing.T, srv *sandbox.Server) *cluster {
	t.Helper()
	c := &cluster{t: t, dsn: testenv.Postgres(t)}
	balancer := httptest.NewServer(testenv.Proxy(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(c.at[c.turn.Add(1)%2].Load())
		r.Out.Host = r.In.Host
	}}))
	t.Cleanup(balancer.Close)
	c.app = &app{config: config{URL: balancer.URL}}

	dir := t.TempDir()
	cookies, tokens := filepath.Join(dir, "cookies.key"), filepath.Join(dir, "tokens.keys")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cookies, rand.Text()+rand.Text())
	write(tokens, newKey()+"\n"+newKey()+"\n")
	c.args = []string{"-listen", "127.0.0.1:0", "-url", balancer.URL, "-key-file", cookies, "-postgres", tokens}
	c.env = []string{"DATABASE_URL=" + c.dsn, "ASTRAVUE_MCP_SERVER=" + srv.URL()}
	for i := range c.replicas {
		c.start(i)
	}
	return c
}

func newKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

func (c *cluster) start(i int) {
	c.t.Helper()
	c.replicas[i] = testenv.Spawn(c.t, c.env...)
	c.at[i].Store(&url.URL{Scheme: "http", Host: c.do(i, order{Run: c.args}).Address})
}

func (c *cluster) do(i int, o order) (a answer) {
	c.t.Helper()
	c.replicas[i].Send(o)
	if !c.replicas[i].Receive(&a) || a.Err != "" {
		c.t.Fatalf("replica %d: %s", i, a.Err)
	}
	return a
}

// to sends the next request to a replica.
func (c *cluster) to(i int) { c.turn.Store(int32(i + 1)) }

func (c *cluster) rows() int {
	c.t.Helper()
	db, err := pgx.Connect(c.t.Context(), c.dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close(c.t.Context())
	var n int
	if err := db.QueryRow(c.t.Context(), `select count(*) from astravue_mcp_tokens`).Scan(&n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// copied returns another browser with the same cookies.
func (b *browser) copied(address string) *browser {
	b.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	other := newBrowser(b.t)
	other.http.Jar.SetCookies(u, b.http.Jar.Cookies(u))
	return other
}

func TestTwoProcesses(t *testing.T) {
	srv := startSandbox(t)
	c := startCluster(t, srv)
	exchanges := func(want int) {
		t.Helper()
		if n := srv.Counts().Requests[sandbox.StepExchange]; n != want {
			t.Errorf("%d codes were sent, want %d", n, want)
		}
	}

	// A sign-in that begins at one replica ends at the other, and its session is good at both.
	mia := newBrowser(t)
	c.to(0)
	callback := mia.approve(c.app, "mia")
	kept := mia.copied(c.app.URL)
	c.to(1)
	mia.get(callback).has(200, onlyMia) // the redirect after it went to the first
	mia.get(c.app.URL).has(200, onlyMia)
	mia.get(c.app.URL).has(200, onlyMia)

	// A callback works once, at either replica, one after the other or at one moment.
	for range 2 {
		kept.copied(c.app.URL).get(callback).has(400, "This sign-in is over")
	}
	exchanges(1)
	adam := newBrowser(t)
	callback = adam.approve(c.app, "adam")
	adams, late := [2]*browser{adam, adam.copied(c.app.URL)}, adam.copied(c.app.URL)
	var views [2]view
	var g sync.WaitGroup
	for i, b := range adams {
		g.Go(func() { views[i] = b.get(callback) })
	}
	g.Wait()
	if views[0].status == http.StatusBadRequest {
		views[0], views[1], adam = views[1], views[0], adams[1]
	}
	views[0].has(200, onlyAdam)
	views[1].has(400, "This sign-in is over")
	exchanges(2)

	// Both replicas hold both users' tokens. After they expire each is renewed once.
	for range 2 {
		mia.get(c.app.URL).has(200, onlyMia)
		adam.get(c.app.URL).has(200, onlyAdam)
	}
	srv.Advance(31 * time.Minute)
	for i := range c.replicas {
		c.do(i, order{Move: 31 * time.Minute})
	}
	for range 6 {
		g.Go(func() { mia.get(c.app.URL).has(200, onlyMia) })
		g.Go(func() { adam.get(c.app.URL).has(200, onlyAdam) })
	}
	g.Wait()
	if got := srv.Counts(); got.Requests[sandbox.StepRefresh] != 2 || got.Grants != 2 || got.Clients != 1 {
		t.Errorf("%d refreshes of 2 users' tokens, %d sessions, %d clients", got.Requests[sandbox.StepRefresh], got.Grants, got.Clients)
	}

	// A user signs out at one replica. The other one looks at the record within a minute.
	kept = adam.copied(c.app.URL)
	c.to(0)
	page := adam.get(c.app.URL)
	c.to(0)
	adam.submit(page, url.Values{}).has(200, "You are signed out", "here and at Astravue")
	c.do(1, order{Move: time.Minute})
	ended := func() bool {
		c.to(1)
		v := kept.copied(c.app.URL).get(c.app.URL)
		return strings.Contains(v.text, "Your sign-in has ended")
	}
	for deadline := time.Now().Add(20 * time.Second); !ended(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the other replica goes on")
		}
	}

	// That sign-in cannot make another session now.
	if v := late.get(callback); v.status == http.StatusOK || srv.Counts().Grants != 1 {
		t.Errorf("the callback once more: status %d, %d sessions", v.status, srv.Counts().Grants)
	}

	// A restart of both ends no session, and deletes what is left of sessions that have ended.
	if n := c.rows(); n != 4 { // Mia's, the registration, the count of them, and the key of the names
		t.Errorf("%d rows", n)
	}
	for i := range c.replicas {
		c.do(i, order{Stop: true})
		c.start(i)
	}
	mia.get(c.app.URL).has(200, onlyMia)
	mia.get(c.app.URL).has(200, onlyMia)
	db, err := pgx.Connect(t.Context(), c.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	if _, err := db.Exec(t.Context(), `update astravue_mcp_tokens set saved = saved - interval '13 hours'`); err != nil {
		t.Fatal(err)
	}
	c.do(0, order{Stop: true})
	c.start(0)
	for deadline := time.Now().Add(20 * time.Second); c.rows() != 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d rows after 13 hours", c.rows())
		}
	}
}

func TestPostgresSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cookies, good := file("cookies", strings.Repeat("k", 32)), file("good", newKey())
	for name, test := range map[string]struct {
		args     []string
		database string
	}{
		"no key for cookies": {[]string{"-postgres", good}, "postgres://u:hush@127.0.0.1:1/x"},
		"no such file":       {[]string{"-key-file", cookies, "-postgres", good + "?"}, ""},
		"empty file":         {[]string{"-key-file", cookies, "-postgres", file("empty", "\n")}, ""},
		"not base64":         {[]string{"-key-file", cookies, "-postgres", file("plain", "hush hush")}, ""},
		"short key":          {[]string{"-key-file", cookies, "-postgres", file("short", newKey()+"\naHVzaA==")}, ""},
		"no URL":             {[]string{"-key-file", cookies, "-postgres", good}, "postgres://u:hush@127.0.0.1:port/x"},
		"no database":        {[]string{"-key-file", cookies, "-postgres", good}, "postgres://u:hush@127.0.0.1:1/x"},
	} {
		t.Setenv("DATABASE_URL", test.database)
		err := run(t.Context(), append(test.args, "-listen", "127.0.0.1:0"), io.Discard, io.Discard)
		if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "aHVzaA") {
			t.Errorf("%s: got %v, want an error without secrets", name, err)
		}
	}
}
