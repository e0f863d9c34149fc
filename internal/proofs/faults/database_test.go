package faults

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

const killAll = `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`

// The troubles of a database.
var (
	killed   = sqlTrouble("the connections are ended, as by a restart", killAll)
	readOnly = &storeFault{name: "it is read-only",
		begin: func(s *storeEnv) {
			s.sql(`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
			s.sql(killAll)
		},
		end: func(s *storeEnv) {
			s.sql(`do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`)
			s.sql(killAll)
		},
	}
	markKept = &storeFault{name: "its row cannot be removed",
		begin: func(s *storeEnv) {
			s.sql(`create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$`)
			s.sql(`create trigger refuse before delete on astravue_mcp_tokens for each row execute function refuse()`)
		},
		end: func(s *storeEnv) { s.sql(`drop trigger refuse on astravue_mcp_tokens`) },
	}
	noTable = &storeFault{name: "the table is not there",
		begin: func(s *storeEnv) { s.sql(`alter table astravue_mcp_tokens rename to away`) },
		end:   func(s *storeEnv) { s.sql(`alter table away rename to astravue_mcp_tokens`) },
	}
	garbageRow = sqlTrouble("the row holds garbage", `update astravue_mcp_tokens set sealed = 'garbage' where entry = 0`)
	cutRow     = sqlTrouble("the row is cut off", `update astravue_mcp_tokens set sealed = substr(sealed, 1, 100) where entry = 0`)
	newerRow   = sqlTrouble("the row is of a newer version", `update astravue_mcp_tokens set sealed = set_byte(sealed, 0, 2) where entry = 0`)
	deletedRow = &storeFault{name: "its connection is ended, and another process logs out", begin: func(s *storeEnv) {
		s.sql(killAll)
		must(s.t, s.other.Delete(context.Background(), keys[0]))
	}}
	wrongKey = &storeFault{name: "the table was sealed with another key", wrong: func(s *storeEnv) {
		s.store.(*postgres.Store).Keys = []tokenstore.Secret{tokenstore.NewSecret(strings.Repeat("b", postgres.KeySize))}
	}}
)

func sqlTrouble(name, sql string) *storeFault {
	return &storeFault{name: name, begin: func(s *storeEnv) { s.sql(sql) }}
}

// sql runs a statement over a connection of its own.
func (s *storeEnv) sql(statement string) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.dsn+"&default_transaction_read_only=off")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		s.t.Errorf("%s: %v", statement, err)
	}
}

func saveDatabaseList(t *testing.T, s *suite) string {
	testenv.Postgres(t)
	s.lasting.Add(1) // who waits for the server's end
	open := func(t *testing.T) *storeEnv {
		sh := &storeEnv{t: t, dsn: testenv.Postgres(t)}
		config, err := pgx.ParseConfig(sh.dsn)
		if err != nil {
			t.Fatal(err)
		}
		sh.line = newRelay(t, "tcp", net.JoinHostPort(config.Host, fmt.Sprint(config.Port)))
		pool := func(dial pgconn.DialFunc) *pgxpool.Pool {
			config, err := pgxpool.ParseConfig(sh.dsn)
			if err != nil {
				t.Fatal(err)
			}
			config.MaxConns, config.ConnConfig.DialFunc = 3, dial
			p, err := pgxpool.NewWithConfig(context.Background(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			if err := p.Ping(context.Background()); err != nil { // it connects by itself, and late
				t.Fatal(err)
			}
			return p
		}
		var dialer net.Dialer
		direct, through := pool(dialer.DialContext), pool(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", sh.line.path)
		})
		if err := postgres.Migrate(context.Background(), direct); err != nil {
			t.Fatal(err)
		}
		database := func(p *pgxpool.Pool) *postgres.Store {
			key := tokenstore.NewSecret(string(bytes.Repeat([]byte("a"), postgres.KeySize)))
			return &postgres.Store{Pool: p, Keys: []tokenstore.Secret{key}, CallTimeout: patience / 3}
		}
		sh.store, sh.other = database(through), database(direct)
		sh.again = func() tokenstore.Store { return database(through) }
		return sh
	}
	decisions := everything([]*storeFault{cutOff}, "`syscall.ECONNREFUSED`, ")
	decisions = append(decisions, everything([]*storeFault{stalls}, deadline+", ")...)
	decisions = append(decisions, unsaved([]*storeFault{cutOff}, "`syscall.ECONNREFUSED`, `tokenstore.ErrUnavailable`")...)
	decisions = append(decisions, unwritable([]*storeFault{readOnly}, "")...)
	decisions = append(decisions, momentary([]*storeFault{onceCutOff, onceStalls, killed})...)
	decisions = append(decisions,
		saveDecision{atSave, []*storeFault{deletedRow}, "none", 1, forgotten, loggedOut},
		saveDecision{atClear, []*storeFault{markKept}, "none", 1, "renewed", nextGoesOn},
		saveDecision{atStart, []*storeFault{noTable}, "step 8, `tokenstore.ErrUnavailable`", 0, asItWas, goesOn},
		saveDecision{inLife, []*storeFault{killed}, "none", 0, asItWas, goesOn},
		saveDecision{atRefresh, []*storeFault{killed}, "none", 1, "renewed", goesOn},
		saveDecision{atLogin, []*storeFault{killed}, "none", 1, signedIn, goesOn},
		saveDecision{atLogout, []*storeFault{killed}, "none", 2, forgotten, forgotten},
	)
	decisions = append(decisions, damaged(garbageRow, cutRow, newerRow)...)
	wrong := []*storeFault{wrongKey}
	decisions = append(decisions,
		saveDecision{atStart, wrong, "step 8, `tokenstore.ErrCorrupt`", 0, asItWas, nextGoesOn},
		saveDecision{atLogin, wrong, "step 6, `tokenstore.ErrCorrupt`", 0, asItWas, nextGoesOn},
		saveDecision{atLogout, wrong, "step 6, `tokenstore.ErrCorrupt`", 0, asItWas, nextGoesOn},
	)
	decisions = append(decisions, waiting()...)
	return s.saves(t, open, nil, decisions)
}
