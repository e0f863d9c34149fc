package oauthhttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/astravue/mcp-client-go/internal/text"
)

// A URLError is an address that is not allowed.
type URLError struct {
	URL    string // without user info, query and fragment; "" if it is none at all
	Reason string

	private bool // for its host alone, which is in a private network
}

func (e *URLError) Error() string { return fmt.Sprintf("address %q: %s", e.URL, e.Reason) }

// CheckURL parses an absolute address that came from outside. It must be
// https; http is allowed between loopback and loopback only: where both its
// host and peer, the server that the user named, are (peer "" counts as
// loopback). It has a host, no user info (RFC 3986 §3.2.1 deprecates the
// password) and no fragment (RFC 6749 §3.1, RFC 8414 §2). What is wrong with
// a host says [Host].
//
// A host that is private by its spelling is allowed where that of peer is too:
// the documents of a public server may not lead to private places (RFC 9728
// §7.7). The spelling alone is looked at, for the addresses that a browser
// opens; where we connect ourselves, [Transport] looks at the address, and
// [CheckNamed] asks it where the server is.
//
// What is returned has the host as [Host] spells it, no default port, and
// nothing in path and query but what RFC 3986 §3.3 and §3.4 allow there:
// anything else is percent-encoded. Errors are *URLError.
func CheckURL(raw, peer string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// What url.Parse says repeats the address, password included.
		return nil, &URLError{Reason: "not a URL"}
	}
	refuse := func(reason string) (*url.URL, error) { return nil, &URLError{URL: bare(u), Reason: reason} }
	if u.Scheme != "https" && u.Scheme != "http" {
		return refuse("scheme is not https")
	}
	switch {
	case u.Hostname() == "":
		return refuse("no host")
	case u.User != nil:
		return refuse("user info in the address")
	case strings.Contains(raw, "#"):
		return refuse("fragment in the address")
	}
	if _, err := url.PathUnescape(u.RawQuery); err != nil {
		return refuse("malformed percent-encoding in the query")
	}
	at, err := authority(u)
	if err != nil {
		return refuse(err.Error())
	}
	u.Host = at
	host, near := u.Hostname(), hostOf(peer)
	switch {
	case u.Scheme == "http" && !IsLoopback(host):
		return refuse("http is allowed on loopback only")
	case u.Scheme == "http" && peer != "" && !IsLoopback(near):
		return refuse("http on loopback is allowed to servers on loopback only")
	case peer != "" && isPrivate(host) && !isPrivate(near):
		return nil, &URLError{bare(u), "it is in a private network, and the server that names it is not", true}
	}
	escape(u)
	return u, nil
}

// CheckNamed is [CheckURL] for what the documents of server name, which are
// fetched with hc. A private host is allowed too if the [Transport] of hc knows
// that the server is in a private network, whatever its name.
func CheckNamed(ctx context.Context, hc *http.Client, raw, server string) (*url.URL, error) {
	u, err := CheckURL(raw, server)
	if e := (*URLError)(nil); errors.As(err, &e) && e.private {
		if t, ok := hc.Transport.(interface{ Intranet(context.Context) bool }); ok && t.Intranet(ctx) {
			return CheckURL(raw, raw)
		}
	}
	return u, err
}

