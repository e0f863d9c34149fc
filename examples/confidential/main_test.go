package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

func TestSandbox(t *testing.T) {
	var out, log testenv.Buffer
	if err := run(t.Context(), []string{"-sandbox"}, &out, &log); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 7 { // on two pages
		t.Errorf("%d projects, want 7:\n%s", n, &out)
	}
	for _, want := range []string{"exchange code", "outcome=done"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, &log)
		}
	}
	if strings.Contains(log.String(), "WARN") {
		t.Errorf("a warning in the log:\n%s", &log)
	}
}

func TestRefreshesByItself(t *testing.T) {
	var log testenv.Buffer
	client := newClient("http://127.0.0.1/callback", slog.New(slog.NewTextHandler(&log, nil)))
	srv, err := useSandbox(client)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	const lives = 3
	for range lives {
		var out strings.Builder
		if err := report(t.Context(), client, &out, 0); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "Kestrel Coffee app") {
			t.Errorf("no projects:\n%s", &out)
		}
		srv.Advance(time.Minute)
		defer clock.Advance(time.Minute)()
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}

	id, secret := srv.App()
	asked := srv.Counts().Requests
	if asked[sandbox.StepAuthorize] != 1 || asked[sandbox.StepExchange] != 1 || asked[sandbox.StepRefresh] != lives-1 || asked[sandbox.StepRegister] != 0 {
		t.Errorf("requests: %v", asked)
	}
	for _, r := range srv.Requests() {
		switch r.Step {
		case sandbox.StepAuthorize:
			if r.Params.Get("scope") != "openid" || r.Params.Get("client_id") != id {
				t.Errorf("asked for %v", r.Params)
			}
		case sandbox.StepAPI:
			if r.User == "" || r.ClientID != id || r.Status != 200 {
				t.Errorf("%+v", r)
			}
		}
		if r.Params.Has("resource") {
			t.Errorf("%s with a resource", r.Step)
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Error("the log shows the client's secret")
	}
}

func TestSecretOfAnotherApp(t *testing.T) {
	client := newClient("http://127.0.0.1/callback", slog.New(slog.DiscardHandler))
	srv, err := useSandbox(client)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	defer client.Close()
	client.Registration.ClientID = srv.PublicClient()
	var out strings.Builder
	if err := report(t.Context(), client, &out, 0); err == nil || out.Len() > 0 {
		t.Errorf("no error, but %q", &out)
	}
}
