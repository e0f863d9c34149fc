package postgres_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

var grantKey = tokenstore.GrantKey("https://api.example.com/mcp", "mia@example.com")

func sealingKey(n byte) tokenstore.Secret {
	return tokenstore.NewSecret(strings.Repeat(string(rune('a'+n)), postgres.KeySize))
}

func newPool(t testing.TB, dsn string, conns int) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = int32(conns)
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// open returns a store over a pool of its own, as another replica has it.
func open(t testing.TB, dsn string, conns int, keys ...tokenstore.Secret) *postgres.Store {
	t.Helper()
	pool := newPool(t, dsn, conns)
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if keys == nil {
		keys = []tokenstore.Secret{sealingKey(0)}
	}
	return &postgres.Store{Pool: pool, Keys: keys}
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

func query[T any](t testing.TB, c *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := c.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func grant(n int) tokenstore.Record {
	return tokenstore.Record{Grant: &tokenstore.Grant{
		Server: "https://api.example.com/mcp", Account: "mia@example.com", Issuer: "https://auth.example.com",
		TokenEndpoint: "https://auth.example.com/token", ClientID: fmt.Sprintf("client-%d", n),
		ClientSecret: tokenstore.NewSecret("hush-client"), AccessToken: tokenstore.NewSecret("hush-access"),
		RefreshToken: tokenstore.NewSecret("hush-refresh"),
	}}
}

func number(t testing.TB, s tokenstore.Store, key tokenstore.Key) (n int) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(r.Grant.ClientID, "client-%d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func save(ctx context.Context, s tokenstore.Store, key tokenstore.Key, n int) error {
	return s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, grant(n))
		return err
	})
}

func mustSave(t testing.TB, s tokenstore.Store, key tokenstore.Key, n int) {
	t.Helper()
	if err := save(t.Context(), s, key, n); err != nil {
		t.Fatal(err)
	}
}

// A spoiler is a store whose rows a test can alter.
type spoiler struct {
	*postgres.Store
	admin *pgx.Conn
}

func (s spoiler) Damage(t testing.TB, _ tokenstore.Key) {
	if _, err := s.admin.Exec(t.Context(), `update astravue_mcp_tokens set sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) where entry = 0`); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	dsn, schemas := testenv.Postgres(t), 0
	for _, conns := range []int{2, 8} {
		t.Run(fmt.Sprintf("%d connections", conns), func(t *testing.T) {
			storetest.Run(t, func(t testing.TB) tokenstore.Store {
				schemas++
				schema := fmt.Sprint("s", schemas)
				if _, err := admin(t, dsn).Exec(t.Context(), "create schema "+schema); err != nil {
					t.Fatal(err)
				}
				dsn := dsn + "&search_path=" + schema
				return spoiler{open(t, dsn, conns), admin(t, dsn)}
			})
		})
	}
}

// dsnVar hands a database to the processes that a test starts.
const dsnVar = "ASTRAVUE_MCP_TEST_DSN"

var killsFlag = flag.Int("kills", 0, "how often a process is killed at each point; 0: 5 times, in the long mode 500")

func TestProcesses(t *testing.T) {
	dsn := os.Getenv(dsnVar)
	var line *storetest.Line
	if dsn == "" {
		dsn = testenv.Postgres(t)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		line = storetest.NewLine(t, "tcp", u.Host)
		u.Host = line.Addr
		t.Setenv(dsnVar, u.String())
	}
	// A schema for each folder.
	in := func(dir string) (dsnOf, schema string) {
		schema = fmt.Sprintf("s%x", sha256.Sum256([]byte(dir)))[:20]
		return dsn + "&search_path=" + schema, schema
	}
	kills := cmp.Or(*killsFlag, 5)
	if os.Getenv(testenv.Long) == "1" {
		kills = cmp.Or(*killsFlag, 500)
	}
	n := storetest.RunProcesses(t, storetest.Processes{
		Open: func(t testing.TB, dir string) tokenstore.Store {
			dsn, schema := in(dir)
			pool := newPool(t, dsn, 4)
			if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
				if _, err := pool.Exec(t.Context(), "create schema if not exists "+schema); err != nil {
					t.Fatal(err)
				}
				if err := postgres.Migrate(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "made"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			return &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}, CallTimeout: 2 * time.Second}
		},
		Entries: func(t testing.TB, dir string) []string {
			dsn, _ := in(dir)
			c := admin(t, dsn)
			defer c.Close(t.Context()) // it is one of very many
			return query[string](t, c, `select encode(name, 'hex') || ' ' || entry from astravue_mcp_tokens`)
		},
		Stall: func(testing.TB, string) (resume func()) { return line.Stall() },
		Kills: kills,
	})
	testenv.Count(t, "kills of the store alone", "store", "postgres",
		"kills", n.Killed, "intact records", n.Intact, "calls that finished late", n.Late)
}