// bare returns what of u may be printed: nobody hides secrets in the rest.
func bare(u *url.URL) string {
	return text.Short(text.URL((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()))
}

// escape percent-encodes what must not stand in path and query as it is.
func escape(u *url.URL) {
	const subDelims = "!$&'()*+,;=" // RFC 3986 §2.2
	u.RawPath = Escape(cmp.Or(u.RawPath, u.EscapedPath()), subDelims+":@/")
	u.RawQuery = Escape(u.RawQuery, subDelims+":@/?")
}

// Escape percent-encodes every byte of s that is not unreserved (RFC 3986
// §2.3), not in keep, and not part of a percent-encoding.
func Escape(s, keep string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case isAlnum(c), strings.IndexByte("-._~", c) >= 0, strings.IndexByte(keep, c) >= 0,
			c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// Canonical is the MCP specification's "Canonical Server URI": scheme and host
// in lower case, the host as [Host] spells it, no default port, no slash for an
// empty path (RFC 3986 §6.2.3), and what [CheckURL] percent-encodes. A slash at
// the end of a path is part of its name. What is wrong with a host stays in it.
func Canonical(u *url.URL) string {
	c := *u
	if host, err := authority(u); err == nil {
		c.Host = host
	}
	if escape(&c); c.Path == "/" {
		c.Path, c.RawPath = "", ""
	}
	return c.String()
}

// Origin returns the origin of u (RFC 6454 §6.2).
func Origin(u *url.URL) string { return Canonical(&url.URL{Scheme: u.Scheme, Host: u.Host}) }

// authority returns the host and port of u as [Canonical] has them.
func authority(u *url.URL) (string, error) {
	literal := strings.HasPrefix(u.Host, "[")
	host, err := Host(u.Hostname())
	if err == nil && literal != strings.Contains(host, ":") {
		err = errHost // brackets are for IPv6 (RFC 3986 §3.2.2)
	}
	if err != nil {
		return "", err
	}
	if literal {
		host = "[" + host + "]"
	}
	port := strings.TrimLeft(u.Port(), "0") // one that does not exist fails where it is dialled
	if port == "" && u.Port() != "" {
		port = "0"
	}
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return host, nil
	}
	return host + ":" + port, nil
}

var errHost = errors.New("no host name, and no IP address in its usual form")

// Host returns the one spelling of a host that is looked up, compared and
// judged: an IP address as netip has it, or a name of letters, digits, hyphens
// and underscores, in lower case, without a dot at its end, in ASCII as
// net/http makes it (RFC 5891 §5). Refused are an IPv6 zone, which RFC 3986
// does not know, and what somebody else's parser takes for an IPv4 address:
// WHATWG's URL Standard §3.5 has a host whose last label is a number be one, in
// octal, hexadecimal, and with less than four parts too.
func Host(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", errHost
		}
		return addr.String(), nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r > '~' }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", errHost
		}
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return host, nil // with a dot at its end, or of other digits
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.ContainsFunc(l, func(r rune) bool {
			return r > '~' || !isAlnum(byte(r)) && r != '-' && r != '_'
		}) {
			return "", errHost
		}
	}
	if last := labels[len(labels)-1]; len(host) > 253 || isNumber(last) {
		return "", errHost
	}
	return host, nil
}

// isNumber reports whether the URL Standard takes label for a part of an IPv4
// address. It takes a lone 0x for one.
func isNumber(label string) bool {
	digits := func(r rune) bool { return r < '0' || r > '9' }
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return !strings.ContainsFunc(hex, func(r rune) bool { return !isHex(byte(r)) })
	}
	return !strings.ContainsFunc(label, digits)
}

// hostOf returns the host of an address, or "" if there is none that [Host] takes.
func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil {
		if host, err := Host(u.Hostname()); err == nil {
			return host
		}
	}
	return ""
}

// IsLoopback reports whether host, as [Host] spells it, is localhost or a
// loopback address.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// Names that are in no public DNS: RFC 6761 §6.2 and §6.3, RFC 6762 §3, RFC 8375
// §4, and what ICANN's board reserved in 2024.
var privateNames = []string{"localhost", "test", "local", "home.arpa", "internal"}

// isPrivate reports whether host, as [Host] spells it, is nowhere in the public
// Internet: by its address, or by a name that only private networks know.
func isPrivate(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return !isPublic(addr)
	}
	for _, name := range privateNames {
		if host == name || strings.HasSuffix(host, "."+name) {
			return true
		}
	}
	return host != "" && !strings.Contains(host, ".") // found in the network's own domain only
}

// Below reports whether u is where base is, or below it: of one origin, with
// the path of base or one that continues it by whole segments, and with the
// query of base if that has one. A token for base may be carried that far and
// no further: path and query tell the tenants of one host apart (RFC 9728 §1.2,
// resource identifier). A slash at the end of base's path makes no difference.
// A path that another parser could read as a way out is not below: one with a
// segment that is dots, or that holds a slash, however often it is encoded.
func Below(u, base *url.URL) bool {
	if Origin(u) != Origin(base) || base.RawQuery != "" && u.RawQuery != base.RawQuery {
		return false
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), strings.TrimSuffix(base.EscapedPath(), "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if leads(segment) {
			return false
		}
	}
	return true
}

// leads reports whether a segment of a path may lead out of the folder that it
// is in.
func leads(segment string) bool {
	for {
		name, _, _ := strings.Cut(segment, ";") // some servers take parameters off first
		if name != "" && strings.Trim(name, ". ") == "" || strings.ContainsAny(segment, "/\\") || strings.ContainsFunc(segment, foldable) {
			return true
		}
		decoded, err := url.PathUnescape(segment)
		if err != nil || decoded == segment {
			return false
		}
		segment = decoded
	}
}

// foldable reports whether some read r as a dot, as a slash, or as the end:
// a control character, what is not UTF-8, or a sign that compatibility
// normalization (Unicode Standard Annex #15) may take for one of these.
func foldable(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return r == utf8.RuneError || !unicode.In(r, unicode.L, unicode.M, unicode.N)
}
