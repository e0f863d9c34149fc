package text

import (
	"net/url"
	"strings"

	"golang.org/x/net/idna"
)

// URL returns an address as [Line] does, with the name of its host in ASCII (RFC 5891 §4.4,
// "punycode"). That is the name that net/http looks up, and in ASCII it looks like no other. Without
// a host, s is returned as Line does.
func URL(s string) string {
	s = Line(s)
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	from := strings.Index(s, "//") + 2
	to := len(s)
	if i := strings.IndexAny(s[from:], "/?#"); i >= 0 {
		to = from + i
	}
	from += strings.LastIndexByte(s[from:to], '@') + 1
	return s[:from] + Host(u.Host) + s[to:]
}

// Host returns a host, with or without a port, as [URL] writes it.
func Host(host string) string {
	host = Line(host)
	if isASCII(host) {
		return host
	}
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		name, port = host[:i], host[i:]
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil { // no such host can exist, but it must look like what it is
		ascii, err = idna.Punycode.ToASCII(name)
	}
	if err != nil || !isASCII(ascii+port) {
		return strings.TrimPrefix((&url.URL{Host: host}).String(), "//") // escaped
	}
	return ascii + port
}

// QuoteURL returns Quote(URL(s)).
func QuoteURL(s string) string { return Quote(URL(s)) }

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 }
