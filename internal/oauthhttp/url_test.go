package oauthhttp

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	for _, tc := range []struct {
		name, raw, peer string
		ok              bool
	}{
		{"https", "https://as.example/token?x=1", "", true},
		{"https beside a public peer", "https://as.example", "https://api.example", true},
		{"https on loopback for a public peer", "https://127.0.0.1:8443/", "https://api.example", false},
		{"upper case", "HTTPS://AS.EXAMPLE/", "", true},
		{"http on 127.0.0.1", "http://127.0.0.1:80/x", "", true},
		{"http on 127.9.9.9", "http://127.9.9.9/", "http://localhost:3000/mcp", true},
		{"http on ::1", "http://[::1]:80/", "http://127.0.0.1/", true},
		{"http on mapped loopback", "http://[::ffff:127.0.0.1]/", "", true},
		{"http on localhost", "http://LocalHost/", "", true},
		{"http to a public host", "http://as.example/", "", false},
		{"http to a private address", "http://10.0.0.1/", "http://10.0.0.1/", false},
		{"http to a name that begins like loopback", "http://127.0.0.1.evil.example/", "", false},
		{"http to a name that ends like localhost", "http://localhost.evil.example/", "", false},
		{"http on loopback for a public peer", "http://127.0.0.1/", "https://api.example/mcp", false},
		{"http on loopback for a peer that is no URL", "http://127.0.0.1/", "::", false},
		{"http on 0.0.0.0", "http://0.0.0.0/", "", false},
		{"http on a short form", "http://127.1/", "", false},
		{"http on a decimal", "http://2130706433/", "", false},
		{"private address for a public peer", "https://192.168.1.1/reboot?now=1", "https://api.example/mcp", false},
		{"private address for a private peer", "https://192.168.1.1/", "https://10.0.0.1/mcp", true},
		{"private address for a loopback peer", "https://192.168.1.1/", "http://localhost:3000/mcp", true},
		{"localhost for a public peer", "https://localhost:8443/", "https://api.example", false},
		{"localhost in another spelling for a public peer", "https://LOCALHOST./", "https://api.example", false},
		{"a name of private networks for a public peer", "https://router.local/", "https://api.example", false},
		{"a name without a dot for a public peer", "https://intranet/", "https://api.example", false},
		{"a name of private networks for another", "https://sso.corp.internal/", "https://mcp.corp.internal/mcp", true},
		{"http on localhost with a dot", "http://localhost./", "", true},
		{"http on a name below localhost", "http://a.localhost/", "", false},
		{"http on a private address for a private peer", "http://10.0.0.1/", "https://10.0.0.1/", false},
		{"port that is no number", "https://as.example:x/", "", false},
		{"number", "https://2852039166/", "", false},
		{"hexadecimal number", "https://0xA9FEA9FE/", "", false},
		{"octal numbers", "https://0251.0376.0251.0376/", "", false},
		{"name that ends in a number", "https://as.example.1/", "", false},
		{"name that ends in a hexadecimal number", "https://as.example.0x1f/", "", false},
		{"name with a number in it", "https://1.2.example/", "", true},
		{"name that ends in letters after 0x", "https://as.0xg/", "", true},
		{"name of two empty labels", "https://as..example/", "", false},
		{"name with an empty label in front", "https://.as.example/", "", false},
		{"name with a quote", "https://a'b.example/", "", false},
		{"name with a shell's characters", "https://$(id).example/", "", false},
		{"name with an underscore", "https://a_b.example/", "", true},
		{"name in Unicode", "https://b\u00fccher.example/", "", true},
		{"name that is none in Unicode", "https://a\u202eb.example/", "", false},
		{"label too long", "https://" + strings.Repeat("a", 64) + ".example/", "", false},
		{"IPv6", "https://[2001:db8::1]:8443/", "", true},
		{"IPv6 with a zone", "https://[fe80::1%25eth0]/", "", false},
		{"IPv4 in brackets", "https://[203.0.113.1]/", "", false},
		{"name in brackets", "https://[as.example]/", "", false},
		{"bad encoding in the query", "https://as.example/?%zz", "", false},
		{"user info", "https://a:b@as.example/", "", false},
		{"empty user info", "https://@as.example/", "", false},
		{"fragment", "https://as.example/#f", "", false},
		{"empty fragment", "https://as.example/#", "", false},
		{"no host", "https:///x", "", false},
		{"port only", "https://:443/", "", false},
		{"opaque", "https:as.example", "", false},
		{"relative", "/token", "", false},
		{"scheme-relative", "//as.example/", "", false},
		{"empty", "", "", false},
		{"space", " https://as.example/", "", false},
		{"control character", "https://as.example/\n", "", false},
		{"javascript", "javascript:alert(1)", "", false},
		{"file", "file://localhost/etc/passwd", "", false},
		{"ftp", "ftp://127.0.0.1/", "", false},
		{"data", "data:text/html,x", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, err := CheckURL(tc.raw, tc.peer)
			if (err == nil) != tc.ok || (u != nil) != tc.ok {
				t.Fatalf("CheckURL(%q, %q) = %v, %v", tc.raw, tc.peer, u, err)
			}
			if e := (*URLError)(nil); err != nil && !errors.As(err, &e) {
				t.Errorf("error %T, want *URLError", err)
			}
		})
	}
}

