package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadmeTranscript runs the README's transcript against a sandbox and looks for each of its lines
// in the output.
func TestReadmeTranscript(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```console\n")
	transcript, _, ok := strings.Cut(rest, "\n```")
	if !ok {
		t.Fatal("README.md has no transcript")
	}
	script := "sandbox\n"
	for line := range strings.SplitSeq(transcript, "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			script += "status 0 " + strings.ReplaceAll(command, `"`, "'") + "\n"
			continue
		}
		if line == "…" {
			continue
		}
		pattern := regexp.MustCompile(` +`).ReplaceAllString(regexp.QuoteMeta(line), " +")
		pattern = strings.NewReplacer(
			regexp.QuoteMeta("https://api.astravue.com/mcp"), "'${ASTRAVUE_MCP_SERVER@R}'",
			regexp.QuoteMeta("https://auth.astravue.com/realms/astravue"), "'${ISSUER@R}'",
		).Replace(pattern)
		script += fmt.Sprintf("stdout '^%s$'\n", pattern)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "readme.txtar"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, scripts(dir))
}

// TestReadmeCommands looks for the packages, subcommands and flags that the README's commands name.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`\bgo (?:get|install|run|doc) (\S+?)(?:@latest)?[ \n`+"`]").FindAllStringSubmatch(string(readme), -1)
	if len(commands) < 4 {
		t.Fatalf("README.md has %d commands that name packages", len(commands))
	}
	for _, c := range commands {
		dir, ours := strings.CutPrefix(c[1]+"/", "github.com/astravue/mcp-client-go/")
		if !ours {
			dir, ours = strings.CutPrefix(dir, "./")
		}
		if info, err := os.Stat(filepath.Join("..", "..", dir)); !ours || err != nil || !info.IsDir() {
			t.Errorf("README.md: no package of this module: %s", c[1])
		}
	}
	help := new(strings.Builder)
	run(t.Context(), []string{"--help"}, strings.NewReader(""), help, io.Discard)
	for _, c := range regexp.MustCompile(`astravue-mcp ([a-z]+|--[a-z]+)`).FindAllStringSubmatch(string(readme), -1) {
		if !regexp.MustCompile(`(?m)^ +(-\w, )?` + c[1] + `\b`).MatchString(help.String()) {
			t.Errorf("README.md: there is no astravue-mcp %s", c[1])
		}
	}
}
