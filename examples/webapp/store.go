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

// openPostgres returns a store in the database that DATABASE_URL names, or
// where that is not set PGHOST and its like. Its password is in no argument.
// The parameter pool_max_conns bounds the connections of this process.
func openPostgres(ctx context.Context, keyFile string) (*postgres.Store, error) {
	keys, err := readKeys(ctx, keyFile)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL")) // its errors show no password
	if err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return &postgres.Store{Pool: pool, Keys: keys}, nil
}

// readKeys reads keys in base64, a line each.
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

// tidy seals anew what an older key has sealed, and deletes the tokens of
// sessions whose cookies have ended: a grant is saved when its session begins,
// and what was not saved for a session's life belongs to none. It does so at
// the start and every day until ctx ends.
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
