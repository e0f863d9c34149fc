package attacks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

const (
	otherRole = "another role of the database"
	theAdmin  = "an administrator of the database"
	theRows   = "the application's other tables, read as the application"
	theTokens = "a user's tokens"
)

var databaseAttacks = append([]attack{
	{
		id: "db-table-first", who: otherRole, gains: theRows,
		does: "makes the table first, in a schema where it may, with a trigger",
		play: func(t *testing.T) (bool, string) {
			return playPlanted(t, "grant create on schema public to OTHER, APP", plantedTable)
		},
	},
	{
		id: "db-table-of-a-group", who: otherRole, gains: theRows,
		does: "makes the table first as a group that the application is in too",
		play: func(t *testing.T) (bool, string) {
			return playPlanted(t, "grant create on schema public to OTHER, APP; grant OTHER to APP", plantedTable)
		},
	},
	{
		id: "db-view-first", who: otherRole, gains: theRows,
		does: "makes a view of the table's name first, with a trigger",
		play: func(t *testing.T) (bool, string) {
			return playPlanted(t, "grant create on schema public to OTHER, APP",
				strings.NewReplacer("create table if not exists astravue_mcp_tokens", "create table backing",
					"grant all on astravue_mcp_tokens to public;", "",
					"before insert on astravue_mcp_tokens", "instead of insert on astravue_mcp_tokens",
					"create trigger", "create view astravue_mcp_tokens as select * from backing; grant all on astravue_mcp_tokens to public; create trigger").Replace(plantedTable))
		},
	},
	{
		id: "db-trigger-on-ours", who: otherRole + " that was granted all on the table", gains: theRows,
		does: "puts a trigger on the application's own table",
		play: func(t *testing.T) (bool, string) {
			return playPlanted(t, "grant create on schema public to OTHER, APP; set role APP; "+postgres.Schema+"; grant all on astravue_mcp_tokens to OTHER; reset role",
				strings.Replace(plantedTable, postgres.Schema, "select 1", 1))
		},
	},
	{
		id: "db-functions-in-front", who: otherRole, gains: theRows,
		does: "makes a function called current_setting, where the application's search_path names public before pg_catalog",
		play: func(t *testing.T) (bool, string) {
			return playPlanted(t, "grant create on schema public to OTHER, APP; alter role APP set search_path = public, pg_catalog", `
				create function public.current_setting(text) returns text language plpgsql as $$ begin
					insert into loot select secret from payroll; return pg_catalog.current_setting($1); end $$;
				create function public.now() returns timestamptz language plpgsql as $$ begin
					insert into loot select secret from payroll; return pg_catalog.now(); end $$`)
		},
	},
	{
		id: "db-table-later", who: otherRole + " that may make tables in a schema that comes before the table's", gains: theRows,
		does:   "makes the table there, after Migrate",
		stands: "The application chooses its search_path, and each statement follows it. The package documentation lists safe rights under \"Other roles\"; the next Migrate refuses this table",
		play: func(t *testing.T) (bool, string) {
			d := newTokenDatabase(t)
			d.run(t, d.root, "create schema early; grant usage on schema early to public; grant create on schema early to OTHER; grant create on schema public to APP; alter role OTHER set search_path = early, public")
			d.run(t, d.root, payroll)
			s := d.store(t, d.app)
			if err := migrated(t, s); err != nil {
				t.Fatal(err)
			}
			d.run(t, d.root, "alter role APP set search_path = early, public")
			s = d.store(t, d.app)
			saveTokens(t, s, "mia")
			d.run(t, d.connect(t, d.other), plantedTable)
			s.Pool.Reset() // as it opens others by itself from time to time
			err := trySave(t, s, "mia")
			if got := d.loot(t); got != 1 || err != nil && !errors.Is(err, tokenstore.ErrUnavailable) {
				return false, fmt.Sprint("nothing is read: ", err)
			}
			if err := migrated(t, s); !errors.Is(err, tokenstore.ErrUnavailable) {
				t.Errorf("the next Migrate: %v", err)
			}
			return true, "the next save reads them"
		},
	},
	{
		id: "db-lock-held", who: otherRole, gains: "that a user's token is not renewed",
		does:   "sees the number of a lock in pg_locks while it is held, and holds it from then on",
		stands: "Every role may take any advisory lock of PostgreSQL's: the package documentation says so under \"Other roles\". The call ends with a typed error, and valid tokens stay in use",
		play: func(t *testing.T) (bool, string) {
			d := newTokenDatabase(t)
			d.run(t, d.root, "grant create on schema public to APP")
			s := d.store(t, d.app)
			s.LockTimeout = 300 * time.Millisecond
			if err := migrated(t, s); err != nil {
				t.Fatal(err)
			}
			saveTokens(t, s, "mia")
			attacker := d.connect(t, d.other)
			var seen int64
			err := s.Update(t.Context(), tokenKey, func(context.Context, *tokenstore.Locked) error {
				return attacker.QueryRow(t.Context(), `select (classid::bigint << 32) | objid::bigint from pg_locks where locktype = 'advisory' and objsubid = 1`).Scan(&seen)
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := attacker.Exec(t.Context(), "select pg_advisory_lock($1)", seen); err != nil {
				t.Fatal(err)
			}
			if err := trySave(t, s, "mia"); !errors.As(err, new(*tokenstore.LockTimeoutError)) {
				return false, fmt.Sprint("the save: ", err)
			}
			if _, err := s.Get(t.Context(), tokenKey); err != nil {
				t.Errorf("Get: %v", err)
			}
			return true, "the save fails with `*tokenstore.LockTimeoutError`, and a read goes on"
		},
	},
	{
		id: "db-rolled-back", who: theAdmin, gains: "that an older refresh token is sent, for which the authorization server ends the session",
		does:   "replaces the newest row by one from before the last refresh",
		stands: "Nothing outside the table tells which row is newest: the package documentation says so under \"Keys\"",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			d.run(t, d.root, "create table kept as select * from astravue_mcp_tokens where entry = 0")
			saveTokens(t, s, "second")
			d.run(t, d.root, "update astravue_mcp_tokens t set version = k.version, sealed = k.sealed from kept k where (t.name, t.entry) = (k.name, k.entry)")
			got := readTokens(t, s)
			return got == "first", "the older tokens are read again"
		},
	},
	{
		id: "db-put-back", who: theAdmin, gains: "that a user who signed out is signed in, for as long as the server has not revoked the tokens",
		does:   "puts back a row from before a sign-out",
		stands: "Nothing outside the table records a sign-out. The sign-out asks the server to revoke the tokens: the package documentation says so under \"Keys\"",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			d.run(t, d.root, "create table kept as select * from astravue_mcp_tokens where entry = 0")
			if err := s.Delete(t.Context(), tokenKey); err != nil {
				t.Fatal(err)
			}
			d.run(t, d.root, "insert into astravue_mcp_tokens select * from kept")
			return readTokens(t, s) == "first", "the tokens are read again"
		},
	},
	{
		id: "db-name-key-gone", who: theAdmin, gains: "that everybody signs in again, unnoticed, beside records that stay for good",
		does: "deletes the row of the key that names the others",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			d.run(t, d.root, "delete from astravue_mcp_tokens where entry = 2")
			fresh := d.store(t, d.root.Config().ConnString())
			_, err := fresh.Get(t.Context(), tokenKey)
			_, resealed := fresh.Reseal(t.Context())
			if !errors.Is(err, tokenstore.ErrCorrupt) || !errors.Is(resealed, tokenstore.ErrCorrupt) {
				return true, "a new process takes the table for an empty one"
			}
			return false, "a new process fails with `tokenstore.ErrCorrupt`, and so does Reseal"
		},
	},
	{
		id: "db-clear-text", who: theAdmin, gains: theTokens + ", or whose they are",
		does: "looks for token, secret, server, account, client and issuer in all columns of all rows",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			all := d.dump(t)
			for _, text := range []string{"hush", "mcp.example.com", "mia", "client-first", "auth.example.com"} {
				if bytes.Contains(all, []byte(text)) {
					return true, text + " is there"
				}
			}
			return false, "none of them is there"
		},
	},
	{
		id: "db-rows-swapped", who: theAdmin, gains: theTokens + ", used as another user",
		does: "swaps what two users' rows hold",
		play: func(t *testing.T) (bool, string) {
			return playMoved(t, "update astravue_mcp_tokens t set sealed = o.sealed from (select * from astravue_mcp_tokens) o where t.entry = 0 and o.entry = 0 and t.name <> o.name")
		},
	},
	{
		id: "db-names-swapped", who: theAdmin, gains: theTokens + ", used as another user",
		does: "swaps the names of two users' rows",
		play: func(t *testing.T) (bool, string) {
			return playMoved(t, "create table kept as select * from astravue_mcp_tokens where entry = 0; delete from astravue_mcp_tokens where entry = 0; insert into astravue_mcp_tokens select o.name, 0, k.version, k.sealed, k.saved from kept k join kept o on o.name <> k.name")
		},
	},
	{
		id: "db-record-as-mark", who: theAdmin, gains: "a mark of the administrator's own making",
		does: "puts a record in the place of its pending mark",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			d.run(t, d.root, "insert into astravue_mcp_tokens select name, 1, version, sealed, saved from astravue_mcp_tokens where entry = 0")
			var mark tokenstore.Mark
			err := s.Update(t.Context(), tokenKey, func(ctx context.Context, l *tokenstore.Locked) (err error) {
				mark, err = l.Mark(ctx)
				return err
			})
			if err != nil || mark != (tokenstore.Mark{Pending: true}) {
				return true, fmt.Sprint("it is taken: ", err)
			}
			return false, "it counts as a mark of which nothing is known, so that one more try is made"
		},
	},
	{
		id: "db-bit", who: theAdmin, gains: "a record of the administrator's own making",
		does: "turns each byte of a sealed record around, one at a time",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			d.run(t, d.root, "create table kept as select * from astravue_mcp_tokens where entry = 0")
			var n int
			if err := d.root.QueryRow(t.Context(), "select length(sealed) from kept").Scan(&n); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if _, err := d.root.Exec(t.Context(), "update astravue_mcp_tokens t set sealed = set_byte(k.sealed, $1, get_byte(k.sealed, $1) # 1) from kept k where t.name = k.name and t.entry = 0", i); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Get(t.Context(), tokenKey); !errors.Is(err, tokenstore.ErrCorrupt) {
					return true, "one is taken"
				}
			}
			return false, "each fails with `tokenstore.ErrCorrupt`"
		},
	},
	{
		id: "db-another-key", who: theAdmin, gains: theTokens,
		does: "reads the table with a key of its own, and has a process with that key write to it",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			saveTokens(t, s, "first")
			mine := d.store(t, d.root.Config().ConnString())
			mine.Keys = []tokenstore.Secret{tokenstore.NewSecret(strings.Repeat("z", postgres.KeySize))}
			_, err := mine.Get(t.Context(), tokenKey)
			if saved := trySave(t, mine, "second"); !errors.Is(err, tokenstore.ErrCorrupt) || !errors.Is(saved, tokenstore.ErrCorrupt) {
				return true, "it is taken"
			}
			return false, "both fail with `tokenstore.ErrCorrupt`"
		},
	},
	{
		id: "db-nonces", who: theAdmin, gains: "two records under one nonce, and so the key of GCM's hash",
		does: "collects the nonces of 300 saves",
		play: func(t *testing.T) (bool, string) {
			d, s := adminsDatabase(t)
			nonces := map[string]bool{}
			for range 300 {
				saveTokens(t, s, "first")
				var sealed []byte
				if err := d.root.QueryRow(t.Context(), "select sealed from astravue_mcp_tokens where entry = 0").Scan(&sealed); err != nil {
					t.Fatal(err)
				}
				nonces[string(sealed[1:13])] = true
			}
			return len(nonces) < 300, fmt.Sprintf("%d of 300 are distinct", len(nonces))
		},
	},
}, databaseRows()...)

