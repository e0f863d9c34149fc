package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
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

// A pasteboard yields the lines that a person pastes while the sign-in waits for the browser. It
// reads the terminal from start on, since others ask questions there before.
type pasteboard struct {
	tty   *os.File // nil: none
	once  sync.Once
	lines chan string
}

// start begins to read. It reports whether there is a terminal.
func (p *pasteboard) start() bool {
	if p.tty == nil {
		return false
	}
	p.once.Do(func() {
		go func() {
			// A read of a terminal cannot be ended. The goroutine ends with the program, after the sign-in.
			for s := bufio.NewScanner(p.tty); s.Scan(); {
				if line := strings.TrimSpace(s.Text()); line != "" {
					p.lines <- line
				}
			}
		}()
	})
	return true
}

// ask asks a question on a terminal and returns the line that is typed.
func (a *app) ask(ctx context.Context, tty *os.File, question string) (string, error) {
	fmt.Fprint(a.stderr, question)
	answer := make(chan string, 1)
	go func() {
		var line []byte
		for b := make([]byte, 1); ; line = append(line, b[0]) { // byte by byte: the next line is for another reader
			if n, err := tty.Read(b); n == 0 || err != nil || b[0] == '\n' {
				break
			}
		}
		answer <- string(line)
	}()
	select {
	case line := <-answer:
		return line, nil
	case <-ctx.Done():
		a.stderr.line("")
		return "", context.Cause(ctx)
	}
}

// askHidden is ask for a secret: the terminal does not show what is typed. When ctx is done it
// shows again what is typed; run waits for that.
func (a *app) askHidden(ctx context.Context, tty *os.File, question string) (tokenstore.Secret, error) {
	a.asking.Add(1)
	defer a.asking.Done()
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return tokenstore.Secret{}, err
	}
	fmt.Fprint(a.stderr, question)
	type answer struct {
		secret tokenstore.Secret
		err    error
	}
	read := make(chan answer, 1)
	go func() {
		data, err := term.ReadPassword(int(tty.Fd()))
		read <- answer{tokenstore.NewSecret(string(data)), err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(int(tty.Fd()), before)
		a.stderr.line("")
		return tokenstore.Secret{}, context.Cause(ctx)
	case r := <-read:
		a.stderr.line("")
		return r.secret, r.err
	}
}
