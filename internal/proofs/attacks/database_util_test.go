package attacks

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

// A tokenDatabase is a database with two roles beside its owner's: the application's and another.
type tokenDatabase struct {
	root       *pgx.Conn
	app, other string // how they connect
	roles      *strings.Replacer
}

func newTokenDatabase(t *testing.T) *tokenDatabase {
	t.Helper()
	dsn := testenv.Postgres(t)
	d := &tokenDatabase{}
	d.root = d.connect(t, dsn)
	as := func(role string) (string, string) {
		name := role + "_" + strings.ToLower(rand.Text())
		if _, err := d.root.Exec(t.Context(), "create role "+name+" login"); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User(name)
		return name, u.String()
	}
	app, appDSN := as("app")
	other, otherDSN := as("other")
	d.app, d.other = appDSN, otherDSN
	d.roles = strings.NewReplacer("APP", app, "OTHER", other)
	return d
}

func (d *tokenDatabase) connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// run runs statements, in which APP and OTHER are roles.
func (d *tokenDatabase) run(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), d.roles.Replace(sql)); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (d *tokenDatabase) store(t *testing.T, dsn string) *postgres.Store {
	t.Helper()
	s, err := openTokens(t, dsn)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTokens(t *testing.T, dsn string) (*postgres.Store, error) {
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		return nil, err
	}
	t.Cleanup(pool.Close)
	return &postgres.Store{Pool: pool, Keys: []tokenstore.Secret{tokenstore.NewSecret(strings.Repeat("k", postgres.KeySize))}}, nil
}

func migrated(t *testing.T, s *postgres.Store) error {
	return postgres.Migrate(t.Context(), s.Pool)
}

// adminsDatabase is a database whose administrator attacks.
func adminsDatabase(t *testing.T) (*tokenDatabase, *postgres.Store) {
	t.Helper()
	d := newTokenDatabase(t)
	s := d.store(t, d.root.Config().ConnString())
	if err := migrated(t, s); err != nil {
		t.Fatal(err)
	}
	return d, s
}

// dump returns all columns of all rows.
func (d *tokenDatabase) dump(t *testing.T) []byte {
	t.Helper()
	rows, err := d.root.Query(t.Context(), "select name, sealed, t::text from astravue_mcp_tokens t")
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for rows.Next() {
		var name, sealed []byte
		var text string
		if err := rows.Scan(&name, &sealed, &text); err != nil {
			t.Fatal(err)
		}
		all.Write(name)
		all.Write(sealed)
		all.WriteString(text)
	}
	if rows.Err() != nil || all.Len() == 0 {
		t.Fatal("the table is empty", rows.Err())
	}
	return all.Bytes()
}

var tokenKey = tokenstore.GrantKey("https://mcp.example.com", "mia")

func tokenGrant(state string) tokenstore.Record {
	return tokenstore.Record{Grant: &tokenstore.Grant{
		Server: "https://mcp.example.com", Account: "mia", Issuer: "https://auth.example.com",
		TokenEndpoint: "https://auth.example.com/token", ClientID: "client-" + state,
		AccessToken: tokenstore.NewSecret("hush-access-" + state), RefreshToken: tokenstore.NewSecret("hush-refresh-" + state),
	}}
}

func trySave(t *testing.T, s *postgres.Store, state string) error {
	return s.Update(t.Context(), tokenKey, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenGrant(state))
		return err
	})
}

func saveTokens(t *testing.T, s *postgres.Store, state string) {
	t.Helper()
	if err := trySave(t, s, state); err != nil {
		t.Fatal(err)
	}
}

func readTokens(t *testing.T, s *postgres.Store) string {
	t.Helper()
	r, err := s.Get(t.Context(), tokenKey)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(r.Grant.RefreshToken.Reveal(), "hush-refresh-")
}

const payroll = `create table payroll (secret text); insert into payroll values ('hush'); grant select on payroll to APP;
	create table loot (secret text); grant insert on loot to public; grant select on loot to OTHER`

// plantedTable is the table with a trigger that reads rows for the attacker.
const plantedTable = postgres.Schema + `; grant all on astravue_mcp_tokens to public;
	create function steal() returns trigger language plpgsql as $$ begin
		insert into loot select secret from payroll;
		return new;
	end $$;
	create trigger steal before insert on astravue_mcp_tokens for each row execute function steal()`

func (d *tokenDatabase) loot(t *testing.T) (n int) {
	t.Helper()
	if err := d.connect(t, d.other).QueryRow(t.Context(), "select least(count(*), 1) from loot where secret = 'hush'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// playPlanted has the attacker plant something before the application starts.
func playPlanted(t *testing.T, before, plant string) (bool, string) {
	d := newTokenDatabase(t)
	d.run(t, d.root, before)
	d.run(t, d.root, payroll)
	d.run(t, d.connect(t, d.other), plant)
	s := d.store(t, d.app)
	err := migrated(t, s)
	if err == nil {
		_ = trySave(t, s, "first")
	}
	switch {
	case d.loot(t) > 0:
		return true, "the attacker reads them"
	case !errors.Is(err, tokenstore.ErrUnavailable):
		return true, fmt.Sprint("Migrate: ", err)
	}
	return false, "Migrate refuses it, with `tokenstore.ErrUnavailable`, and nothing is read"
}

// playMoved has the administrator move rows of two users.
func playMoved(t *testing.T, sql string) (bool, string) {
	d, s := adminsDatabase(t)
	saveTokens(t, s, "first")
	other := tokenstore.GrantKey("https://mcp.example.com", "noah")
	err := s.Update(t.Context(), other, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenGrant("second"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d.run(t, d.root, sql)
	for _, key := range []tokenstore.Key{tokenKey, other} {
		if _, err := s.Get(t.Context(), key); !errors.Is(err, tokenstore.ErrCorrupt) {
			return true, "one is taken"
		}
	}
	return false, "both fail with `tokenstore.ErrCorrupt`"
}
