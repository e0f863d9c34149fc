package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/text"
)

// On a terminal no line is wider than it, the rest of a broken line is indented, and no character is lost.
func TestPrinterOnATerminal(t *testing.T) {
	long := strings.Repeat("word ", 40) + strings.Repeat("x", 200) + strings.Repeat("界", 50)
	for width := 20; width < 120; width += 7 {
		var out bytes.Buffer
		p := &printer{Writer: text.NewWriter(&out), width: width}
		table := p.table("")
		table.row("name", "read-only", "Lists things")
		table.row(long, long, long)
		table.row("other", "", long)
		if err := table.print(); err != nil {
			t.Fatal(err)
		}
		p.sentence("astravue-mcp: %s", long)
		p.body(indent, long+"\n"+long)
		margin := 0
		for line := range strings.Lines(out.String()) {
			if columns(strings.TrimSuffix(line, "\n")) > width {
				t.Fatalf("at %d columns: a line of %d: %q", width, columns(line), line)
			}
			if !strings.HasPrefix(line, " ") {
				margin++
			}
		}
		if margin != 4 { // three rows and the sentence
			t.Errorf("at %d columns, %d lines begin at the margin:\n%s", width, margin, &out)
		}
		letters := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if got, want := strings.Count(letters(out.String()), "界"), 7*50; got != want {
			t.Errorf("at %d columns %d of %d characters are there", width, got, want)
		}
	}
}

// Off a terminal a row is one line, for programs, and a long cell does not pad those of other rows.
func TestPrinterOffATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out)
	table := p.table("")
	table.row("a", "read-only", "x")
	table.row("longer\tname\n", "", "")
	if err := table.print(); err != nil {
		t.Fatal(err)
	}
	p.line("%s is %d, %v and %q: %v", "a\nb", 5, true, "c\x1b", errors.New("d\te"))
	p.body("", "a\r\n\tb")
	if want := "a            read-only  x\nlonger name\na b is 5, true and \"c\": d e\na\n\tb\n"; out.String() != want {
		t.Errorf("got\n%q, want\n%q", &out, want)
	}
	out.Reset()
	table = p.table("")
	table.row(strings.Repeat("x", 1<<20), "")
	for range 100 {
		table.row("a", "b")
	}
	if err := table.print(); err != nil || out.Len() > 1<<20+100*200 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	out.Reset()
	if err := p.json(map[string]string{"authorization_url": "https://h/?\U000e0041<&\u009b"}, false); err != nil || !json.Valid(out.Bytes()) ||
		out.String() != `{"authorization_url":"https://h/?\udb40\udc41<&\u009b"}`+"\n" {
		t.Errorf("%s, %v", &out, err)
	}
}

func TestShellSafe(t *testing.T) {
	for s, want := range map[string]string{"a": "a", "openid offline_access": `"openid offline_access"`, "mcp:read": "mcp:read", "a,b": `"a,b"`, "": `""`} {
		if got, ok := shellSafe(s); got != want || !ok {
			t.Errorf("shellSafe(%q) = %s, %v", s, got, ok)
		}
	}
	for _, s := range []string{"a;b", "a'b", `a"b`, "$a", "`a`", "%a%", "a!b", "a\nb", "a\tb", "-a", "ä", "a\\b", "a\u200bb", strings.Repeat("a", 501)} {
		if got, ok := shellSafe(s); ok {
			t.Errorf("shellSafe(%q) = %s", s, got)
		}
	}
}
