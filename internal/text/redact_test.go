package text_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/text"
)

const (
	machineMade = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJvbGl2aWEiLCJleHAiOjE3NjQyfQ.Zm9v-YmFyX2Jheg_q7Yw3Xk"
	personMade  = "Hunter2-but-LONG"
)

// escaped writes every character by its number.
func escaped(format string) func(string) string {
	return func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
}

// spaced puts something between the characters.
func spaced(between string) func(string) string {
	return func(s string) string { return strings.Join(strings.Split(s, ""), between) }
}

func base(e *base64.Encoding, before string) func(string) string {
	return func(s string) string { return e.EncodeToString([]byte(before + s + "#")) }
}

// sentBack is what a server may make of a secret.
var sentBack = map[string]func(string) string{
	"as it is":                  func(s string) string { return s },
	"lower case":                strings.ToLower,
	"upper case":                strings.ToUpper,
	"percent":                   escaped("%%%02x"),
	"percent twice":             escaped("%%25%02X"),
	"percent thrice":            escaped("%%2525%02X"),
	"percent, but where needed": url.QueryEscape,
	"percent of percent":        func(s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	"behind a percent":          func(s string) string { return "%" + s },
	"JSON":                      escaped(`\u%04x`),
	"Go":                        escaped(`\x%02x`),
	"quoted":                    strconv.Quote,
	"backslashes":               spaced(`\`),
	"HTML":                      escaped("&#%d;"),
	"HTML, hexadecimal":         escaped("&#x%X;"),
	"HTML, but where needed":    html.EscapeString,
	"base64":                    base(base64.StdEncoding, ""),
	"base64, moved by one":      base(base64.StdEncoding, ":"),
	"base64, moved by two":      base(base64.StdEncoding, "ab"),
	"base64, of a credential":   base(base64.StdEncoding, "abc:"),
	"base64url":                 base(base64.URLEncoding, ""),
	"base64url, moved by one":   base(base64.RawURLEncoding, ":"),
	"base64url, moved by two":   base(base64.RawURLEncoding, "ab"),
	"base64, lower case":        func(s string) string { return strings.ToLower(base64.StdEncoding.EncodeToString([]byte(s))) },
	"base64 in lines":           func(s string) string { return spaced("\r\n")(base64.StdEncoding.EncodeToString([]byte(s))) },
	"base64 in a query":         func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
	"hexadecimal":               func(s string) string { return hex.EncodeToString([]byte(s)) },
	"hexadecimal, dump":         escaped("%02X "),
	"spaces":                    spaced(" "),
	"line ends":                 spaced("\n"),
	"line ends, escaped":        spaced(`\n`),
	"line ends, percent":        spaced("%0A"),
	"zero width":                spaced("\u200b"),
	"soft hyphens":              spaced("\u00ad"),
	"marks":                     spaced("\u0301"),
	"dots":                      spaced("·"),
	"escape sequences":          spaced("\x1b["),
	"not UTF-8":                 spaced("\xff"),
}

func TestRedact(t *testing.T) {
	for name, encode := range sentBack {
		for _, hidden := range []string{machineMade, personMade} {
			for _, around := range []string{"%s", "bad token %s", "it was \"%s\", and again: %[1]s.", "token=%s&more=1"} {
				s := fmt.Sprintf(around, encode(hidden))
				got := text.Redact(s, "", "short", hidden)
				if !strings.Contains(got, "[redacted]") || left(got, encode(hidden)) {
					t.Errorf("%s: %q leaves %q", name, s, got)
				}
				if before, _, _ := strings.Cut(s, encode(hidden)); !strings.HasPrefix(got, before) {
					t.Errorf("%s: %q becomes %q", name, s, got)
				}
			}
		}
	}
	for name, s := range map[string]string{
		"cut at its end":       machineMade[:len(machineMade)-4] + "…",
		"cut at its beginning": "…" + machineMade[5:],
		"a piece":              machineMade[30:50],
		"cut, in base64":       base64.StdEncoding.EncodeToString([]byte("x" + machineMade[:60])),
	} {
		if got := text.Redact("bad token "+s, machineMade); !strings.Contains(got, "[redacted]") || left(got, machineMade) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// left reports whether s holds eight letters and digits in a row of what was sent.
func left(s, sent string) bool {
	letters := func(r rune) rune {
		if r < 'a' && r > '9' || r < '0' || r > 'z' {
			return -1
		}
		return r
	}
	s, sent = strings.Map(letters, strings.ToLower(s)), strings.Map(letters, strings.ToLower(sent))
	for i := 0; i+8 <= len(sent); i++ {
		if strings.Contains(s, sent[i:i+8]) {
			return true
		}
	}
	return false
}

func TestRedactLeavesTheRest(t *testing.T) {
	for _, s := range []string{
		"", "invalid_token", "The access token expired", "Hunter2 but", "100 % of \\ & more", `{"a":"b"}`,
		"eyJhbGciOiJFUz", // the beginning of many a token
		"ça va? 日本語 " + strings.Repeat("long ", 500),
	} {
		if got := text.Redact(s, machineMade, personMade, "invalid"); got != s {
			t.Errorf("Redact(%q) = %q", s, got)
		}
	}
	if n := testing.AllocsPerRun(10, func() { text.Redact("a sentence that is long enough") }); n != 0 {
		t.Errorf("without secrets it allocates %v times", n)
	}
	if got := text.Without(" bad\n"+strings.Repeat("\u200b", 1000)+personMade+strings.Repeat("x", 300), personMade); got != "bad [redacted]"+strings.Repeat("x", 185)+"…" {
		t.Errorf("Without = %q", got)
	}
}

// A server that answers with a megabyte, with what is nearly a secret throughout, gains no time.
func BenchmarkRedact(b *testing.B) {
	s := strings.Repeat(machineMade[:15]+"?", 1<<16)
	for b.Loop() {
		text.Redact(s, machineMade, personMade)
	}
}

func FuzzRedact(f *testing.F) {
	for _, encode := range sentBack {
		f.Add("bad token "+encode(machineMade)+"!", machineMade)
	}
	f.Fuzz(func(t *testing.T, s, hidden string) {
		if len(hidden) < 8 || strings.Contains(hidden, "redacted") || strings.Contains("[redacted]", hidden) {
			return // what is written in its place may hold it
		}
		if got := text.Redact(s, hidden); strings.Contains(got, hidden) {
			t.Errorf("Redact(%q, %q) = %q", s, hidden, got)
		}
	})
}
