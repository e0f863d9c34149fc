package oauthhttp

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// A URLError is an address that is not allowed.
type URLError struct {
	URL    string // without user info, query and fragment; "" if it is none at all
	Reason string
}

func (e *URLError) Error() string { return fmt.Sprintf("address %q: %s", e.URL, e.Reason) }

// CheckURL parses an absolute address that came from outside. It must be
// https; http is allowed between loopback and loopback only: where both its
// host and peer, the server that the user named, are (peer "" counts as
// loopback). It has a host, no user info (RFC 3986 §3.2.1 deprecates the
// password) and no fragment (RFC 6749 §3.1, RFC 8414 §2). Errors are *URLError.
func CheckURL(raw, peer string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// What url.Parse says repeats the address, password included.
		return nil, &URLError{Reason: "not a URL"}
	}
	refuse := func(reason string) (*url.URL, error) { return nil, &URLError{URL: bare(u), Reason: reason} }
	switch u.Scheme {
	case "https":
	case "http":
		if !isLoopback(u) {
			return refuse("http is allowed on loopback only")
		}
		if p, err := url.Parse(peer); err != nil || peer != "" && !isLoopback(p) {
			return refuse("http on loopback is allowed to servers on loopback only")
		}
	default:
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
	return u, nil
}

// bare returns what of u may be printed: nobody hides secrets in the rest.
func bare(u *url.URL) string {
	return clean((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

func isLoopback(u *url.URL) bool { return loopbackHost(u.Hostname()) }

func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
