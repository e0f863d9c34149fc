package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/astravue/mcp-client-go/internal/openbrowser"
)

// isAway reports whether the person's browser is probably on another computer, or on the
// one that this container runs on.
func isAway() bool {
	for _, name := range []string{"SSH_CONNECTION", "SSH_TTY", "KUBERNETES_SERVICE_HOST", "container"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(mark); err == nil {
			return true
		}
	}
	return false
}

// showAddress prints an address to open. It does so even if a browser opens by itself, which may
// happen on a screen that nobody looks at. The advice about pasting is for a terminal.
func (a *app) showAddress(request, address, advice string, pasted *pasteboard) {
	if a.output == "json" {
		_ = a.stderr.json(map[string]string{"authorization_url": address}, false) // a string cannot fail
		pasted.start()
		return
	}
	a.stderr.line("%s:\n\n  %s\n", request, address)
	if pasted.start() {
		a.stderr.line("%s", advice)
	}
}

// tryBrowser opens a browser at an address that was shown before.
func (a *app) tryBrowser(ctx context.Context, address string) {
	if err := a.openBrowser(ctx, address); err != nil && ctx.Err() == nil {
		a.note("No browser could be opened (%v). Open the address above yourself.", err)
	}
}

// openBrowser opens the program that $BROWSER names, else the system's browser.
func (a *app) openBrowser(ctx context.Context, address string) error {
	var out io.Writer = a.stderr
	if a.output == "json" {
		out = io.Discard
	}
	if program := strings.TrimSpace(os.Getenv("BROWSER")); program != "" {
		return runBrowser(ctx, program, address, out)
	}
	return openbrowser.Open(ctx, address, out)
}

// runBrowser runs a program with the address in place of %s, or else as its last argument. There
// is no shell in between: the address holds a server's words.
func runBrowser(ctx context.Context, program, address string, out io.Writer) error {
	words := strings.Fields(program)
	placed := false
	for i, w := range words {
		if strings.Contains(w, "%s") {
			words[i], placed = strings.ReplaceAll(w, "%s", address), true
		}
	}
	if !placed {
		words = append(words, address)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return nil } // the browser stays open when the sign-in is over
	return cmd.Run()
}
