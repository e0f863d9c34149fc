package mcpclient

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// reader returns an eventReader with the default bounds.
func reader(r io.Reader) *eventReader {
	return newEventReader(r, bounds{most: defaultMaxAnswer}, func(error) {})
}

// FuzzEvents holds that what is handed on is the same however it arrives, and
// that all of it is what the SDK takes: lines that are fields, and data that
// is a message. Read again, it stays as it is.
func FuzzEvents(f *testing.F) {
	const message = `{"jsonrpc":"2.0","id":1,"result":{}}`
	for _, s := range []string{
		"data: " + message + "\n\n",
		"event: message\r\nid: 7\r\nretry: 10\r\ndata:" + message + "\r\n\r\n",
		"data: " + message,
		": comment\n\nid\n\nid: 1\ndata\n\nevent: ping\ndata: x\n\n",
		"data: {\"jsonrpc\":\ndata: \"2.0\",\"method\":\"a\"}\n\nhello\n\ndata: []\n\n",
		"data: {\"jsonrpc\":\"2.0\",\"id\":1,",
		"\n\n\r\n\r\r\n:\n",
	} {
		f.Add([]byte(s))
	}
	read := func(t *testing.T, r io.Reader) []byte {
		body := &eventBody{events: reader(r), body: io.NopCloser(nil)}
		out, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out := read(t, bytes.NewReader(in))
		if got := read(t, iotest.OneByteReader(bytes.NewReader(in))); !bytes.Equal(got, out) {
			t.Errorf("byte by byte it is %q, not %q", got, out)
		}
		if got := read(t, bytes.NewReader(out)); !bytes.Equal(got, out) {
			t.Errorf("read again it is %q, not %q", got, out)
		}
		for e := range strings.SplitSeq(string(out), "\n\n") {
			var data []string
			named := ""
			for line := range strings.Lines(e) {
				field, value, ok := strings.Cut(strings.TrimSpace(line), ":")
				switch {
				case !ok:
					t.Errorf("the SDK takes no line %q", line)
				case field == "data":
					data = append(data, strings.TrimSpace(value))
				case field == "event":
					named = strings.TrimSpace(value)
				}
			}
			text := strings.TrimSpace(strings.Join(data, "\n"))
			if text == "" || named != "" && named != "message" {
				continue
			}
			if _, err := jsonrpc.DecodeMessage([]byte(text)); err != nil {
				t.Errorf("the SDK takes no data %q", text)
			}
		}
	})
}

func TestAStreamThatIsCutYieldsItsError(t *testing.T) {
	cut := errors.New("cut")
	for _, s := range []string{"", "data: x", `data: {"jsonrpc":"2.0","method":"a"}`, `data: {"jsonrpc":"2.0","method":"a"}` + "\n"} {
		events := reader(io.MultiReader(strings.NewReader(s), iotest.ErrReader(cut)))
		for range 2 {
			if e, err := events.next(); !errors.Is(err, cut) {
				t.Errorf("after %q: %q, %v", s, e.raw, err)
			}
		}
	}
}
