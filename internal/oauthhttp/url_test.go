package oauthhttp

import (
	"errors"
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
		{"https on loopback", "https://127.0.0.1:8443/", "https://api.example", true},
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
