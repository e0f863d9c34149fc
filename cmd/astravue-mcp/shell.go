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

// mend returns words with the command that puts a file right, if one does.
func mend(words string, e *tokenstore.FileError) string {
	if e == nil || e.Mend == nil {
		return ""
	}
	for _, arg := range e.Mend {
		words += quoteArg(arg) + " "
	}
	return strings.TrimSuffix(words, " ")
}

func quoteArg(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) < 0 && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shellSafe returns a server's words as an argument that every shell takes as it stands, or false:
// then no hint may hold them. That is so for sh, cmd.exe and PowerShell, where $, %, `, ! and the
// rest mean something in quotes too; an argument that begins with a dash would be a flag.
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
