// Confidential uses Astravue's Public API with the client ID and secret of an app that was created
// under Settings → Apps → Create App. It lists projects through an http.Client, which signs in once
// in the browser and then renews its tokens by itself.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "confidential:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("confidential", flag.ExitOnError)
	local := flags.Bool("sandbox", false, "use a local Astravue that signs in by itself, with tokens that live for 5 seconds")
	id := flags.String("client-id", "", "`ID` of the app")
	secretFile := flags.String("client-secret-file", "", "`file` that holds the app's secret and nothing else")
	redirect := flags.String("redirect-url", "http://127.0.0.1/callback", "`address` that the app is registered with, on this computer")
	every := flags.Duration("every", 0, "list again after each `duration`, until interrupted")
	_ = flags.Parse(args) // exits

	client := newClient(*redirect, slog.New(slog.NewTextHandler(stderr, nil)))
	if *local {
		srv, err := useSandbox(client)
		if err != nil {
			return err
		}
		defer srv.Close()
	} else {
		if *id == "" || *secretFile == "" {
			return errors.New("-client-id and -client-secret-file are needed, or -sandbox")
		}
		secret, err := tokenstore.ReadSecretFile(ctx, *secretFile)
		if err != nil {
			return err
		}
		client.Server = os.Getenv("ASTRAVUE_MCP_SERVER") // the Public API is on its host; "": Astravue
		client.Registration.ClientID = *id
		client.Registration.ClientSecret = tokenstore.NewSecret(strings.TrimSpace(secret.Reveal()))
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return report(ctx, client, stdout, *every)
}

func newClient(redirectURL string, logger *slog.Logger) *mcpclient.Client {
	return &mcpclient.Client{
		Name:         "Acme Reports",
		Store:        &tokenstore.Keychain{Service: "acme-reports"}, // not that of other clients for this server
		Registration: mcpclient.Registration{RedirectURL: redirectURL},
		Resource:     mcpclient.NoResource, // the Public API takes no resource parameter
		Scopes:       []string{"openid"},
		Logger:       logger, // has an entry for each sign-in and refresh
	}
}

// report lists the projects: once, or with every > 0 again after each such time until ctx is done.
func report(ctx context.Context, client *mcpclient.Client, stdout io.Writer, every time.Duration) error {
	server, err := url.Parse(cmp.Or(client.Server, mcpclient.DefaultServer))
	if err != nil {
		return err
	}
	address := server.ResolveReference(&url.URL{Path: "/api/v1/projects"}).String()
	api := client.HTTPClient()
	for {
		projects, err := list(ctx, api, address)
		if err != nil {
			return err
		}
		for _, p := range projects {
			fmt.Fprintf(stdout, "%-10s %-10s %s\n", p.Status, p.DueDate, p.Name)
		}
		if every <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
			fmt.Fprintln(stdout)
		}
	}
}

type project struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	DueDate string `json:"due_date"`
}

// list returns the projects on all pages of the list.
func list(ctx context.Context, api *http.Client, address string) ([]project, error) {
	var all []project
	for cursor := ""; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+url.Values{"limit": {"5"}, "cursor": {cursor}}.Encode(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := api.Do(req)
		if err != nil {
			return nil, err
		}
		var page struct {
			Items      []project `json:"items"`
			NextCursor string    `json:"next_cursor"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&page)
		_ = resp.Body.Close()
		switch {
		case resp.StatusCode != http.StatusOK:
			return nil, fmt.Errorf("list projects: %s", resp.Status)
		case err != nil:
			return nil, fmt.Errorf("list projects: %w", err)
		}
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all, nil
		}
	}
}
