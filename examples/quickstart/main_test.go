package main

import (
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/examples/internal/browser"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestSandbox(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-sandbox"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nlist_project_tasks ", "\nlist_projects:\n", "Harbor Museum website"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestSecondRunOpensNoBrowser(t *testing.T) {
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true, AutoApproveUser: "mia"})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	store := &tokenstore.Memory{}
	choose := func(c *mcpclient.Client) { c.Server, c.Store, c.OpenBrowser = srv.URL(), store, browser.Open }
	for range 2 {
		var out strings.Builder
		if err := quickstart(t.Context(), &out, choose, "list_personal_tasks"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "Book the typography workshop") {
			t.Errorf("not what mia sees:\n%s", &out)
		}
	}
	if n := srv.Counts().Requests[sandbox.StepAuthorize]; n != 1 {
		t.Errorf("%d sign-ins in two runs", n)
	}
}

func TestToolThatReportsAnError(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-sandbox", "-call", "create_project"}, &out); err == nil {
		t.Errorf("no error, but\n%s", &out)
	}
}