func TestMigrateBySeveralAtOnce(t *testing.T) {
	dsn := testenv.Postgres(t)
	var g sync.WaitGroup
	stores := make([]*postgres.Store, 6)
	for i := range stores {
		g.Go(func() {
			pool := newPool(t, dsn, 4)
			if err := postgres.Migrate(t.Context(), pool); err != nil {
				t.Errorf("Migrate: %v", err)
			}
			stores[i] = &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}}
			if err := save(t.Context(), stores[i], tokenstore.Key(fmt.Sprint(i)), i); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	for i := range stores { // the first saves made one key for the names, not six
		for _, s := range stores {
			if got := number(t, s, tokenstore.Key(fmt.Sprint(i))); got != i {
				t.Errorf("key %d has record %d", i, got)
			}
		}
	}
}

// login makes a role and returns how it connects.
func login(t testing.TB, root *pgx.Conn, dsn, role string) string {
	t.Helper()
	name := role + "_" + strings.ToLower(rand.Text())
	if _, err := root.Exec(t.Context(), "create role "+name+" login"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(name)
	return u.String()
}

func roleOf(dsn string) string {
	u, _ := url.Parse(dsn)
	return u.User.Username()
}

// run runs statements, in which APP and OTHER are roles.
func run(t testing.TB, c *pgx.Conn, sql, app, other string) {
	t.Helper()
	sql = strings.NewReplacer("APP", roleOf(app), "OTHER", roleOf(other)).Replace(sql)
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestMigrateLooksWhoseTheTableIs(t *testing.T) {
	const rights = "; grant select, insert, update, delete on astravue_mcp_tokens to APP"
	for name, c := range map[string]struct {
		root, owner, app string // what each runs before
		ok               bool
	}{
		"its own":                       {"grant create on schema public to APP", "", postgres.Schema, true},
		"the superuser's":               {postgres.Schema + rights, "", "", true},
		"the schema's owner's":          {"create schema s authorization OTHER; grant usage on schema s to APP; alter role APP set search_path = s; alter role OTHER set search_path = s", postgres.Schema + rights, "", true},
		"the database's owner's":        {"do $$ begin execute format('alter database %I owner to OTHER', current_database()); end $$; grant create on schema public to OTHER", postgres.Schema + rights, "", true},
		"another role's":                {"grant create on schema public to OTHER, APP", postgres.Schema + rights, "", false},
		"another's that one is in":      {"grant create on schema public to OTHER; grant OTHER to APP", postgres.Schema + rights, "", false},
		"another role's view":           {"grant create on schema public to OTHER, APP", "create view astravue_mcp_tokens as select 1" + rights, "", false},
		"a view of the superuser's":     {"create view astravue_mcp_tokens as select 1", "", "", false},
		"with another role's trigger":   {"grant create on schema public to OTHER; " + postgres.Schema + "; grant all on astravue_mcp_tokens to OTHER" + rights, "create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on astravue_mcp_tokens for each row execute function f()", "", false},
		"with a trigger of the owner's": {postgres.Schema + rights + "; create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on astravue_mcp_tokens for each row execute function f()", "", "", true},
		"pg_catalog last":               {"grant create on schema public to APP; alter role APP set search_path = public, pg_catalog", "", "", false},
		"pg_catalog first":              {"grant create on schema public to APP; alter role APP set search_path = pg_catalog, public", "", "", false}, // nothing can be made there
		"none, and it may make one":     {"grant create on schema public to APP", "", "", true},
		"none, and it may not":          {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := testenv.Postgres(t)
			root := admin(t, dsn)
			app, other := login(t, root, dsn, "app"), login(t, root, dsn, "other")
			if c.root != "" {
				run(t, root, c.root, app, other)
			}
			if c.owner != "" {
				run(t, admin(t, other), c.owner, app, other)
			}
			if c.app != "" {
				run(t, admin(t, app), c.app, app, other)
			}
			pool := newPool(t, app, 2)
			err := postgres.Migrate(t.Context(), pool)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, tokenstore.ErrUnavailable) {
				t.Fatalf("Migrate: %v", err)
			}
			if c.ok {
				mustSave(t, &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}}, grantKey, 1)
			}
		})
	}
}

