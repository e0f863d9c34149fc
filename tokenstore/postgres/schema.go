package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

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
	selectAny    = `select exists (select from astravue_mcp_tokens)`
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
// start, by many replicas at once, and by a role that may make nothing.
//
// A table that is there is taken if its owner could do anything to it in any
// case: the role that asks, the owner of the schema or the database, or a
// superuser. Another role's table is refused, and so is a trigger whose
// function is another role's: it would run as the application. So is a
// search_path that names pg_catalog after a schema, where whoever may make
// functions there would stand in for PostgreSQL's own. Who has the table made by
// a role of another kind runs [Schema] and does not call Migrate.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := checkPath(ctx, tx); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
			return err
		}
		if version < 140000 {
			return fmt.Errorf("the server is too old: 14 is needed")
		}
		if exists, err := checkTable(ctx, tx); err != nil || exists {
			return err // who may not create anything may still call Migrate
		}
		// Two at once would otherwise fail with a duplicate key of the catalogue.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, Schema); err != nil {
			return err
		}
		_, err := checkTable(ctx, tx) // somebody else's may be there since
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

// checkPath refuses a search_path in which pg_catalog does not come first, as
// it does where it is not named. pg_temp may stand before it: no function is
// looked for there.
func checkPath(ctx context.Context, tx pgx.Tx) error {
	var path []string
	if err := tx.QueryRow(ctx, `select pg_catalog.current_schemas(true)::pg_catalog.text[]`).Scan(&path); err != nil {
		return err
	}
	for _, schema := range path {
		if schema == "pg_catalog" {
			return nil
		}
		if !strings.HasPrefix(schema, "pg_temp") {
			return fmt.Errorf("the search_path names the schema %q before pg_catalog", schema)
		}
	}
	return nil
}

// trusted are the roles that can do what they like to the table c of the
// schema n in any case.
const trusted = `(select r.oid from pg_roles r, pg_database d
	where d.datname = current_database() and (r.rolsuper or r.rolname = current_user or r.oid = d.datdba or r.oid = n.nspowner))`

const lookAtTable = `select n.nspname, pg_get_userbyid(c.relowner), c.relkind in ('r', 'p'), c.relowner in ` + trusted + `,
	(select t.tgname from pg_trigger t join pg_proc p on p.oid = t.tgfoid
		where t.tgrelid = c.oid and not t.tgisinternal and p.proowner not in ` + trusted + ` order by t.tgname limit 1)
	from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass('astravue_mcp_tokens')`

// checkTable reports whether there is a table, and whether it is somebody
// else's.
func checkTable(ctx context.Context, tx pgx.Tx) (exists bool, err error) {
	var schema, owner string
	var isTable, ours bool
	var trigger *string
	switch err := tx.QueryRow(ctx, lookAtTable).Scan(&schema, &owner, &isTable, &ours, &trigger); {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case !isTable:
		return true, fmt.Errorf("astravue_mcp_tokens in the schema %q is no table", schema)
	case !ours:
		return true, fmt.Errorf("the table astravue_mcp_tokens in the schema %q belongs to the role %q, which owns neither the schema nor the database", schema, owner)
	case trigger != nil:
		return true, fmt.Errorf("the table astravue_mcp_tokens in the schema %q has the trigger %q, whose function is another role's", schema, *trigger)
	}
	return true, nil
}
