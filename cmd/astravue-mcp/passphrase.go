package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// passphrase returns the passphrase of the file store, from the file that
// ASTRAVUE_MCP_PASSPHRASE_FILE names or from the terminal. A new one (create) is asked for twice.
func (a *app) passphrase(ctx context.Context, create bool) (tokenstore.Secret, error) {
	if name := os.Getenv("ASTRAVUE_MCP_PASSPHRASE_FILE"); name != "" {
		secret, err := tokenstore.ReadSecretFile(ctx, name)
		if err != nil {
			return secret, &passphraseError{err}
		}
		return checkPassphrase(secret)
	}
	tty := a.terminal()
	if tty == nil {
		return tokenstore.Secret{}, &passphraseError{errors.New("the file store needs a passphrase, and there is no terminal to ask for it")}
	}
	if !create {
		return a.askPassphrase(ctx, tty, "Passphrase of the token files: ")
	}
	first, err := a.askPassphrase(ctx, tty, "New passphrase for the token files: ")
	if err != nil {
		return first, err
	}
	second, err := a.askPassphrase(ctx, tty, "Type it again: ")
	if err != nil {
		return second, err
	}
	if !first.Equal(second) {
		return tokenstore.Secret{}, &passphraseError{errors.New("the two passphrases differ")}
	}
	return first, nil
}

func (a *app) askPassphrase(ctx context.Context, tty *os.File, question string) (tokenstore.Secret, error) {
	secret, err := a.askHidden(ctx, tty, question)
	switch {
	case ctx.Err() != nil:
		return tokenstore.Secret{}, context.Cause(ctx) // nobody typed anything wrong
	case err != nil:
		return tokenstore.Secret{}, &passphraseError{err}
	}
	return checkPassphrase(secret)
}

// checkPassphrase returns a passphrase without the end of its line.
func checkPassphrase(s tokenstore.Secret) (tokenstore.Secret, error) {
	line := strings.TrimRight(s.Reveal(), "\r\n")
	if line == "" {
		return tokenstore.Secret{}, &passphraseError{errors.New("the passphrase is empty")}
	}
	return tokenstore.NewSecret(line), nil
}
