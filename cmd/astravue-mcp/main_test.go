package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// TestCodes compares the list of codes in the help with those that explain returns.
func TestCodes(t *testing.T) {
	source, err := os.ReadFile("ui.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := strings.FieldsFunc(codes, func(r rune) bool { return strings.ContainsRune(", \n", r) })
	var returned []string
	for _, m := range regexp.MustCompile(`return "(\w+)", exit`).FindAllSubmatch(source, -1) {
		returned = append(returned, string(m[1]))
	}
	slices.Sort(documented)
	slices.Sort(returned)
	if returned = slices.Compact(returned); !slices.Equal(documented, returned) {
		t.Errorf("documented codes:\n%q\nreturned:\n%q", documented, returned)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 900 * time.Millisecond: "1s", 59 * time.Second: "59s", time.Minute: "1m", 90 * time.Second: "2m", 29*time.Minute + 59*time.Second: "30m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 24*time.Hour - time.Second: "24h", 10 * time.Minute: "10m", 20 * time.Second: "20s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s, want %s", d, got, want)
		}
	}
}

// TestSandboxCommand uses the sandbox that the command prints, while it runs.
func TestSandboxCommand(t *testing.T) {
	for _, args := range [][]string{{"-o", "json"}, {"--auto-approve", "--issuer-host", "api", "--access-ttl", "5m", "--refresh-ttl", "1h", "-o", "json"}} {
		ctx, interrupt := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan int, 1)
		var stderr testenv.Buffer
		go func() {
			ended <- run(ctx, append([]string{"sandbox"}, args...), strings.NewReader(""), w, &stderr)
			_ = w.Close()
		}()
		var got any
		if err := json.NewDecoder(r).Decode(&got); err != nil {
			t.Fatal(err)
		}
		help := new(bytes.Buffer)
		run(ctx, []string{"sandbox", "--help"}, strings.NewReader(""), help, io.Discard)
		want, err := documentIn(help.String())
		if err == nil {
			err = like(got, want, true, "sandbox")
		}
		if err != nil {
			t.Error(err)
		}
		server := got.(map[string]any)["server"].(string)
		if code := run(ctx, []string{"discover", server}, strings.NewReader(""), io.Discard, io.Discard); code != exitOK {
			t.Errorf("discover of the sandbox: exit status %d", code)
		}
		interrupt()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if code := <-ended; code != exitOK || stderr.String() != "" {
			t.Errorf("exit status %d, stderr %q", code, &stderr)
		}
	}
}

// TestDemoShowsNoSecret looks for the secrets of all exchanges in what the demo prints. The sandbox is
// in the demo's process, and so every exchange passes http.DefaultTransport.
func TestDemoShowsNoSecret(t *testing.T) {
	base := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = base })
	for _, output := range []string{"text", "json"} {
		var s testenv.Secrets
		http.DefaultTransport = s.Transport(base)
		var stdout, stderr testenv.Buffer
		if code := run(t.Context(), []string{"demo", "--verbose", "-o", output}, strings.NewReader(""), &stdout, &stderr); code != exitOK {
			t.Fatalf("exit status %d: %s", code, &stderr)
		}
		s.Want(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token", "password")
		s.Sweep(t, "stdout", stdout.String())
		s.Sweep(t, "stderr", stderr.String())
	}
}
