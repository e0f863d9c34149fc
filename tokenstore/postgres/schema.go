package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// Schema is what [Migrate] runs, for those who have migrations of their own.
// The table is made in, and looked for along, the connection's search_path;
// who only uses it needs select, insert, update and delete.
const Schema = `create table if not exists astravue_mcp_tokens (
	name    bytea       not null, -- keyed hash; empty: of the store itself
	entry   smallint    not null, -- 0 record, 1 pending mark, 2 the key that hashes names
	version bigint      not null, -- random, new at each save
	sealed  bytea       not null, -- AES-256-GCM
	saved   timestamptz not null default now(),
	primary key (name, entry)
)`

const (
	selectSealed = `select sealed from astravue_mcp_tokens where name = $1 and entry = $2`
	selectAll    = `select entry, version, sealed from astravue_mcp_tokens where name = $1`
	insertSealed = `insert into astravue_mcp_tokens (name, entry, version, sealed) values ($1, $2, $3, $4) on conflict do nothing`
	updateSealed = `update astravue_mcp_tokens set version = $3, sealed = $4, saved = now() where name = $1 and entry = $2 and version = $5`
	deleteSealed = `delete from astravue_mcp_tokens where name = $1 and entry = $2 and version = $3`
	selectIdle   = `select name, sealed from astravue_mcp_tokens where entry = 0 and saved < now() - $2::interval and name > $1 order by name limit 100`
	selectPage   = `select name, entry, version, sealed from astravue_mcp_tokens where (name, entry) > ($1, $2) order by name, entry limit 100`
	replaceSeal  = `update astravue_mcp_tokens set sealed = $5 where name = $1 and entry = $2 and version = $3 and sealed = $4`
)

// migrationLock is an advisory lock like a record's. Any number serves.
const migrationLock = 0x61737472_61767565

// Migrate makes the table where it is not there yet. It may be called at every
// start, by many replicas at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var version int
		if err := tx.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
			return err
		}
		if version < 140000 {
			return fmt.Errorf("the server is too old: 14 is needed")
		}
		var exists bool
		if err := tx.QueryRow(ctx, `select to_regclass('astravue_mcp_tokens') is not null`).Scan(&exists); err != nil || exists {
			return err // who may not create anything may still call Migrate
		}
		// Two at once would otherwise fail with a duplicate key of the catalogue.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, Schema)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: migrate: %w", tokenstore.ErrUnavailable, err)
	}
	return nil
}
