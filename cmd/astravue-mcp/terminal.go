package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

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

// A pasteboard yields the lines that a person pastes while a browser is
// awaited. It reads from when it is opened: a passphrase may be asked for
// before, on the same terminal.
type pasteboard struct {
	tty   *os.File // nil: there is none
	once  sync.Once
	lines chan string
}

// open begins to read. It reports whether there is somebody who could paste.
func (p *pasteboard) open() bool {
	if p.tty == nil {
		return false
	}
	p.once.Do(func() {
		go func() {
			// The reader is left behind when the wait is over; the program ends then.
			for s := bufio.NewScanner(p.tty); s.Scan(); {
				if line := strings.TrimSpace(s.Text()); line != "" {
					p.lines <- line
				}
			}
		}()
	})
	return true
}

// passphrase reads the passphrase of the file store: from the file that
// ASTRAVUE_MCP_PASSPHRASE_FILE names, or from the terminal.
func (a *app) passphrase(ctx context.Context, create bool) (tokenstore.Secret, error) {
	if name := os.Getenv("ASTRAVUE_MCP_PASSPHRASE_FILE"); name != "" {
		secret, err := tokenstore.ReadSecretFile(ctx, name)
		if err != nil {
			return secret, &passphraseError{err}
		}
		return checkPassphrase([]byte(secret.Reveal()))
	}
	tty := a.terminal()
	if tty == nil {
		return tokenstore.Secret{}, &passphraseError{errors.New("the file store needs a passphrase, and there is no terminal to ask for it")}
	}
	if !create {
		return a.ask(ctx, tty, "Passphrase of the token files: ")
	}
	first, err := a.ask(ctx, tty, "New passphrase, for the token files: ")
	if err != nil {
		return first, err
	}
	second, err := a.ask(ctx, tty, "The same again: ")
	if err != nil {
		return second, err
	}
	if !first.Equal(second) {
		return tokenstore.Secret{}, &passphraseError{errors.New("the two passphrases are not the same")}
	}
	return first, nil
}

// ask reads a line without showing it. An interrupt gives the terminal back.
func (a *app) ask(ctx context.Context, tty *os.File, prompt string) (tokenstore.Secret, error) {
	a.asking.Add(1)
	defer a.asking.Done()
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
		a.stderr.line("")
		return tokenstore.Secret{}, context.Cause(ctx)
	case r := <-read:
		a.stderr.line("")
		if r.err != nil {
			return tokenstore.Secret{}, &passphraseError{r.err}
		}
		return checkPassphrase(r.data)
	}
}

func checkPassphrase(data []byte) (tokenstore.Secret, error) {
	data = bytes.TrimRight(data, "\r\n")
	if len(data) == 0 {
		return tokenstore.Secret{}, &passphraseError{errors.New("the passphrase is empty")}
	}
	return tokenstore.NewSecret(string(data)), nil
}

// browse runs the program that $BROWSER names, without a shell.
func browse(ctx context.Context, program, url string, out io.Writer) error {
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
	cmd.Stdout, cmd.Stderr = out, out
	// The browser may run on in the foreground; it is not to end with the wait.
	cmd.Cancel = func() error { return nil }
	return cmd.Run()
}
