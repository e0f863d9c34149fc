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

// Schema is the statement that [Migrate] runs, for applications with migrations
// of their own. The table is made in, and looked for along, the connection's
// search_path. A role that only uses it needs select, insert, update and delete.
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

// migrationLock is the number of an advisory lock, chosen at random.
const migrationLock = 0x61737472_61767565

// Migrate makes the table if it does not exist. It may be called at every start
// and by many replicas at once. If the table exists, the role need not be allowed
// to make tables.
//
// Migrate refuses a table that another role could have prepared. The owner of
// the table must be a role that can do anything to it in any case: the calling
// role, the owner of the schema or the database, or a superuser. So must
// the owner of each trigger's function, which runs as the application. The
// search_path must not name pg_catalog after another schema, where a role that
// makes functions could replace PostgreSQL's own. If another role makes the
// table, run [Schema] as that role and do not call Migrate.
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
		// Without the lock, the second of two at once fails: "create table if not
		// exists" then violates a unique key of the catalogue.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, Schema); err != nil {
			return err
		}
		_, err := checkTable(ctx, tx) // somebody else may have made it since
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

// checkPath refuses a search_path in which another schema comes before
// pg_catalog. pg_catalog comes first if the path does not name it. pg_temp may
// come before it, since PostgreSQL looks for no functions there.
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

// trusted selects the roles that can do anything to a table of the schema n.
const trusted = `(select r.oid from pg_roles r, pg_database d
	where d.datname = current_database() and (r.rolsuper or r.rolname = current_user or r.oid = d.datdba or r.oid = n.nspowner))`

const lookAtTable = `select n.nspname, pg_get_userbyid(c.relowner), c.relkind in ('r', 'p'), c.relowner in ` + trusted + `,
	(select t.tgname from pg_trigger t join pg_proc p on p.oid = t.tgfoid
		where t.tgrelid = c.oid and not t.tgisinternal and p.proowner not in ` + trusted + ` order by t.tgname limit 1)
	from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass('astravue_mcp_tokens')`

// checkTable reports whether the table exists. It returns an error if the table
// is not to be trusted.
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
