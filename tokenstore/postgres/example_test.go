package postgres_test

import (
	"context"
	"encoding/base64"
	"log"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

// A web application opens its store once, at the start.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(os.Getenv("SEALING_KEY")) // openssl rand -base64 32
	if err != nil {
		log.Fatal("SEALING_KEY is not base64")
	}
	var store tokenstore.Store = &postgres.Store{
		Pool: pool,
		Keys: []tokenstore.Secret{tokenstore.NewSecret(string(key))},
	}
	_ = store // goes into mcpclient.Client or refresh.Config
}
