package text_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/astravue/mcp-client-go/internal/text"
)

// hostile are words that do something where they are shown.
var hostile = map[string]string{
	"clipboard":           "a\x1b]52;c;Y3VybCBldmls\x07b",
	"title":               "a\x1b]0;mine\x1b\\b",
	"clear":               "a\x1b[2J\x1b[Hb",
	"CSI of one byte":     "a\u009b2Jb",
	"OSC of one byte":     "a\u009d0;mine\u009cb",
	"DEL":                 "a\x7fb",
	"backspace":           "admin\x08\x08\x08\x08\x08guest",
	"carriage return":     "safe\rrm -rf",
	"not UTF-8":           "a\x9b2Jb\xff",
	"bidi override":       "a\u202egnp.exe\u202cb",
	"bidi isolate":        "a\u2066b\u2069c",
	"right-to-left mark":  "a\u200fb",
	"zero width":          "a\u200b\u200d\ufeffb",
	"line separator":      "a\u2028b\u2029c\u0085d\vf\f",
	"tags":                "a\U000e0041\U000e0042b",
	"Hangul filler":       "a\u3164\u115f\uffa0b",
	"grapheme joiner":     "a\u034fb",
	"variation":           "a\ufe0f\U000e0101b",
	"empty Braille":       "a\u2800b",
	"private use":         "a\ue000b",
	"unassigned":          "a\U000e1000b",
	"interlinear":         "a\ufff9b\ufffac\ufffb",
	"a row of its own":    "delete_all\tread-only\tLists things\nlist",
	"a column of its own": "delete_all          read-only",
	"marks":               "Z" + strings.Repeat("\u0301", 50) + "x",
}

func TestHarmless(t *testing.T) {
	for name, s := range hostile {
		for what, got := range map[string]string{"Line": text.Line(s), "Short": text.Short(s), "Body": text.Body(s)} {
			marks := 0
			for _, r := range got {
				if what == "Body" && (r == '\n' || r == '\t') {
					continue
				}
				if !text.Visible(r) {
					t.Errorf("%s: %s leaves %U", name, what, r)
				}
				if marks++; !unicode.Is(unicode.M, r) {
					marks = 0
				}
				if marks > 4 {
					t.Errorf("%s: %s leaves more than 4 marks", name, what)
				}
			}
			if what != "Body" && (strings.Contains(got, "  ") || strings.TrimSpace(got) != got) {
				t.Errorf("%s: %s leaves a column: %q", name, what, got)
			}
		}
	}
}

func TestReadable(t *testing.T) {
	for _, s := range []string{
		"Write the report", "Übergröße, ça va? 日本語 한국어 हिन्दी עברית العربية 🙂 – “quoted” 100 %", "Nguyễn Văn Ệ", "a/b?c=d&e=f#g",
	} {
		if got := text.Line(s); got != s {
			t.Errorf("Line(%q) = %q", s, got)
		}
		if got := text.Body(s + "\r\n\t" + s + "\n"); got != s+"\n\t"+s+"\n" {
			t.Errorf("Body of two lines of %q = %q", s, got)
		}
	}
	if got := text.Line(" a\n b\t\tc "); got != "a b c" {
		t.Errorf("Line = %q", got)
	}
	if got := []rune(text.Short(strings.Repeat("ä", 1000))); len(got) != 201 || got[200] != '…' {
		t.Errorf("Short has %d characters", len(got))
	}
	if got := text.Quote("a\"b\x1bc"); got != `"a\"bc"` {
		t.Errorf("Quote = %s", got)
	}
}

// What is harmless stays as it is, so that text may pass twice.
func FuzzText(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for what, clean := range map[string]func(string) string{"Line": text.Line, "Body": text.Body} {
			if once := clean(s); clean(once) != once {
				t.Errorf("%s(%q) = %q, and once more %q", what, s, once, clean(once))
			}
		}
	})
}
