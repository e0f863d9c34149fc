package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadmeTranscript runs the README's transcript, against a sandbox instead
// of Astravue, and looks for each line that it shows.
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