func TestNameKeyGone(t *testing.T) {
	dsn := testenv.Postgres(t)
	running := open(t, dsn, 2)
	mustSave(t, running, grantKey, 1)
	root := admin(t, dsn)
	if n := query[int](t, root, "with gone as (delete from astravue_mcp_tokens where entry = 2 returning 1) select count(*) from gone"); n[0] != 1 {
		t.Fatalf("%d name keys", n[0])
	}
	fresh := open(t, dsn, 2)
	if _, err := fresh.Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("Get: %v", err)
	}
	if err := save(t.Context(), fresh, grantKey, 2); !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("save: %v", err)
	}
	if _, err := fresh.Reseal(t.Context()); !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("Reseal: %v", err)
	}
	if n := number(t, running, grantKey); n != 1 {
		t.Errorf("the process that runs reads %d", n)
	}
	if n := query[int](t, root, "select count(*) from astravue_mcp_tokens where entry = 2"); n[0] != 0 {
		t.Error("another name key was made")
	}
	run(t, root, "delete from astravue_mcp_tokens", "", "")
	mustSave(t, fresh, grantKey, 3) // of an empty table all is new
}

func TestFirstStartsAtOnce(t *testing.T) {
	dsn := testenv.Postgres(t)
	var stores []*postgres.Store
	for range 8 {
		stores = append(stores, open(t, dsn, 2))
	}
	var wg sync.WaitGroup
	for n, s := range stores {
		wg.Go(func() {
			if err := save(t.Context(), s, tokenstore.GrantKey("https://api.example.com/mcp", fmt.Sprint(n)), n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range stores {
		if got := number(t, stores[0], tokenstore.GrantKey("https://api.example.com/mcp", fmt.Sprint(n))); got != n {
			t.Errorf("%d is read as %d", n, got)
		}
	}
}

func TestNoTable(t *testing.T) {
	s := &postgres.Store{Pool: newPool(t, testenv.Postgres(t), 4), Keys: []tokenstore.Secret{sealingKey(0)}}
	if _, err := s.Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestBadKeys(t *testing.T) {
	pool := newPool(t, "postgres://127.0.0.1:1/", 2)
	for name, keys := range map[string][]tokenstore.Secret{
		"none": nil, "short": {tokenstore.NewSecret("0123456789abcdef")}, "empty": {sealingKey(0), {}},
	} {
		s := &postgres.Store{Pool: pool, Keys: keys}
		if err := save(t.Context(), s, grantKey, 1); !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
}

func TestKeyRotation(t *testing.T) {
	dsn := testenv.Postgres(t)
	a, b := sealingKey(0), sealingKey(1)
	other := tokenstore.Key("idle")
	before := open(t, dsn, 4, a)
	mustSave(t, before, grantKey, 1)
	mustSave(t, before, other, 2)

	if _, err := open(t, dsn, 4, b).Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("with another key: got %v, want ErrCorrupt", err)
	}
	during := open(t, dsn, 4, b, a)
	if number(t, during, grantKey) != 1 {
		t.Error("the old key does not open")
	}
	mustSave(t, during, grantKey, 3) // sealed anew
	if number(t, open(t, dsn, 4, a, b), grantKey) != 3 {
		t.Error("a replica that has the new key second does not open what it seals")
	}
	if n, err := during.Reseal(t.Context()); n != 2 || err != nil { // the idle record, and the key of the names
		t.Errorf("Reseal: %d, %v", n, err)
	}
	if n, err := during.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("Reseal again: %d, %v", n, err)
	}
	after := open(t, dsn, 4, b)
	if number(t, after, grantKey) != 3 || number(t, after, other) != 2 {
		t.Error("the new key alone does not open everything")
	}
	spoiler{after, admin(t, dsn)}.Damage(t, other)
	if n, err := after.Reseal(t.Context()); n != 0 || !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("Reseal of damaged records: %d, %v, want ErrCorrupt", n, err)
	}
}

// A name and a length is all that the database may know of a record.
func TestSealedBeforeItLeaves(t *testing.T) {
	var traffic recorder
	dsn := proxied(t, testenv.Postgres(t), &traffic)
	s := open(t, dsn, 4)
	mustSave(t, s, grantKey, 1)
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		return l.SetMark(ctx, tokenstore.Mark{Pending: true, Generation: "hush-generation"})
	}); err != nil {
		t.Fatal(err)
	}
	number(t, s, grantKey)
	dump := query[string](t, admin(t, dsn), `select encode(name, 'escape') || encode(sealed, 'escape') || astravue_mcp_tokens::text from astravue_mcp_tokens`)
	if len(dump) != 3 {
		t.Errorf("%d rows", len(dump))
	}
	all := strings.Join(dump, "\n") + traffic.String()
	if !strings.Contains(all, "astravue_mcp_tokens") {
		t.Fatal("the traffic was not recorded")
	}
	for _, word := range []string{"hush", "mia", "example.com", "client-1", `"pending"`, strings.Repeat("a", 32)} {
		if strings.Contains(all, word) || strings.Contains(all, fmt.Sprintf("%x", word)) {
			t.Errorf("%q is in the table or went over the wire", word)
		}
	}
}

func TestEntriesDoNotMove(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, c := open(t, dsn, 4), admin(t, dsn)
	mustSave(t, s, grantKey, 1)
	mustSave(t, s, "another", 2)
	if _, err := c.Exec(t.Context(), `update astravue_mcp_tokens t set sealed = o.sealed from astravue_mcp_tokens o where t.entry = 0 and o.entry = 0 and t.name <> o.name`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), grantKey); !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("one user's record under another's name: got %v, want ErrCorrupt", err)
	}
}

