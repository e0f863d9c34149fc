// Package rotation proves that a session is never lost. Many processes and
// goroutines share an account whose refresh token is spent once, processes are
// killed while they spend it, and the tokens of many users expire at one time.
// Each store that persists is used, against the sandbox, which ends a session
// whose refresh token comes twice. The tests count what they see and print the
// counts. Faults of servers and networks are those of package faults.
//
// A child is this test binary, started once more. Each child is a whole program
// with a client of its own. The tests give all children a task at one moment
// and add up their results.
package rotation

import (
	"cmp"
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

var (
	long = os.Getenv(testenv.Long) == "1"

	// bare is set on a machine with Go alone. The tests that wait then do so side by side. Elsewhere
	// each has the machine to itself.
	bare = os.Getenv(testenv.CI) != "1" && !long
)

// A task is what a child does next: one of its members.
type task struct {
	Call *callTask
	Use  *useTask
	User *userTask
}

// A result has the member that its task has.
type result struct {
	Call callResult
	Use  *useResult
	User userResult
}

func TestMain(m *testing.M) {
	replica := new(replica)
	testenv.Serve(func(todo task) (r result) {
		switch {
		case todo.Call != nil:
			r.Call = todo.Call.run()
		case todo.Use != nil:
			r.Use = todo.Use.run()
		case todo.User != nil:
			r.User = replica.run(*todo.User)
		}
		return r
	})
	if bare {
		testenv.SideBySide(4)
	}
	os.Exit(m.Run())
}

// A storeSpec says how to open a store, so that a child can open the test's.
type storeSpec struct {
	Kind  string // keychain, file, postgres
	Dir   string // of the files, or of the keychain's locks
	Key   string // seals files or rows
	DSN   string
	Conns int32 // of a pool; 0: 4

	LockTimeout, IdleTimeout time.Duration // of the store; 0: its own
}

// eachStore runs the test once for each kind of store that persists, with one of its own.
func eachStore(t *testing.T, test func(*testing.T, storeSpec)) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) { test(t, newStoreSpec(t, kind)) })
	}
}

func newStoreSpec(t testing.TB, kind string) storeSpec {
	t.Helper()
	s := storeSpec{Kind: kind, Dir: t.TempDir()}
	switch kind {
	case "keychain":
		testenv.SecretService(t)
		t.Cleanup(func() { s.clear(t) })
	case "file":
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		s.Key = id.String()
	case "postgres":
		s.DSN, s.Key = testenv.Postgres(t), strings.Repeat("k", postgres.KeySize)
		pool := s.pool()
		defer pool.Close()
		if err := postgres.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// open opens the store. Its connections end with the process.
func (s storeSpec) open() tokenstore.Store {
	switch s.Kind {
	case "keychain":
		return &tokenstore.Keychain{Service: s.service(), LockDir: s.Dir, LockTimeout: s.LockTimeout}
	case "file":
		return &tokenstore.File{Dir: s.Dir, Identity: tokenstore.NewSecret(s.Key), LockTimeout: s.LockTimeout}
	default:
		return &postgres.Store{
			Pool: s.pool(), Keys: []tokenstore.Secret{tokenstore.NewSecret(s.Key)},
			LockTimeout: s.LockTimeout, IdleTimeout: s.IdleTimeout,
		}
	}
}

func (s storeSpec) service() string { return "astravue-mcp test " + s.Dir }

func (s storeSpec) pool() *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(s.DSN)
	if err != nil {
		panic(err)
	}
	config.MaxConns = cmp.Or(s.Conns, 4)
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		panic(err)
	}
	return pool
}

// entries lists the names of all entries of the store, without its locks.
func (s storeSpec) entries(t testing.TB) (names []string) {
	t.Helper()
	switch s.Kind {
	case "keychain":
		bus, err := dbus.ConnectSessionBus()
		if err != nil {
			t.Fatal(err)
		}
		defer bus.Close()
		for _, path := range testenv.SecretItems(t, bus, map[string]string{"service": s.service()}) {
			names = append(names, string(path))
		}
	case "file":
		files, err := os.ReadDir(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".lock") {
				names = append(names, f.Name())
			}
		}
	case "postgres":
		pool := s.pool()
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

// clear empties a keychain. gnome-keyring writes the whole keyring at each save, so what earlier
// rounds left would make every save slower.
func (s storeSpec) clear(t testing.TB) {
	t.Helper()
	if s.Kind != "keychain" {
		return
	}
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	for _, path := range s.entries(t) {
		var prompt dbus.ObjectPath
		if err := bus.Object("org.freedesktop.secrets", dbus.ObjectPath(path)).
			Call("org.freedesktop.Secret.Item.Delete", 0).Store(&prompt); err != nil {
			t.Error(err)
		}
	}
}

// startSandbox starts a sandbox that asks for each token whether its session still exists. A session
// that it has ended for a second use of a refresh token is then lost at the next call.
func startSandbox(t testing.TB, o sandbox.Options) *sandbox.Server {
	t.Helper()
	o.CheckSession = true
	return testenv.Sandbox(t, o)
}

// closeStore ends the connections of a store that the process does not keep until its end.
func closeStore(s tokenstore.Store) {
	if s, ok := s.(*postgres.Store); ok {
		s.Pool.Close()
	}
}
