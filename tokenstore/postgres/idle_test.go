package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// age has all rows be saved an hour earlier.
func age(t testing.TB, c *pgx.Conn) {
	t.Helper()
	if _, err := c.Exec(t.Context(), `update astravue_mcp_tokens set saved = saved - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
}

func saveGrant(t testing.TB, s tokenstore.Store, account string) tokenstore.Key {
	t.Helper()
	key, r := tokenstore.GrantKey("https://api.example.com/mcp", account), grant(1)
	r.Grant.Account = account
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, r)
		return errors.Join(err, l.SetMark(ctx, tokenstore.Mark{Failures: 1}))
	}); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestDeleteIdle(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, c := open(t, dsn, 4), admin(t, dsn)
	const gone = 120 // more than are looked at in one go
	for i := range gone {
		saveGrant(t, s, fmt.Sprint("gone-", i))
	}
	active := saveGrant(t, s, "active")
	registration, own := tokenstore.RegistrationKey("https://auth.example.com", "app", "https://api.example.com"), tokenstore.Key("of another form")
	if err := s.Update(t.Context(), registration, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{ClientID: "client"}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	mustSave(t, s, own, 1)
	age(t, c)
	saveGrant(t, s, "active")
	saveGrant(t, s, "new")

	if n, err := s.DeleteIdle(t.Context(), 2*time.Hour); n != 0 || err != nil {
		t.Errorf("before their time: %d, %v", n, err)
	}
	if n, err := s.DeleteIdle(t.Context(), 0); n != 0 || err == nil {
		t.Errorf("without a time: %d, %v", n, err)
	}
	if n, err := s.DeleteIdle(t.Context(), 30*time.Minute); n != gone || err != nil {
		t.Errorf("%d, %v, want %d", n, err, gone)
	}
	for _, key := range []tokenstore.Key{active, registration, own} {
		if _, err := s.Get(t.Context(), key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if rows := query[int](t, c, `select count(*)::int from astravue_mcp_tokens`)[0]; rows != 1+2*2+2 {
		t.Errorf("%d rows are left; two grants with their marks, two records and the key of the names are wanted", rows)
	}

	spoiler{s, c}.Damage(t, "")
	age(t, c)
	if n, err := s.DeleteIdle(t.Context(), 30*time.Minute); n != 0 || !errors.Is(err, tokenstore.ErrCorrupt) {
		t.Errorf("damaged records: %d, %v, want ErrCorrupt", n, err)
	}
}

// Who comes back while idle grants are deleted is not signed out.
func TestDeleteIdleBesideASave(t *testing.T) {
	dsn := testenv.Postgres(t)
	s, other, c := open(t, dsn, 4), open(t, dsn, 4), admin(t, dsn)
	key := saveGrant(t, s, "mia@example.com")
	age(t, c)
	deleted := make(chan int)
	if err := s.Update(t.Context(), key, func(ctx context.Context, l *tokenstore.Locked) error {
		go func() {
			n, err := other.DeleteIdle(t.Context(), time.Minute)
			if err != nil {
				t.Error(err)
			}
			deleted <- n
		}()
		for len(query[int](t, c, `select pid from pg_locks where locktype = 'advisory' and not granted`)) == 0 {
			time.Sleep(time.Millisecond) // it has seen the idle grant, and waits for its lock
		}
		_, err := l.Save(ctx, grant(2))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := <-deleted; n != 0 {
		t.Errorf("%d grants were deleted", n)
	}
	if n := number(t, s, key); n != 2 {
		t.Errorf("record %d is stored, want 2", n)
	}
}
