package attacks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// openedServer starts a sandbox that is about to turn hostile.
func openedServer(t *testing.T) *sandbox.Server {
	t.Helper()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

// openedFor signs in to the server and returns the authorization URL that the victim is to open on
// whatever computer, or the error of a sign-in that opened nothing.
func openedFor(t *testing.T, server string) (address string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := &mcpclient.Client{Name: "Acme Notes", Server: server, Store: &tokenstore.Memory{}, ShowURL: func(_ context.Context, url string) error {
		address = url
		cancel() // nobody signs in
		return nil
	}}
	defer c.Close()
	if err = c.Login(ctx, nil); err == nil {
		t.Fatal("somebody signed in")
	}
	return address, err
}

// openedBrowser is a browser whose user has a session and approves of everything.
func openedBrowser() func(context.Context, string) error {
	jar, _ := cookiejar.New(nil)
	hc := &http.Client{Jar: jar, Timeout: 10 * time.Second}
	return func(_ context.Context, url string) error {
		resp, err := hc.Get(url)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
}

// openedShells are the shells of this machine, each with how it takes a line.
func openedShells(t *testing.T) [][]string {
	t.Helper()
	var shells [][]string
	for _, s := range []string{"sh", "dash", "bash", "zsh", "ksh", "mksh", "fish"} {
		if path, err := exec.LookPath(s); err == nil {
			shells = append(shells, []string{path, "-c"})
		}
	}
	testenv.Need(t, "a shell", len(shells) > 0, "sh is not in PATH")
	return shells
}

// openedBy has each shell open the address without quotes, as `ssh HOST firefox ADDRESS` does. It
// reports whether a program of the attacker's choice was run: one called reboot or calc, which are
// the only ones in PATH besides the browser.
func openedBy(t *testing.T, address string) bool {
	t.Helper()
	ran := false
	for _, shell := range openedShells(t) {
		dir := t.TempDir()
		for _, name := range []string{"firefox", "reboot", "calc"} {
			script := "#!/bin/sh\n: >>\"$TRACES/" + name + "\"\n"
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		traces := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, shell[0], append(shell[1:], "firefox "+address)...)
		cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + dir, "TRACES=" + traces, "HOME=" + dir}
		_, _ = cmd.CombinedOutput() // also waits for what the shell left in the background
		cancel()
		found, err := os.ReadDir(traces)
		if err != nil {
			t.Fatal(err)
		}
		ran = ran || slices.ContainsFunc(found, func(e os.DirEntry) bool { return e.Name() != "firefox" })
		here, err := os.ReadDir(cmd.Dir)
		if err != nil {
			t.Fatal(err)
		}
		ran = ran || len(here) > 0
	}
	return ran
}

// openedOutcome describes the end of a sign-in, in words that are equal in each run.
func openedOutcome(err error) string {
	var (
		address   *discovery.URLError
		parameter *authcode.ParameterError
		private   *oauthhttp.PrivateAddressError
		url       *oauthhttp.URLError
		missing   *discovery.NotFoundError
		mismatch  *discovery.MismatchError
		answer    *mcpclient.AnswerError
	)
	switch {
	case errors.As(err, &parameter):
		return "refused before the browser opened: a parameter that is not the endpoint's to choose"
	case errors.As(err, &address):
		return "refused at discovery, as an address that must not be used"
	case errors.As(err, &private):
		return "refused, as a private address"
	case errors.As(err, &mismatch):
		return "refused, as a document of another resource or issuer"
	case errors.As(err, &missing):
		return "no document was taken"
	case errors.As(err, &url):
		return "refused, as an address that must not be used"
	case errors.Is(err, oauthhttp.ErrRedirect):
		return "the redirect was not followed"
	case errors.As(err, &answer):
		return fmt.Sprintf("the answer %d stood", answer.Status)
	case err != nil:
		return "refused"
	}
	return "done"
}
