// Package rotation proves that a session is never lost: many processes and
// goroutines that share an account whose refresh token is spent once, and
// processes that are killed while they spend it. It does so with each of the
// stores that persist, against the sandbox, which ends the session of who spends
// a token twice; it counts, and prints its counts. What faults of servers and
// networks do is proved elsewhere.
package rotation

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/godbus/dbus/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

var long = os.Getenv(testenv.Long) == "1"

// An order is what a child is told to do: one of its members.
type order struct {
	Turn  *turn
	Start *startOrder
}

type answer struct {
	Tally tally
	Start *startAnswer
}

func TestMain(m *testing.M) {
	testenv.Serve(func(o order) (a answer) {
		if o.Turn != nil {
			a.Tally = o.Turn.take()
		}
		if o.Start != nil {
			a.Start = o.Start.follow()
		}
		return a
	})
	os.Exit(m.Run())
}

// A place is where a store keeps what it keeps, in words for another process.
type place struct {
	Kind string // keychain, file, postgres
	Dir  string // of the files, or of the keychain's locks
	Key  string // seals files or rows
	DSN  string

	LockTimeout, IdleTimeout time.Duration // of the store; 0: its own
}

// eachPlace runs the test once for each kind of store that persists, on a place of its own.
func eachPlace(t *testing.T, test func(*testing.T, place)) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) { test(t, newPlace(t, kind)) })
	}
}

func newPlace(t testing.TB, kind string) place {
	t.Helper()
	p := place{Kind: kind, Dir: t.TempDir()}
	switch kind {
	case "keychain":
		testenv.SecretService(t)
		t.Cleanup(func() { p.clear(t) })
	case "file":
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		p.Key = id.String()
	case "postgres":
		p.DSN, p.Key = testenv.Postgres(t), strings.Repeat("k", postgres.KeySize)
		pool := p.pool()
		defer pool.Close()
		if err := postgres.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// open opens the store. Its connections end with the process.
func (p place) open() tokenstore.Store {
	switch p.Kind {
	case "keychain":
		return &tokenstore.Keychain{Service: p.service(), LockDir: p.Dir, LockTimeout: p.LockTimeout}
	case "file":
		return &tokenstore.File{Dir: p.Dir, Identity: tokenstore.NewSecret(p.Key), LockTimeout: p.LockTimeout}
	default:
		return &postgres.Store{
			Pool: p.pool(), Keys: []tokenstore.Secret{tokenstore.NewSecret(p.Key)},
			LockTimeout: p.LockTimeout, IdleTimeout: p.IdleTimeout,
		}
	}
}

func (p place) service() string { return "astravue-mcp test " + p.Dir }

func (p place) pool() *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(p.DSN)
	if err != nil {
		panic(err)
	}
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		panic(err)
	}
	return pool
}

// entries lists the names of all that is kept, locks apart.
func (p place) entries(t testing.TB) (names []string) {
	t.Helper()
	switch p.Kind {
	case "keychain":
		bus, err := dbus.ConnectSessionBus()
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		for _, path := range testenv.SecretItems(t, bus, map[string]string{"service": p.service()}) {
			names = append(names, string(path))
		}
	case "file":
		files, err := os.ReadDir(p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".lock") {
				names = append(names, f.Name())
			}
		}
	case "postgres":
		pool := p.pool()
		defer pool.Close()
		rows, err := pool.Query(t.Context(), `select encode(name, 'hex') || ' ' || entry from astravue_mcp_tokens`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
	}
	return names
}

// clear empties a keychain, which is written anew at each save, all of it.
func (p place) clear(t testing.TB) {
	t.Helper()
	if p.Kind != "keychain" {
		return
	}
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	for _, path := range p.entries(t) {
		var prompt dbus.ObjectPath
		if err := bus.Object("org.freedesktop.secrets", dbus.ObjectPath(path)).
			Call("org.freedesktop.Secret.Item.Delete", 0).Store(&prompt); err != nil {
			t.Error(err)
		}
	}
}

// start starts a sandbox that rotates and asks for each token whether its session still exists.
func start(t testing.TB, o sandbox.Options) *sandbox.Server {
	t.Helper()
	o.CheckSession = true
	srv, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}
