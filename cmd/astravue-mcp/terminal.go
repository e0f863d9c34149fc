package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/term"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// terminal returns standard input if a person sits at it, else nil.
func (a *app) terminal() *os.File {
	if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// pasted yields the lines that a person pastes while a browser is awaited.
func (a *app) pasted() <-chan string {
	tty := a.terminal()
	if tty == nil {
		return nil
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		// The reader is left behind when the wait is over; the program ends then.
		for s := bufio.NewScanner(tty); s.Scan(); {
			if line := strings.TrimSpace(s.Text()); line != "" {
				lines <- line
			}
		}
	}()
	return lines
}

// passphrase reads the passphrase of the file store: from the file that
// ASTRAVUE_MCP_PASSPHRASE_FILE names, or from the terminal.
func (a *app) passphrase(ctx context.Context, create bool) (tokenstore.Secret, error) {
	if name := os.Getenv("ASTRAVUE_MCP_PASSPHRASE_FILE"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return tokenstore.Secret{}, err
		}
		return checkPassphrase(data)
	}
	tty := a.terminal()
	if tty == nil {
		return tokenstore.Secret{}, errors.New("the file store needs a passphrase, and there is no terminal to ask for it")
	}
	first, err := ask(ctx, a, tty, "Passphrase of the token files: ")
	if err != nil || !create {
		return first, err
	}
	second, err := ask(ctx, a, tty, "The same again, since it is a new one: ")
	if err != nil {
		return second, err
	}
	if !first.Equal(second) {
		return tokenstore.Secret{}, errors.New("the two passphrases are not the same")
	}
	return first, nil
}

// ask reads a line without showing it. An interrupt gives the terminal back.
func ask(ctx context.Context, a *app, tty *os.File, prompt string) (tokenstore.Secret, error) {
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return tokenstore.Secret{}, err
	}
	fmt.Fprint(a.stderr, prompt)
	type answer struct {
		data []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		data, err := term.ReadPassword(int(tty.Fd()))
		read <- answer{data, err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(int(tty.Fd()), before)
		fmt.Fprintln(a.stderr)
		return tokenstore.Secret{}, context.Cause(ctx)
	case r := <-read:
		fmt.Fprintln(a.stderr)
		if r.err != nil {
			return tokenstore.Secret{}, r.err
		}
		return checkPassphrase(r.data)
	}
}

func checkPassphrase(data []byte) (tokenstore.Secret, error) {
	data = bytes.TrimRight(data, "\r\n")
	if len(data) == 0 {
		return tokenstore.Secret{}, errors.New("the passphrase is empty")
	}
	return tokenstore.NewSecret(string(data)), nil
}

// browse runs the program that $BROWSER names, without a shell.
func (a *app) browse(ctx context.Context, program, url string) error {
	words := strings.Fields(program)
	placed := false
	for i, w := range words {
		if strings.Contains(w, "%s") {
			words[i], placed = strings.ReplaceAll(w, "%s", url), true
		}
	}
	if !placed {
		words = append(words, url)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
	// The browser may run on in the foreground; it is not to end with the wait.
	cmd.Cancel = func() error { return nil }
	return cmd.Run()
}
