package text_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
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
	"marks, hidden":       "Z" + strings.Repeat("\u0301\u200b", 50) + "x",
	"a mark on nothing":   "\u0338a \u0338b\n\u0338c",
	"device control":      "a\x1bPqmine\x1b\\b\u0090q\u009c",
	"application command": "a\x1b_mine\x1b\\b\u009f\u009c",
	"privacy message":     "a\x1b^mine\x1b\\b\u009e\u009c",
	"link":                "a\x1b]8;;https://evil.example\x1b\\b\x1b]8;;\x1b\\",
	"other screen":        "a\x1b[?1049hb",
	"tmux":                "a\x1bkmine\x1b\\b",
	"shift out":           "a\x0eb\x0fc",
	"escaped twice":       "a\x1b\x1b[2Jb\u009b\u009b2J",
	"surrogates":          "a\xed\xa0\xbd\xed\xb8\x80b",
	"overlong":            "a\xc0\x9b\xe0\x80\x9bb",
}

func TestHarmless(t *testing.T) {
	for name, s := range hostile {
		for what, got := range map[string]string{"Line": text.Line(s), "Short": text.Short(s), "Body": text.Body(s)} {
			marks := 4 // at the beginning there is none to stand on
			for _, r := range got {
				if what == "Body" && (r == '\n' || r == '\t') {
					marks = 4
					continue
				}
				if !text.Visible(r) {
					t.Errorf("%s: %s leaves %U", name, what, r)
				}
				if marks++; !unicode.Is(unicode.M, r) {
					marks = 0
				}
				if marks > 4 {
					t.Errorf("%s: %s leaves more than 4 marks, or one on nothing", name, what)
				}
				if r == ' ' {
					marks = 4
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
	if got := []rune(text.Short(strings.Repeat("ä", 1000))); len(got) != 200 || got[199] != '…' {
		t.Errorf("Short has %d characters", len(got))
	}
	if got := text.Quote("a\"b\x1bc"); got != `"a\"bc"` {
		t.Errorf("Quote = %s", got)
	}
	if got := text.Quotes([]string{"a", "b\n\"c"}); got != `["a" "b \"c"]` {
		t.Errorf("Quotes = %s", got)
	}
	if got := text.Quotes(make([]string, 200_000)); got != "["+strings.Repeat(`"" `, 20)+"…]" {
		t.Errorf("Quotes of many = %s", got)
	}
}

func TestURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://auth.astravue.com/realms/astravue": "https://auth.astravue.com/realms/astravue",
		"https://аuth.astravue.com/realms/astravue": "https://xn--uth-5cd.astravue.com/realms/astravue",
		"https://%D0%B0uth.astravue.com/":           "https://xn--uth-5cd.astravue.com/",
		"https://bücher.example:8443?q=ü#ü":         "https://xn--bcher-kva.example:8443?q=ü#ü",
		"https://ａｕｔｈ.astravue.com/":                "https://auth.astravue.com/", // as net/http asks
		"https://auth.astravue.com∕realms.evil.org": "https://auth.astravue.xn--comrealms-ng4e.evil.org",
		"https://a@аuth.example/аuth":               "https://a@xn--uth-5cd.example/аuth",
		"https://xn--a.example/":                    "https://xn--a.example/",
		"http://[::1]:8080/mcp":                     "http://[::1]:8080/mcp",
		"https://evil.example\n/\u202emoc":          "https://evil.example /moc",
		"not a URL: а":                              "not a URL: а",
		"":                                          "",
		"urn:а":                                     "urn:а",
	} {
		if got := text.URL(s); got != want {
			t.Errorf("URL(%q) = %q, want %q", s, got, want)
		}
	}
	for host, want := range map[string]string{"аuth.example:443": "xn--uth-5cd.example:443", "localhost:8080": "localhost:8080", "[::1]": "[::1]", "": ""} {
		if got := text.Host(host); got != want {
			t.Errorf("Host(%q) = %q, want %q", host, got, want)
		}
	}
}

// A document says what it did, and nothing of it acts on a terminal.
func TestJSON(t *testing.T) {
	for name, s := range hostile {
		doc, err := json.Marshal(map[string]any{s: []any{s, 1, true, nil}})
		if err != nil {
			t.Fatal(err)
		}
		raw := []byte("{\"a\":\t[\r\n  \"" + strings.NewReplacer("\x1b", "", "\x07", "", "\x08", "", "\r", "", "\n", "", "\t", "", "\v", "", "\f", "", "\x0e", "", "\x0f", "", "\\", "").Replace(s) + "\"]}")
		for _, doc := range [][]byte{doc, raw} {
			got := text.JSON(doc)
			for _, r := range string(got) {
				if r != '\n' && !text.Visible(r) {
					t.Errorf("%s: it has %U: %q", name, r, got)
				}
			}
			var out bytes.Buffer
			if _, err := text.NewWriter(&out).Write(got); err != nil || !bytes.Equal(out.Bytes(), got) {
				t.Errorf("%s: a Writer makes of %q: %q, %v", name, got, &out, err)
			}
			var before, after any
			if err := json.Unmarshal(doc, &before); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(got, &after); err != nil || !reflect.DeepEqual(before, after) {
				t.Errorf("%s: %q becomes %q: %v", name, doc, got, err)
			}
		}
	}
	for _, s := range []string{`{"a":"Übergröße 日本語 🙂","b":[1, 2]}` + "\n", ""} {
		if got := text.JSON([]byte(s)); string(got) != s {
			t.Errorf("JSON(%q) = %q", s, got)
		}
	}
}

// Whatever is written, and in whatever parts, what comes out is harmless, and is what Body leaves
// but for the ends of lines.
func TestWriter(t *testing.T) {
	for name, s := range hostile {
		for size := 1; size < 5; size++ {
			var out bytes.Buffer
			w := text.NewWriter(&out)
			for rest := s; rest != ""; {
				n := min(size, len(rest))
				if m, err := w.Write([]byte(rest[:n])); m != n || err != nil {
					t.Fatalf("Write = %d, %v", m, err)
				}
				rest = rest[n:]
			}
			if got, want := out.String(), text.Body(s); got != want {
				t.Errorf("%s: in parts of %d bytes %q, want %q", name, size, got, want)
			}
		}
	}
	broken := errors.New("broken")
	if n, err := text.NewWriter(failing{broken}).Write([]byte("a")); n != 0 || err != broken {
		t.Errorf("Write = %d, %v", n, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// What is harmless stays as it is, so that text may pass twice.
func FuzzText(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for what, clean := range map[string]func(string) string{"Line": text.Line, "Body": text.Body, "Short": text.Short, "URL": text.URL} {
			if once := clean(s); clean(once) != once {
				t.Errorf("%s(%q) = %q, and once more %q", what, s, once, clean(once))
			}
			var out bytes.Buffer
			if _, err := text.NewWriter(&out).Write([]byte(clean(s))); err != nil || out.String() != clean(s) {
				t.Errorf("a Writer makes of %s(%q): %q, %v", what, s, &out, err)
			}
		}
	})
}
