// Webapp is a small web application whose users connect their Astravue accounts. Its sign-in is split
// at the redirect, tokens stay on the server, and any number of users are signed in at once.
//
//	webapp -sandbox
//	DATABASE_URL=postgres://… webapp -key-file FILE -postgres FILE
//
// The first command runs one process that keeps everything in memory. The second runs one of several
// replicas, which share a database and the two files. Give the application a host of its own:
// browsers send its cookies to every port of the host (RFC 6265 §8.5).
//
//   - main.go: flags, start and shutdown
//   - store.go: tokens in PostgreSQL, and their keys
//   - app.go: the pages' handlers, sign-in and sign-out
//   - turns.go: a limit on sign-ins that begin at once
//   - users.go: one mcpclient.Client for each user who was active lately
//   - board.go: the board's contents, from MCP
//   - cookies.go, pages.go, page.html, style.css: what the browser gets
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const shutdownTimeout = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "webapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("webapp", flag.ExitOnError)
	local := flags.Bool("sandbox", false, "use a local Astravue, whose sign-in page shows its users and their passwords")
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on")
	public := flags.String("url", "", "`URL` at which browsers reach this application (default: http:// and the address)")
	keyFile := flags.String("key-file", "", "`file` with at least 32 random bytes that seal the cookies, one for all replicas; without it a restart ends all sessions")
	tokenKeys := flags.String("postgres", "", "keep tokens in the PostgreSQL database that $DATABASE_URL names, which replicas share, "+
		"sealed with the key in this `file`, 32 random bytes in base64; older keys on further lines still open older tokens; without -postgres, tokens stay in memory")
	_ = flags.Parse(args) // exits

	c := config{
		Server: os.Getenv("ASTRAVUE_MCP_SERVER"), // "": Astravue
		Store:  &tokenstore.Memory{},
		Log:    slog.New(slog.NewTextHandler(stderr, nil)),
		Key:    make([]byte, 32),
	}
	switch {
	case *keyFile != "":
		key, err := tokenstore.ReadSecretFile(ctx, *keyFile)
		if err != nil {
			return err
		}
		c.Key = []byte(key.Reveal())
	case *tokenKeys != "":
		return errors.New("-postgres needs a -key-file, or the tokens would outlive the cookies that lead to them")
	default:
		_, _ = rand.Read(c.Key) // never fails
	}
	if *tokenKeys != "" {
		store, err := openPostgres(ctx, *tokenKeys)
		if err != nil {
			return err
		}
		defer store.Pool.Close()
		tidying, stop := context.WithCancel(ctx)
		var tidier sync.WaitGroup
		tidier.Go(func() { tidy(tidying, store, c.Log) })
		defer tidier.Wait()
		defer stop()
		c.Store = store
	}
	if *local {
		srv, err := sandbox.Start(sandbox.Options{})
		if err != nil {
			return err
		}
		defer srv.Close()
		c.Server = srv.URL()
	}

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	c.URL = cmp.Or(*public, "http://"+l.Addr().String())
	app, err := newApp(c)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	c.Log.Info("listening", "address", l.Addr().String())
	fmt.Fprintf(stdout, "Open %s\n", c.URL)
	return serve(ctx, l, app, c.Log)
}

// serve serves until ctx is done, and then until the requests under way are answered.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:      h,
		ReadTimeout:  10 * time.Second, // a browser sends no more than a small form
		WriteTimeout: 2 * requestTimeout,
		IdleTimeout:  2 * time.Minute,
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return srv.Shutdown(ctx)
}
