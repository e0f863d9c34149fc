package main

import (
	"strings"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// commandLine returns a command of this program with the global flags that this run was given.
func (a *app) commandLine(command string) string {
	parts := []string{"astravue-mcp", command}
	if a.server != "" && a.server != mcpclient.DefaultServer {
		parts = append(parts, "--server", quoteArg(a.server))
	}
	if a.account != "" {
		parts = append(parts, "--account", quoteArg(a.account))
	}
	if a.store == "file" {
		parts = append(parts, "--store", "file")
	}
	return strings.Join(parts, " ")
}

// mend returns words and behind them the command that mends a file, or "" if no command does.
func mend(words string, e *tokenstore.FileError) string {
	if e == nil || e.Mend == nil {
		return ""
	}
	for _, arg := range e.Mend {
		words += quoteArg(arg) + " "
	}
	return strings.TrimSuffix(words, " ")
}

// quoteArg quotes a word of this computer's user for their shell, sh. A server's words are for
// [shellSafe].
func quoteArg(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) < 0 && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shellSafe returns a server's words as an argument that every shell takes as it is. It returns
// false for all others, which no hint may hold: in sh, cmd.exe or PowerShell $, %, `, ! and more
// have a meaning even in quotes, and with a dash in front the argument would be a flag.
func shellSafe(s string) (arg string, harmless bool) {
	plain := true
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_./:", r):
		case strings.ContainsRune(" +=,@", r):
			plain = false
		default:
			return "", false
		}
	}
	if len(s) > 500 || strings.HasPrefix(s, "-") {
		return "", false
	}
	if !plain || s == "" {
		s = `"` + s + `"`
	}
	return s, true
}