func databaseRows() (rows []attack) {
	for _, k := range []struct{ id, does, account string }{
		{"nul", "with a NUL", "mia\x00"},
		{"quote", "that ends a string of SQL", `'; drop table astravue_mcp_tokens; --`},
		{"empty", "that is empty", ""},
		{"long", "of 1 MiB", strings.Repeat("x", 1<<20)},
		{"hash", "that looks like a sign-in's key", "mia#sign-in"},
		{"bytes", "that is no UTF-8", "mia\xff\xfe"},
		{"name", "that looks like the name key's", "\\x"},
	} {
		rows = append(rows, attack{
			id: "db-key-" + k.id, who: "a user of a web application, who chooses the account's name", gains: "another user's record, or the table",
			does: "signs in as an account " + k.does,
			play: func(t *testing.T) (bool, string) {
				d, s := adminsDatabase(t)
				saveTokens(t, s, "first")
				key := tokenstore.GrantKey("https://mcp.example.com", k.account)
				err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
					_, err := l.Save(ctx, tokenGrant("hostile"))
					return err
				})
				var n int
				if scan := d.root.QueryRow(t.Context(), "select count(*) from astravue_mcp_tokens where entry = 0").Scan(&n); scan != nil || err != nil {
					return true, fmt.Sprintf("%v, %v", err, scan)
				}
				return n != 2 || readTokens(t, s) != "first", "it has a row of its own"
			},
		})
	}
	for _, c := range []struct{ id, does, dsn string }{
		{"refused", "a server that is not there", "postgres://app:hush-password@127.0.0.1:1/x"},
		{"address", "an address that is none", "postgres://app:hush-password@127.0.0.1:x/x"},
		{"host", "a host that is not there", "postgres://app:hush-password@nowhere.invalid/x"},
		{"database", "a database that is not there", "DATABASE"},
	} {
		rows = append(rows, attack{
			id: "db-password-" + c.id, who: "somebody who reads a log", gains: "the password of the database",
			does: "has the application connect to " + c.does,
			play: func(t *testing.T) (bool, string) {
				dsn := c.dsn
				if dsn == "DATABASE" {
					d := newTokenDatabase(t)
					u := d.root.Config()
					dsn = fmt.Sprintf("postgres://test:hush-password@127.0.0.1:%d/nowhere?sslmode=disable", u.Port)
				}
				var texts []string
				s, err := openTokens(t, dsn)
				if err == nil {
					s.CallTimeout = time.Second
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					_, err = s.Get(ctx, tokenKey)
					texts = append(texts, fmt.Sprint(migrated(t, s)))
				}
				if err == nil {
					t.Fatal("it connects")
				}
				verbs := []string{"%v", "%+v", "%q"}
				if s != nil {
					verbs = append(verbs, "%#v") // of an error of the store, not of pgx
				}
				for _, verb := range verbs {
					texts = append(texts, fmt.Sprintf(verb, err))
				}
				return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, "hush-password") }), "the errors do not hold it"
			},
		})
	}
	return rows
}
