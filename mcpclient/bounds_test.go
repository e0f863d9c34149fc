package mcpclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// FuzzWeigh holds that what is counted of JSON is what a decoder finds in it.
func FuzzWeigh(f *testing.F) {
	for _, s := range []string{`{}`, `[[1,2],{"a":"[\"\\"}]`, `"\\\""`, `{"a":{"b":[{"c":1},{}]}}`, ` [ ] `, `[[[{}]]]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := weigh(data)
		if !json.Valid(data) {
			return
		}
		depth, deepest, opened, items := 0, 0, 0, 0
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		for {
			token, err := dec.Token()
			if err != nil {
				break
			}
			switch token {
			case json.Delim('{'), json.Delim('['):
				depth++
				opened++
				deepest = max(deepest, depth)
				if token == json.Delim('{') && depth == itemDepth {
					items++
				}
			case json.Delim('}'), json.Delim(']'):
				depth--
			}
		}
		if deep := deepest > mostDepth; deep != (err != nil) {
			t.Fatalf("%d levels: %v", deepest, err)
		} else if deep {
			return
		}
		if got.items != items || got.values < opened || got.passes < opened-1 || got.passes > len(data)*deepest {
			t.Errorf("%+v, of %d levels, %d items, %d opened", got, deepest, items, opened)
		}
	})
}

func TestStringsAreWeighedInOnePass(t *testing.T) {
	for _, s := range []string{`\u00e9`, `\\`, `\"`, `a`, `\"a`} {
		data := []byte(`"` + strings.Repeat(s, 1<<20) + `"`)
		if end := endOfString(data, 1); end != len(data)-1 {
			t.Errorf("of %q the end is at %d of %d", s, end, len(data))
		}
	}
	for _, s := range []string{`"`, `"\`, `"a\`, `"\"`, `"\\\`} {
		if end := endOfString([]byte(s), 1); end < len(s) {
			t.Errorf("%q ends at %d", s, end)
		}
	}
}

// BenchmarkWeigh is what it costs to look at an answer, beside what the SDK takes to decode it.
func BenchmarkWeigh(b *testing.B) {
	for name, s := range map[string]string{
		"text":  `{"content":[{"type":"text","text":"` + strings.Repeat(`a line of text\n`, 60_000) + `"}]}`,
		"image": `{"content":[{"type":"image","mimeType":"image/png","data":"` + strings.Repeat(`AAAA`, 250_000) + `"}]}`,
		"rows":  `{"content":[],"structuredContent":{"rows":[` + strings.TrimSuffix(strings.Repeat(`{"id":12345,"title":"Write the report","done":false,"tags":["a","b"]},`, 14_000), ",") + `]}}`,
	} {
		data := []byte(`{"jsonrpc":"2.0","id":1,"result":` + s + `}`)
		b.Run("weigh/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := weigh(data); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				msg, err := jsonrpc.DecodeMessage(data)
				if err != nil {
					b.Fatal(err)
				}
				if err := new(mcp.CallToolResult).UnmarshalJSON(msg.(*jsonrpc.Response).Result); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestBoundsOfAMessage(t *testing.T) {
	const most = 64 << 10
	b := bounds{most: most}
	for name, c := range map[string]struct {
		data string
		ok   bool
	}{
		"as long as it may be": {`"` + strings.Repeat("x", most-2) + `"`, true},
		"longer":               {`"` + strings.Repeat("x", most-1) + `"`, false},
		"as deep":              {strings.Repeat("[", mostDepth) + strings.Repeat("]", mostDepth), true},
		"deeper":               {strings.Repeat("[", mostDepth+1) + strings.Repeat("]", mostDepth+1), false},
		"as many values":       {"[" + strings.Repeat("1,", most/16-1) + "1]", true},
		"more values":          {"[" + strings.Repeat("1,", most/16) + "1]", false},
		"as many items":        {"[[[" + strings.Repeat("{},", most/512-1) + "{}]]]", true},
		"more items":           {"[[[" + strings.Repeat("{},", most/512) + "{}]]]", false},
		"objects elsewhere":    {"[[" + strings.Repeat("{},", most/512) + "{}]]", true},
		"much of it deep":      {strings.Repeat("[", 60) + strings.Repeat(" ", most/2) + strings.Repeat("]", 60), false},
		"a quarter of it deep": {strings.Repeat("[", 60) + strings.Repeat(" ", most/4) + strings.Repeat("]", 60), true},
		"brackets in a string": {`"` + strings.Repeat("[", 1000) + `\"` + strings.Repeat("[", 1000) + `"`, true},
	} {
		_, err := b.check([]byte(c.data))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuestionsAreBoundedWhereTheyAreAsked(t *testing.T) {
	quiet, asking := bounds{most: defaultMaxAnswer}, bounds{most: defaultMaxAnswer, asksUser: true}
	long := strings.Repeat("x", mostElicitation)
	for name, data := range map[string]string{
		"a request":    `{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"` + long + `"}}`,
		"in a result":  `{"jsonrpc":"2.0","id":1,"result":{"inputRequests":{"a":{"method":"elicitation/create","params":{"message":"` + long + `"}}}}}`,
		"in its parts": `{"jsonrpc":"2.0","id":1,"result":{"inputRequests":{"a":{"method":"elicitation/create","params":{"message":"` + long[:100<<10] + `"}},"b":{"method":"elicitation/create","params":{"message":"` + long[:100<<10] + `"}}}}}`,
	} {
		if _, err := quiet.check([]byte(data)); err != nil {
			t.Errorf("%s that nobody asks anybody: %v", name, err)
		}
		if _, err := asking.check([]byte(data)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sampling := `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"x":"` + long + `"}}`
	if _, err := asking.check([]byte(sampling)); err != nil {
		t.Errorf("of another kind: %v", err)
	}
}

func TestPages(t *testing.T) {
	now := time.Now()
	w := weight{bytes: 100}
	type step struct{ at, next string }
	walk := func(p pages, steps ...step) (cut int) {
		for i, s := range steps {
			if again, err := p.turn(s.at, s.next, w, 0, defaultMaxAnswer, now); again || err != nil {
				return i
			}
		}
		return -1
	}
	for name, c := range map[string]struct {
		steps []step
		cut   int
	}{
		"a list":                    {[]step{{"", "a"}, {"a", "b"}, {"b", ""}}, -1},
		"twice":                     {[]step{{"", "a"}, {"a", ""}, {"", "a"}, {"a", ""}}, -1},
		"two at once":               {[]step{{"", "a"}, {"", "a"}, {"a", "b"}, {"a", "b"}, {"b", ""}, {"b", ""}}, -1},
		"one behind the other":      {[]step{{"", "a"}, {"a", "b"}, {"", "a"}, {"b", "c"}, {"a", "b"}, {"c", ""}, {"b", "c"}, {"c", ""}}, -1},
		"from a page that was kept": {[]step{{"c", "d"}, {"d", ""}, {"c", "d"}, {"d", ""}}, -1},
		"a page repeated":           {[]step{{"", "a"}, {"", "a"}, {"a", "b"}, {"a", "b"}, {"b", ""}}, -1},
		"another order meanwhile":   {[]step{{"", "a"}, {"a", "b"}, {"b", ""}, {"", "b"}, {"b", "c"}, {"c", ""}}, -1},
		"to itself":                 {[]step{{"", "a"}, {"a", "a"}}, 1},
		"around":                    {[]step{{"", "a"}, {"a", "b"}, {"b", "c"}, {"c", "a"}}, 3},
		"around, two at once":       {[]step{{"", "a"}, {"a", "b"}, {"", "a"}, {"b", "a"}}, 3},
		"around from a page kept":   {[]step{{"b", "c"}, {"c", "b"}}, 1},
		"around one that is cached": {[]step{{"", "a"}, {"a", "b"}, {"b", ""}, {"", "a"}, {"b", "a"}}, 4},
		"around with a first page":  {[]step{{"", "a"}, {"a", "b"}, {"", "x"}, {"b", "a"}}, 3},
	} {
		if cut := walk(pages{}, c.steps...); cut != c.cut {
			t.Errorf("%s: cut at %d, want %d", name, cut, c.cut)
		}
	}

	// What the SDK keeps for a day is known for a day.
	p := pages{}
	if _, err := p.turn("a", "b", w, 24*time.Hour, defaultMaxAnswer, now); err != nil {
		t.Fatal(err)
	}
	later := now.Add(23 * time.Hour)
	_, _ = p.turn("", "a", w, 0, defaultMaxAnswer, later)
	if again, _ := p.turn("b", "a", w, 0, defaultMaxAnswer, later); !again {
		t.Error("a page that the SDK keeps is forgotten")
	}
	if _, _ = p.turn("", "x", w, 0, defaultMaxAnswer, now.Add(50*time.Hour)); len(p) != 2 {
		t.Errorf("%d pages are remembered for good", len(p))
	}

	// Of a list without an end.
	p, at := pages{}, ""
	for n := 1; ; n++ {
		next := at + "x"
		again, err := p.turn(at, next, w, 0, defaultMaxAnswer, now)
		if n < mostPages && (again || err != nil) || n > mostPages {
			t.Fatalf("page %d: %v, %v", n, again, err)
		}
		if err != nil {
			if !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
			break
		}
		at = next
	}
	p = pages{}
	if _, err := p.turn("", "a", weight{bytes: mostAnswers * 1000}, 0, 1000, now); err != nil {
		t.Error(err)
	}
	if _, err := p.turn("a", "b", weight{bytes: 1}, 0, 1000, now); !errors.Is(err, ErrTooLarge) {
		t.Errorf("of more than all pages may have: %v", err)
	}
}