// kill ends all connections that hold or await locks, and waits until they are gone.
func kill(t testing.TB, c *pgx.Conn) {
	t.Helper()
	const holders = `from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
	if n := len(query[bool](t, c, `select pg_terminate_backend(pid) `+holders)); n == 0 {
		t.Fatal("nobody holds a lock")
	}
	testenv.Eventually(t, "the connections are gone", func() bool { return len(query[int](t, c, `select pid `+holders)) == 0 })
}

func TestConnectionGoneInTheSection(t *testing.T) {
	mark := tokenstore.Mark{Pending: true, Generation: "G"}
	for _, test := range []struct {
		name  string
		after func(t *testing.T, other *postgres.Store, l *tokenstore.Locked) error
		want  error
		n     int
	}{
		{"saved over a new one", func(t *testing.T, _ *postgres.Store, l *tokenstore.Locked) error {
			if err := l.SetMark(t.Context(), mark); err != nil {
				return err
			}
			_, err := l.Save(t.Context(), grant(2))
			return errors.Join(err, l.SetMark(t.Context(), tokenstore.Mark{}))
		}, nil, 2},
		{"another has saved", func(t *testing.T, other *postgres.Store, l *tokenstore.Locked) error {
			mustSave(t, other, grantKey, 3)
			_, err := l.Save(t.Context(), grant(2))
			return err
		}, tokenstore.ErrUnavailable, 3},
		{"another has saved, mark", func(t *testing.T, other *postgres.Store, l *tokenstore.Locked) error {
			mustSave(t, other, grantKey, 3)
			return l.SetMark(t.Context(), mark) // or a spent token would be sent
		}, tokenstore.ErrUnavailable, 3},
		{"another has deleted", func(t *testing.T, other *postgres.Store, l *tokenstore.Locked) error {
			if err := other.Delete(t.Context(), grantKey); err != nil {
				t.Error(err)
			}
			_, err := l.Save(t.Context(), grant(2))
			return err
		}, tokenstore.ErrUnavailable, 0},
		{"another holds the lock", func(t *testing.T, other *postgres.Store, l *tokenstore.Locked) error {
			return other.Update(t.Context(), grantKey, func(ctx context.Context, theirs *tokenstore.Locked) error {
				if err := l.SetMark(ctx, mark); !errors.Is(err, tokenstore.ErrUnavailable) {
					t.Errorf("a mark without the lock: %v", err)
				}
				if _, err := l.Save(ctx, grant(2)); err != nil { // what is spent is spent
					return err
				}
				if _, err := theirs.Save(ctx, grant(3)); !errors.Is(err, tokenstore.ErrUnavailable) {
					t.Errorf("the other undoes it: %v", err)
				}
				return nil
			})
		}, nil, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			dsn := testenv.Postgres(t)
			s, other, c := open(t, dsn, 4), open(t, dsn, 4), admin(t, dsn)
			mustSave(t, s, grantKey, 1)
			err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
				kill(t, c)
				return test.after(t, other, l)
			})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if _, err := s.Get(t.Context(), grantKey); test.n == 0 && !errors.Is(err, tokenstore.ErrNotFound) {
				t.Errorf("what was deleted is back: %v", err)
			}
			if test.n != 0 {
				if n := number(t, s, grantKey); n != test.n {
					t.Errorf("record %d is stored, want %d", n, test.n)
				}
			}
			mustSave(t, other, grantKey, 9) // and the lock is free
		})
	}
}

// The new connection has the lock again when the database refuses to show the entries.
func TestNoLockStaysOnAConnectionThatIsGivenBack(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other, c := open(t, dsn, 4), open(t, dsn, 4), admin(t, dsn)
	mustSave(t, s, grantKey, 1)
	rename := func(from, to string) {
		if _, err := c.Exec(t.Context(), "alter table "+from+" rename to "+to); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		kill(t, c)
		rename("astravue_mcp_tokens", "elsewhere")
		defer rename("elsewhere", "astravue_mcp_tokens")
		_, err := l.Save(t.Context(), grant(2))
		return err
	}); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("got %v, want tokenstore.ErrUnavailable", err)
	}
	other.LockTimeout = time.Second
	mustSave(t, other, grantKey, 3)
}

func TestFirstSaveWithoutConnection(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other, c := open(t, dsn, 4), open(t, dsn, 4), admin(t, dsn)
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		kill(t, c)
		mustSave(t, other, grantKey, 2)
		if _, err := l.Save(ctx, grant(1)); !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if n := number(t, s, grantKey); n != 2 {
		t.Errorf("record %d is stored, want 2", n)
	}
}

func TestConnectionsAreGivenBackAsTheyWere(t *testing.T) {
	dsn := testenv.Postgres(t) + "&application_name=webapp&idle_session_timeout=1h"
	s, other := open(t, dsn, 2), open(t, dsn, 2)
	mustSave(t, s, grantKey, 1)
	mustSave(t, other, "another", 1) // connects
	_ = s.Update(t.Context(), grantKey, func(ctx context.Context, _ *tokenstore.Locked) error {
		var timeout *tokenstore.LockTimeoutError
		limited, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := save(limited, other, grantKey, 2); !errors.As(err, &timeout) {
			t.Errorf("got %v, want a *LockTimeoutError", err)
		} else if !strings.Contains(timeout.Holder, fmt.Sprintf("process %d ", os.Getpid())) {
			t.Errorf("the holder is %q", timeout.Holder)
		}
		return nil
	})
	for range 2 {
		c, err := s.Pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		var got []string
		if err := c.QueryRow(t.Context(), `select array[current_setting('application_name'), current_setting('idle_session_timeout'), current_setting('lock_timeout'), (select count(*)::text from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())]`).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want := []string{"webapp", "1h", "0", "0"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestStoreLimit(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other := open(t, dsn, 2), open(t, dsn, 2)
	s.LockTimeout, other.LockTimeout = 50*time.Millisecond, 50*time.Millisecond
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, _ *tokenstore.Locked) error {
		for name, try := range map[string]func() error{
			"the same process":           func() error { return save(t.Context(), s, grantKey, 1) },
			"another process":            func() error { return save(t.Context(), other, grantKey, 1) },
			"no connection for locks":    func() error { return save(t.Context(), s, "another", 1) },
			"the same key in an Update":  func() error { return save(ctx, s, grantKey, 1) },
			"another's key in an Update": func() error { return save(ctx, other, grantKey, 1) },
		} {
			var timeout *tokenstore.LockTimeoutError
			if err := try(); !errors.As(err, &timeout) || timeout.Err != nil || timeout.Holder == "" || timeout.Waited > 2*time.Second {
				t.Errorf("%s: got %v, want a *LockTimeoutError of the store's own", name, err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Who no longer wants to wait leaves at once, and nothing behind.
func TestCancelledInTheDatabase(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other, c := open(t, dsn, 2), open(t, dsn, 2), admin(t, dsn)
	mustSave(t, other, grantKey, 1)
	waiting := func() bool {
		return len(query[int](t, c, `select pid from pg_locks where locktype = 'advisory' and not granted`)) > 0
	}
	if err := s.Update(t.Context(), grantKey, func(context.Context, *tokenstore.Locked) error {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- save(ctx, other, grantKey, 2) }()
		testenv.Eventually(t, "an Update waits for the lock", waiting)
		cancel()
		start := time.Now()
		if err := <-done; !errors.Is(err, context.Canceled) || time.Since(start) > time.Second {
			t.Errorf("got %v after %v, want context.Canceled at once", err, time.Since(start))
		}
		testenv.Eventually(t, "the database no longer waits", func() bool { return !waiting() })
		return nil
	}); err != nil {
		t.Error(err)
	}
	mustSave(t, other, grantKey, 3)
}

// With two connections, twenty goroutines that save, read and save inside each
// other come to an end.
func TestTinyPool(t *testing.T) {
	dsn := testenv.Postgres(t)
	stores := []*postgres.Store{open(t, dsn, 2), open(t, dsn, 2)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var g sync.WaitGroup
	for i := range 20 {
		s, key := stores[i%2], tokenstore.Key(fmt.Sprint(i/4))
		g.Go(func() {
			for n := range 5 {
				if err := s.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
					if _, err := l.Save(ctx, grant(n)); err != nil {
						return err
					}
					if _, err := s.Get(ctx, key); err != nil {
						return err
					}
					return save(ctx, s, key+" client", n)
				}); err != nil {
					t.Error(err)
				}
				if _, err := s.Get(ctx, key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
}

// People who sign in keep no connection of the pool, however long they take.
func TestSignInsBesideThePool(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other := open(t, dsn, 2), open(t, dsn, 2)
	s.IdleTimeout = 300 * time.Millisecond
	const people = 10
	var inside, g sync.WaitGroup
	done := make(chan bool)
	inside.Add(people)
	for i := range people {
		g.Go(func() {
			if err := s.Update(t.Context(), tokenstore.Key(fmt.Sprint(i)).SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
				inside.Done()
				<-done
				return save(ctx, s, tokenstore.Key(fmt.Sprint(i)), i)
			}); err != nil {
				t.Error(err)
			}
		})
	}
	inside.Wait()
	mustSave(t, s, grantKey, 1)
	c := admin(t, dsn)
	const count = `select count(*)::int from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`
	if n := query[int](t, c, count)[0]; n > 2+1+2+1 { // two pools, the sign-ins', and this
		t.Errorf("%d connections", n)
	}
	time.Sleep(2 * s.IdleTimeout) // the server would have taken the locks away
	var timeout *tokenstore.LockTimeoutError
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := other.Update(ctx, tokenstore.Key("3").SignIn(), func(context.Context, *tokenstore.Locked) error { return nil })
	if !errors.As(err, &timeout) || !strings.HasPrefix(timeout.Holder, "process ") {
		t.Errorf("a second sign-in: got %v, want a *LockTimeoutError", err)
	}
	close(done)
	g.Wait()
	if err := other.Update(t.Context(), tokenstore.Key("3").SignIn(), func(context.Context, *tokenstore.Locked) error { return nil }); err != nil {
		t.Error(err)
	}
	testenv.Eventually(t, "the sign-ins' connection is closed", func() bool { return query[int](t, c, count)[0] <= 5 })
}

// Sign-ins whose database does not answer wait beside each other, not one after another.
func TestSignInsWithoutAnAnswer(t *testing.T) {
	dsn := testenv.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	line := storetest.NewLine(t, "tcp", u.Host)
	u.Host = line.Addr
	s := open(t, u.String(), 2)
	s.CallTimeout = time.Second
	mustSave(t, s, grantKey, 1) // it knows the key of the names from here on
	const people = 20
	defer line.Stall()()
	var g sync.WaitGroup
	for i := range people {
		g.Go(func() {
			start := time.Now()
			err := s.Update(t.Context(), tokenstore.Key(fmt.Sprint(i)).SignIn(), func(context.Context, *tokenstore.Locked) error { return nil })
			if took := time.Since(start); !errors.Is(err, tokenstore.ErrUnavailable) || took > people*s.CallTimeout/2 {
				t.Errorf("got %v after %v", err, took)
			}
		})
	}
	g.Wait()
}

// slow is a database whose every answer takes this long.
type slow time.Duration

func (d slow) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	time.Sleep(time.Duration(d))
	return ctx
}

func (slow) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A queue for the pool is no outage: who stands in it waits longer than for an answer. Once nobody
// in it is answered, it is one for all of them at once.
func TestQueueForThePool(t *testing.T) {
	u, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	line := storetest.NewLine(t, "tcp", u.Host)
	u.Host = line.Addr
	mustSave(t, open(t, u.String(), 2), grantKey, 1)
	cfg, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns, cfg.ConnConfig.Tracer = 2, slow(50*time.Millisecond)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}, CallTimeout: time.Second}
	const readers = 80 // 2 s
	read := func(check func(error)) {
		var g sync.WaitGroup
		for range readers {
			g.Go(func() {
				_, err := s.Get(t.Context(), grantKey)
				check(err)
			})
		}
		g.Wait()
	}
	start := time.Now()
	read(func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	if took := time.Since(start); took < s.CallTimeout*3/2 {
		t.Fatalf("there was no queue: all took %v", took)
	}

	defer line.Stall()()
	start = time.Now()
	read(func(err error) {
		if took := time.Since(start); !errors.Is(err, tokenstore.ErrUnavailable) || took > 5*s.CallTimeout {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// A holder is a child's task: to take the lock of Key, or with GoOn, to go on under the lock.
type holder struct {
	DSN  string
	Key  tokenstore.Key
	GoOn bool
}

func TestMain(m *testing.M) {
	goOn, result := make(chan struct{}), make(chan string)
	testenv.Serve(func(task holder) string {
		if task.GoOn {
			close(goOn)
		} else {
			go func() { result <- fmt.Sprint(task.run(func() { result <- "held"; <-goOn })) }()
		}
		return <-result
	})
	os.Exit(m.Run())
}

// run calls held under the lock, and fails if a save is still possible then.
func (h holder) run(held func()) error {
	pool, err := pgxpool.New(context.Background(), h.DSN)
	if err != nil {
		return err
	}
	s := &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{sealingKey(0)}, IdleTimeout: 500 * time.Millisecond}
	return s.Update(context.Background(), h.Key, func(ctx context.Context, l *tokenstore.Locked) error {
		held()
		if h.Key.IsSignIn() {
			return nil
		}
		if _, err := l.Save(ctx, grant(7)); !errors.Is(err, tokenstore.ErrUnavailable) {
			return fmt.Errorf("a save after all: %v", err)
		}
		return nil
	})
}

func TestStoppedHolder(t *testing.T) {
	dsn := testenv.Postgres(t)
	s := open(t, dsn, 2)
	mustSave(t, s, grantKey, 1)
	for _, key := range []tokenstore.Key{grantKey, grantKey.SignIn()} {
		child := testenv.Spawn(t)
		child.Send(holder{DSN: dsn, Key: key})
		var got string
		if !child.Receive(&got) || got != "held" {
			t.Fatalf("the holder: %s", got)
		}
		stop(t, child.Process)
		start := time.Now()
		if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
			if key.IsSignIn() {
				return nil
			}
			_, err := l.Save(ctx, grant(2))
			return err
		}); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: it took %v", key, took)
		}
		resume(t, child.Process)
		child.Send(holder{GoOn: true})
		if !child.Receive(&got) || got != "<nil>" {
			t.Errorf("the holder: %s", got)
		}
	}
	if n := number(t, s, grantKey); n != 2 {
		t.Errorf("record %d is stored: the stopped process has undone a save", n)
	}
}

func TestDatabaseDown(t *testing.T) {
	var gate recorder
	s := open(t, proxied(t, testenv.Postgres(t), &gate), 4)
	s.CallTimeout = time.Second
	mustSave(t, s, grantKey, 1)
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		for _, mode := range []mode{refuse, silent} {
			gate.set(mode)
			start := time.Now()
			_, getErr := s.Get(t.Context(), grantKey)
			_, saveErr := l.Save(t.Context(), grant(2))
			for what, err := range map[string]error{
				"Get": getErr, "Save": saveErr, "Update": save(t.Context(), s, "another", 1),
				"sign-in": save(t.Context(), s, grantKey.SignIn(), 1), "Delete": s.Delete(t.Context(), "a third"),
			} {
				if !errors.Is(err, tokenstore.ErrUnavailable) {
					t.Errorf("%s: got %v, want ErrUnavailable", what, err)
				}
				for _, word := range []string{"hush", "mia", "aaaa"} {
					if strings.Contains(fmt.Sprintf("%+v %#v", err, err), word) {
						t.Errorf("%s: %v shows %q", what, err, word)
					}
				}
			}
			if took := time.Since(start); took > 15*time.Second || mode == refuse && took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
		}
		gate.set(pass)
		_, err := l.Save(ctx, grant(3))
		return err
	}); err != nil {
		t.Errorf("after the outage: %v", err)
	}
	if n := number(t, s, grantKey); n != 3 {
		t.Errorf("record %d is stored, want 3", n)
	}
	mustSave(t, s, "another", 4)
}

// A write whose answer is lost was carried out; the next one knows it.
func TestAnswerLost(t *testing.T) {
	var gate recorder
	dsn := testenv.Postgres(t)
	s, direct := open(t, proxied(t, dsn, &gate), 4), open(t, dsn, 4)
	s.CallTimeout = time.Second
	mustSave(t, s, grantKey, 1)
	if err := s.Update(t.Context(), grantKey, func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Save(ctx, grant(2)); err != nil { // the statements are prepared
			return err
		}
		gate.set(deaf)
		if _, err := l.Save(ctx, grant(3)); !errors.Is(err, tokenstore.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		if n := number(t, direct, grantKey); n != 3 {
			t.Fatalf("record %d is stored: the write was not carried out", n)
		}
		gate.set(pass)
		_, err := l.Save(ctx, grant(4))
		return err
	}); err != nil {
		t.Error(err)
	}
	if n := number(t, s, grantKey); n != 4 {
		t.Errorf("record %d is stored, want 4", n)
	}
}

type mode int

const (
	pass   mode = iota
	refuse      // cuts connections and refuses new ones
	silent      // takes connections and lets nothing pass
	deaf        // lets nothing of what the server says pass
)

// A recorder is what a proxy between pool and server does and has seen.
type recorder struct {
	mu    sync.Mutex
	mode  mode
	conns []net.Conn
	seen  bytes.Buffer
}

func (r *recorder) set(m mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode = m; m == refuse || m == pass {
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.conns = nil
	}
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.String()
}

func (r *recorder) copy(to, from net.Conn, back bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.seen.Write(buf[:n])
		drop := r.mode == silent || r.mode == deaf && back
		r.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// proxied puts r between the caller and the database.
func proxied(t testing.TB, dsn string, r *recorder) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); r.set(refuse) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			r.mu.Lock()
			if err != nil || r.mode == refuse {
				_ = c.Close()
				if up != nil {
					_ = up.Close()
				}
			} else {
				r.conns = append(r.conns, c, up)
				go r.copy(up, c, false)
				go r.copy(c, up, true)
			}
			r.mu.Unlock()
		}
	}()
	u.Host = l.Addr().String()
	return u.String()
}