func TestURLErrorShowsNoSecret(t *testing.T) {
	for _, raw := range []string{"https://u:hidden@as.example/?q=hidden#hidden", "ftp://as.example/?q=hidden", "https://u:hidden@as.example/%zz", "mailto:hidden"} {
		if _, err := CheckURL(raw, ""); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestCheckedURLIsCanonical(t *testing.T) {
	for raw, want := range map[string]string{
		"HTTPS://AS.Example.:0443/A?B":                              "https://as.example/A?B",
		"https://as.example:/":                                      "https://as.example/",
		"https://as.example:00/x":                                   "https://as.example:0/x",
		"https://as.example:99999/x":                                "https://as.example:99999/x",
		"https://as.example:08443":                                  "https://as.example:8443",
		"http://LocalHost.:80/x":                                    "http://localhost/x",
		"https://[2001:DB8:0:0::1]:443/":                            "https://[2001:db8::1]/",
		"https://b\u00fccher\u3002example/":                         "https://xn--bcher-kva.example/",
		"https://\uff12\uff10\uff13.0.113.7/":                       "https://203.0.113.7/",
		"https://as.example/a b/\u00e9/[x]/%2f%41?a b=\u202e\"'|x[": "https://as.example/a%20b/%C3%A9/%5Bx%5D/%2f%41?a%20b=%E2%80%AE%22'%7Cx%5B",
		"https://as.example/!$&'()*+,;=:@-._~?!$&'()*+,;=:@/?":      "https://as.example/!$&'()*+,;=:@-._~?!$&'()*+,;=:@/?",
	} {
		u, err := CheckURL(raw, "")
		if err != nil || u.String() != want {
			t.Errorf("%q is %v, %v; want %s", raw, u, err, want)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, tc := range []struct {
		base, to string
		ok       bool
	}{
		{"https://h/mcp", "https://h/mcp", true},
		{"https://h/mcp", "https://H:443/mcp/", true},
		{"https://h/mcp/", "https://h/mcp", true},
		{"https://h/mcp", "https://h/mcp/v2?x=1", true},
		{"https://h/mcp", "https://h/mcp?x=../..", true},
		{"https://h", "https://h/anything", true},
		{"https://h/", "https://h/a//b", true},
		{"https://h/a%2Fb", "https://h/a%2Fb/c", true},
		{"https://h/mcp?t=a", "https://h/mcp/?t=a", true},
		{"https://h/mcp", "https://h/mcp/a%20b/..c/d..", true},

		{"https://h/mcp", "https://h/tenant", false},
		{"https://h/mcp", "https://h/mcp2", false},
		{"https://h/mcp", "https://h/mcp.evil/", false},
		{"https://h/mcp", "https://h/MCP", false},
		{"https://h/mcp", "https://h/", false},
		{"https://h/mcp", "https://h", false},
		{"https://h/mcp", "https://h//mcp", false},
		{"https://h/mcp", "https://h/mcp;x/a", false},
		{"https://h/mcp", "https://h/mcp%2Ftenant", false},
		{"https://h/mcp", "https://h:444/mcp", false},
		{"https://h/mcp", "http://h/mcp", false},
		{"https://h/mcp", "https://other/mcp", false},
		{"https://h/mcp", "https://h/mcp/../tenant", false},
		{"https://h/mcp", "https://h/mcp/./x", false},
		{"https://h/mcp", "https://h/mcp/..%2ftenant", false},
		{"https://h/mcp", "https://h/mcp/%2e%2e/tenant", false},
		{"https://h/mcp", "https://h/mcp/.%2E/tenant", false},
		{"https://h/mcp", "https://h/mcp/%252e%252e%252ftenant", false},
		{"https://h/mcp", "https://h/mcp/%25252e%25252e/tenant", false},
		{"https://h/mcp", "https://h/mcp/..;/tenant", false},
		{"https://h/mcp", "https://h/mcp/..%3b/tenant", false},
		{"https://h/mcp", "https://h/mcp/..%00/tenant", false},
		{"https://h/mcp", "https://h/mcp/..%20/tenant", false},
		{"https://h/mcp", `https://h/mcp/..\tenant`, false},
		{"https://h/mcp", "https://h/mcp/..%5ctenant", false},
		{"https://h/mcp", "https://h/mcp/%c0%ae%c0%ae/tenant", false},
		{"https://h/mcp?t=a", "https://h/mcp?t=b", false},
		{"https://h/mcp?t=a", "https://h/mcp", false},
		{"https://h/mcp?t=a", "https://h/mcp?t=a&t=b", false},
	} {
		parse := func(s string) *url.URL {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		if got := Below(parse(tc.to), parse(tc.base)); got != tc.ok {
			t.Errorf("Below(%s, %s) = %v", tc.to, tc.base, got)
		}
	}
}

// FuzzCheckURL holds, for whatever an address is: what passes is one of RFC
// 3986, has a host that is its own only spelling, passes again unchanged, and is
// asked for by net/http as it stands; and no error shows what may be secret.
func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{
		"https://as.example/token?x=1", "HTTPS://u:p@AS.Example.:0443/#f", "http://[::ffff:127.0.0.1]:80/", "https://\uff11\uff12\uff17.1/", "https://0x7f.1/",
		"https://b\u00fccher\u3002example/a b?\u0085", "https://[fe80::1%25eth0]/", "https://xn--a/", "https://a\u00adb/", "http://localhost./%2e%2e?%zz", "https://\u212a.example/",
	} {
		f.Add(s, "https://api.example/mcp")
		f.Add(s, "")
	}
	f.Fuzz(func(t *testing.T, raw, peer string) {
		u, err := CheckURL(raw, peer)
		if err != nil {
			if e := (*URLError)(nil); !errors.As(err, &e) || strings.ContainsAny(e.Error(), "\x00\x1b\u202e") {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		s := u.String()
		for i := 0; i < len(s); i++ {
			if c := s[i]; !isAlnum(c) && strings.IndexByte("-._~:/?@%[]!$&'()*+,;=", c) < 0 {
				t.Fatalf("%q is %q", raw, s)
			}
		}
		if strings.ContainsAny(u.EscapedPath()+u.RawQuery, "[]#") {
			t.Errorf("%q is %q", raw, s)
		}
		again, err := CheckURL(s, peer)
		if err != nil || again.String() != s {
			t.Errorf("%q is %q, and that is %v, %v", raw, s, again, err)
		}
		host := u.Hostname()
		if canonical, err := Host(host); err != nil || canonical != host {
			t.Errorf("the host %q is %q, %v", host, canonical, err)
		}
		if addr, err := netip.ParseAddr(host); err != nil && isNumber(host[strings.LastIndexByte(host, '.')+1:]) || peer != "" && err == nil && !isPublic(addr) && !isPrivate(hostOf(peer)) {
			t.Errorf("%q for %q has the host %q", raw, peer, host)
		}
		if u.Scheme == "http" && !IsLoopback(host) {
			t.Errorf("%q is %q", raw, s)
		}
		if Origin(again) != Origin(u) || !Below(u, again) && !strings.ContainsAny(raw, ".%\\") {
			t.Errorf("%q is not where it is", s)
		}
		var line bytes.Buffer
		if err := (&http.Request{Method: "GET", URL: u, Header: http.Header{}}).Write(&line); err != nil || !strings.Contains(line.String(), "\r\nHost: "+u.Host+"\r\n") {
			t.Errorf("net/http asks for %q by %q, %v", s, line.String(), err)
		}
	})
}
