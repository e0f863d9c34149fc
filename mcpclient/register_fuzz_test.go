package mcpclient

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// FuzzClientName holds that the name of a client is no longer than it may be, that it ends with one pair
// of brackets, and that these hold the end of the server's host and nothing else: all of it, or so
// much that the name that somebody has bought is there.
func FuzzClientName(f *testing.F) {
	f.Add("astravue-mcp", "https://evil.example/mcp")
	f.Add("Acme (api.astravue.com)", "https://api.astravue.com."+strings.Repeat("a.", 60)+"evil.example:8443/mcp")
	f.Add("()", "https://аpi.astravue.com/")
	f.Add("a\x00\u202e\n（", "https://[fe80::1%25)eth0]:0443/mcp")
	f.Add("", "http://127.0.0.1:00000000000000000000000000000000000000000000000000000000080")
	f.Add("x", "https://a)(b.example:1")
	f.Add(strings.Repeat("Ж", 100), "https://xn--a")
	f.Fuzz(func(t *testing.T, app, server string) {
		u, err := canonicalServer(server)
		if err != nil || !utf8.ValidString(app) {
			return
		}
		if strings.HasPrefix(DefaultServer, oauthhttp.Origin(u)+"/") {
			return
		}
		name := (&flow{settings: &settings{name: app, server: u}}).clientName()
		if n := utf8.RuneCountInString(name); n > mostName {
			t.Fatalf("%q has %d characters", name, n)
		}
		before, said, ok := strings.Cut(strings.TrimSuffix(name, ")"), " (")
		if !ok || before == "" || !strings.HasSuffix(name, ")") || strings.Count(name, "(") != 1 || strings.Count(name, ")") != 1 {
			t.Fatalf("%q has no host in brackets, or more", name)
		}
		if i := strings.IndexFunc(said, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			t.Fatalf("%q has a host that is not ASCII", name)
		}
		host := u.Host
		if rest, cut := strings.CutPrefix(said, "..."); cut && len(host) > len(said) {
			if !strings.HasSuffix(host, rest) || len(said) < 40 {
				t.Fatalf("%q has not enough of %s", name, host)
			}
		} else if said != host {
			t.Fatalf("%q has not the host %s", name, host)
		}
	})
}
