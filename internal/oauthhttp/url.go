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
	URL    string // without user info, query and fragment; "" if it is not a URL
	Reason string

	private bool // the only reason is that the host is in a private network
}

func (e *URLError) Error() string { return fmt.Sprintf("address %q: %s", e.URL, e.Reason) }

// CheckURL parses an absolute address that came from outside. peer is the server
// that the user named, or "". The address must
//
//   - be https, or http on loopback with a peer on loopback or none;
//   - have a host that [Host] accepts;
//   - have no user info (RFC 3986 §3.2.1 deprecates the password);
//   - have no fragment (RFC 6749 §3.1, RFC 8414 §2);
//   - have no host with a private spelling, unless that of peer is private too or
//     there is no peer: the documents of a public server may not lead to private
//     places (RFC 9728 §7.7).
//
// The spelling is all that can be judged of an address that a browser will open.
// Where we connect ourselves, [Transport] judges the address too, and
// [CheckNamed] asks it where the server is.
//
// The returned URL has the host as [Host] spells it and no default port.
// Characters that RFC 3986 §3.3 and §3.4 do not allow in path and query are
// percent-encoded. Errors are *URLError.
func CheckURL(raw, peer string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The error of url.Parse shows the address, password included.
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

// CheckNamed is [CheckURL] for an address that a document of server names. hc
// fetches it. If the [Transport] of hc knows that the server is in a private
// network, a private host is allowed even if the server's spelling is public.
func CheckNamed(ctx context.Context, hc *http.Client, raw, server string) (*url.URL, error) {
	u, err := CheckURL(raw, server)
	if e := (*URLError)(nil); errors.As(err, &e) && e.private {
		if t, ok := hc.Transport.(interface{ Intranet(context.Context) bool }); ok && t.Intranet(ctx) {
			return CheckURL(raw, raw)
		}
	}
	return u, err
}

// bare returns scheme, host and path of u, which may be printed: secrets stand in user info, query
// and fragment.
func bare(u *url.URL) string {
	return text.Short(text.URL((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()))
}

// escape percent-encodes the characters that may not stand in path and query.
func escape(u *url.URL) {
	const subDelims = "!$&'()*+,;=" // RFC 3986 §2.2
	u.RawPath = Escape(cmp.Or(u.RawPath, u.EscapedPath()), subDelims+":@/")
	u.RawQuery = Escape(u.RawQuery, subDelims+":@/?")
}

// Escape percent-encodes every byte of s, except those that are unreserved (RFC
// 3986 §2.3), in keep, or part of a percent-encoding.
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

// Canonical returns u as the MCP specification's "Canonical Server URI": scheme
// and host in lower case, the host as [Host] spells it, no default port, no slash
// for an empty path (RFC 3986 §6.2.3), and path and query percent-encoded as by
// [CheckURL]. A slash at the end of a path stays, since it is part of the name. So
// does a host that [Host] does not accept.
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

// authority returns host and port of u as [Canonical] writes them.
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
	port := strings.TrimLeft(u.Port(), "0") // a port that does not exist fails at the dial
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
// judged. An IP address is spelled as netip does it. A name consists of letters,
// digits, hyphens and underscores, in lower case, without a dot at its end, and
// in ASCII as net/http makes it (RFC 5891 §5).
//
// Two kinds of host are refused: an IPv6 address with a zone, which RFC 3986 does
// not know, and a name whose last label is a number. WHATWG's URL Standard §3.5
// takes the latter for an IPv4 address, also in octal, in hexadecimal and with
// fewer than four parts.
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
		return host, nil // the dot at its end is gone, or its digits were not ASCII
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

// isNumber reports whether the URL Standard takes label for a number of an IPv4
// address. It takes 0x alone for one.
func isNumber(label string) bool {
	digits := func(r rune) bool { return r < '0' || r > '9' }
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return !strings.ContainsFunc(hex, func(r rune) bool { return !isHex(byte(r)) })
	}
	return !strings.ContainsFunc(label, digits)
}

// hostOf returns the host of an address, or "" if there is none that [Host]
// accepts.
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

// privateNames are domains that the public DNS does not have: RFC 6761 §6.2 and
// §6.3, RFC 6762 §3, RFC 8375 §4, and .internal, which ICANN reserved in 2024.
var privateNames = []string{"localhost", "test", "local", "home.arpa", "internal"}

// isPrivate reports whether host, as [Host] spells it, is spelled private: it is a
// private address, or a name that only private networks know.
func isPrivate(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return !isPublic(addr)
	}
	for _, name := range privateNames {
		if host == name || strings.HasSuffix(host, "."+name) {
			return true
		}
	}
	return host != "" && !strings.Contains(host, ".") // a name without a dot is of the network's own domain
}

// Below reports whether u is at base or below it. It must have the origin of
// base, the path of base or one that continues it by whole segments, and the
// query of base if that has one. A slash at the end of base's path makes no
// difference.
//
// A token for base may go to such addresses and nowhere else: path and query tell
// the tenants of one host apart (RFC 9728 §1.2, resource identifier). So a path
// that another parser could take for a way out is not below: one with a segment
// of dots or with a slash in a segment, however often it is encoded.
func Below(u, base *url.URL) bool {
	if Origin(u) != Origin(base) || base.RawQuery != "" && u.RawQuery != base.RawQuery {
		return false
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), strings.TrimSuffix(base.EscapedPath(), "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if mayLeadOut(segment) {
			return false
		}
	}
	return true
}

// mayLeadOut reports whether some server may read a segment of a path as a way out
// of its folder. It decodes the segment until nothing changes.
func mayLeadOut(segment string) bool {
	for {
		name, _, _ := strings.Cut(segment, ";") // some servers remove parameters first
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

// foldable reports whether some server may read r as a dot, as a slash or as the
// end of the path. Such are control characters, bytes that are not UTF-8, and
// signs outside ASCII, which compatibility normalization (Unicode Standard Annex
// #15) may turn into one of these.
func foldable(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return r == utf8.RuneError || !unicode.In(r, unicode.L, unicode.M, unicode.N)
}
