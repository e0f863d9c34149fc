package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

const tidyEvery = 24 * time.Hour

// openPostgres returns a store in the database that DATABASE_URL names, or else PGHOST and the other
// variables of PostgreSQL. So no argument holds the password. pool_max_conns in the URL bounds the
// connections of this process.
func openPostgres(ctx context.Context, keyFile string) (*postgres.Store, error) {
	keys, err := readKeys(ctx, keyFile)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL")) // no error of it shows the password
	if err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return &postgres.Store{Pool: pool, Keys: keys}, nil
}

// readKeys reads keys in base64, one a line.
func readKeys(ctx context.Context, file string) ([]tokenstore.Secret, error) {
	data, err := tokenstore.ReadSecretFile(ctx, file)
	if err != nil {
		return nil, err
	}
	var keys []tokenstore.Secret
	for i, line := range strings.Fields(data.Reveal()) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != postgres.KeySize {
			return nil, fmt.Errorf("key %d in %s is not %d bytes in base64", i+1, file, postgres.KeySize)
		}
		keys = append(keys, tokenstore.NewSecret(string(key)))
	}
	if keys == nil {
		return nil, errors.New("no key in " + file)
	}
	return keys, nil
}

// tidy seals with the newest key what an older key has sealed, and deletes the tokens of sessions
// whose cookies have expired: a grant that was not saved for the life of a session belongs to none.
// It runs at the start and every day until ctx is done.
func tidy(ctx context.Context, store *postgres.Store, log *slog.Logger) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		resealed, err := store.Reseal(ctx)
		deleted, deleteErr := store.DeleteIdle(ctx, sessionLife)
		switch err = errors.Join(err, deleteErr); {
		case err == nil:
			log.Info("tidied the token store", "resealed", resealed, "deleted", deleted)
		case ctx.Err() == nil:
			log.Error("tidy the token store", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
