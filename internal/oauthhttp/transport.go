package oauthhttp

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/astravue/mcp-client-go/internal/text"
)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
)

// NewClient returns the hardened client that serves wherever a caller gives none:
// a [Transport] for server, 30 s for a request and its answer, redirects as
// [GetJSON] follows them.
func NewClient(server string) *http.Client {
	hc := &http.Client{Transport: NewTransport(server), Timeout: requestTimeout}
	hc.CheckRedirect = checkRedirect(hc)
	return hc
}

// NewTransport returns a [Transport] for the server that the user named.
func NewTransport(server string) http.RoundTripper { return &Transport{Server: server} }

// defaultClient serves every call with a nil client, so that they share
// connections.
var defaultClient = sync.OnceValue(func() *http.Client { return NewClient("") })

// A Transport is an [http.RoundTripper] with TLS 1.2 or newer, the proxy of the
// environment, HTTP/2, and a guard at the dial: the documents of a public
// server may not lead us to private addresses (RFC 9728 §7.7).
//
// [Host] must accept every host, and its spelling is the one that is looked up.
// The guard then judges each address right before it is dialled. A name server
// may change its answer; the connection goes to the judged address.
//
//   - A public address is always allowed.
//   - The server's own host may be at any address, and may move: TLS proves its
//     name.
//   - Another host may be at a private address only if the server is in a private
//     network too. That is so if its spelling is private, or if its latest
//     connection went to a private address and its TLS handshake succeeded. If
//     there was no connection yet and all its addresses are private, the guard
//     makes one to find out.
//   - Without TLS the only private addresses are those of loopback, for a host
//     that is spelled localhost, 127.x or ::1, and only if the server is spelled
//     so too.
//
// The guard cannot see two things. Behind a proxy only the proxy knows the
// addresses: hosts are judged by their spelling alone, and a server behind it
// counts as public unless its spelling is private. And a network may translate
// IPv6 to its private IPv4 addresses under a prefix of its own, which looks like
// any other; that network must refuse it (RFC 6052 §5.1).
//
// Dial and handshake are limited to 10 s each. There is no other limit, since
// streams pass through: a limit for a whole request belongs to the client.
//
// The zero value is ready to use, and safe for concurrent use.
type Transport struct {
	// Server is the URL of the server that the user named. If it is empty, all
	// hosts must be public, except that hosts spelled localhost, 127.x or ::1
	// may be at loopback.
	Server string

	// For tests. Resolve replaces the system's resolver. Dial replaces
	// [net.Dialer] and gets an IP address for a host. TLS adds root
	// certificates.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	TLS     *tls.Config

	once   sync.Once
	inner  *http.Transport
	server *url.URL // Server, its host as [Host] spells it; never nil, but its host may be ""

	mu     sync.Mutex // guards latest
	latest netip.Addr // of the latest TLS connection to the server; zero: there was none
}

// A PrivateAddressError is a host at a private address to which a public server's
// document, or a redirect, would lead.
type PrivateAddressError struct {
	Host string
	Addr netip.Addr // zero: the name itself is private, and was not looked up
}

func (e *PrivateAddressError) Error() string {
	host := text.Quote(text.Host(e.Host))
	if !e.Addr.IsValid() {
		return fmt.Sprintf("host %s is in a private network, and a public server may not send us there", host)
	}
	return fmt.Sprintf("host %s is at %v, and a public server may not send us to a private address", host, e.Addr)
}

// A route is what a dial needs to know of its request. It travels in the context.
type route struct {
	proxy *url.URL // nil: none
	plain bool     // no TLS
}

type routeKey struct{}

func (t *Transport) init() {
	t.once.Do(func() {
		t.server = &url.URL{}
		if u, err := url.Parse(t.Server); err == nil {
			if u.Host, err = authority(u); err == nil {
				t.server = u
			}
		}
		config := t.TLS.Clone() // nil stays nil
		if config == nil {
			config = &tls.Config{}
		}
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
		t.inner = &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				route, _ := r.Context().Value(routeKey{}).(route)
				return route.proxy, nil
			},
			DialContext:           t.dial,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   dialTimeout,
			ForceAttemptHTTP2:     true, // off by default beside a DialContext
			MaxIdleConns:          100,
			MaxIdleConnsPerHost:   100, // there are two hosts, and all users of a web application share them
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
			// The default of 10 MiB takes seconds to read.
			MaxResponseHeaderBytes: 256 << 10,
		}
	})
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.init()
	r, err := t.direct(r)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	return t.inner.RoundTrip(r)
}

// direct returns a copy of r with its host as [Host] spells it and its [route] in
// the context. With an error it returns r itself.
func (t *Transport) direct(r *http.Request) (*http.Request, error) {
	host, err := authority(r.URL)
	if err != nil {
		return r, &net.OpError{Op: "dial", Err: &URLError{URL: bare(r.URL), Reason: err.Error()}}
	}
	to, at := r.WithContext(r.Context()), *r.URL
	to.URL, at.Host = &at, host
	if r.Host == r.URL.Host {
		to.Host = host
	}
	way := route{plain: r.URL.Scheme == "http"}
	if way.proxy, err = http.ProxyFromEnvironment(to); err != nil {
		return r, &net.OpError{Op: "dial", Err: fmt.Errorf("proxy of the environment: %w", err)}
	}
	name := to.URL.Hostname()
	ctx := context.WithValue(r.Context(), routeKey{}, way)
	switch {
	case way.proxy != nil && isPrivate(name):
		addr, _ := netip.ParseAddr(name)
		if err := t.check(ctx, name, addr); err != nil {
			return r, err
		}
	case way.proxy == nil && t.isServer(name):
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { t.connected(c.Conn) }})
	}
	return to.WithContext(ctx), nil
}

// CloseIdleConnections serves [http.Client.CloseIdleConnections].
func (t *Transport) CloseIdleConnections() {
	t.init()
	t.inner.CloseIdleConnections()
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// dial connects to address, a host and a port, if the guard allows it. Without a Dial or Resolve of a
// test, net.Dialer calls the guard for each address that it is about to connect to.
func (t *Transport) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	dial := t.Dial
	if dial == nil {
		dial = d.DialContext
	}
	if way, _ := ctx.Value(routeKey{}).(route); way.proxy != nil {
		return dial(ctx, network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if t.Dial == nil && t.Resolve == nil {
		d.ControlContext = func(ctx context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return t.check(ctx, host, to.Addr())
		}
		return d.DialContext(ctx, network, address)
	}
	addrs, err := t.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if err = t.check(ctx, host, addr); err != nil {
			continue
		}
		var conn net.Conn
		to := net.JoinHostPort(addr.String(), port)
		if conn, err = dial(ctx, network, to); err == nil {
			return dialed{conn, to}, nil
		}
	}
	if err == nil {
		err = &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: err}
}

func (t *Transport) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	if t.Resolve != nil {
		return t.Resolve(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// dialed is a connection under a test's Dial or Resolve. It counts as one to the
// address that was asked for.
type dialed struct {
	net.Conn
	address string
}

func (d dialed) RemoteAddr() net.Addr {
	to, _ := netip.ParseAddrPort(d.address)
	return net.TCPAddrFromAddrPort(to)
}

// check is the guard: it returns an error if host may not be reached at addr. The
// zero address stands for an unknown private one.
func (t *Transport) check(ctx context.Context, host string, addr netip.Addr) error {
	way, _ := ctx.Value(routeKey{}).(route)
	loopback := IsLoopback(host) && (addr.Unmap().IsLoopback() || !addr.IsValid())
	switch {
	case addr.IsValid() && isPublic(addr),
		loopback && t.server.Host == "",
		loopback && IsLoopback(t.server.Hostname()),
		!way.plain && (t.isServer(host) || t.Intranet(ctx)):
		return nil
	}
	return &PrivateAddressError{host, addr}
}

// Intranet reports whether the server is in a private network. It may connect to
// the server to find out, within ctx and 10 s.
func (t *Transport) Intranet(ctx context.Context) bool {
	t.init()
	if host := t.server.Hostname(); host == "" || isPrivate(host) {
		return host != ""
	}
	t.mu.Lock()
	latest := t.latest
	t.mu.Unlock()
	if !latest.IsValid() {
		latest = t.meet(ctx)
	}
	return latest.IsValid() && !isPublic(latest)
}

func (t *Transport) isServer(host string) bool {
	return t.server.Host != "" && host == t.server.Hostname()
}

// connected remembers the server's address from a connection with a finished TLS
// handshake. Only TLS proves that the server is there: the owner of a name can
// have its name server answer with anybody's address.
func (t *Transport) connected(conn net.Conn) {
	to, ok := conn.RemoteAddr().(*net.TCPAddr)
	if _, secure := conn.(*tls.Conn); !ok || !secure {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latest = to.AddrPort().Addr()
}

// meet returns the server's address if a connection proves that it is a private
// one. It returns the zero address if the server has a public address, cannot be
// reached, or is behind a proxy.
func (t *Transport) meet(ctx context.Context) netip.Addr {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: t.server})
	if proxy != nil || err != nil || t.server.Scheme != "https" {
		return netip.Addr{}
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, routeKey{}, route{}), dialTimeout)
	defer cancel()
	addrs, err := t.lookup(ctx, t.server.Hostname())
	if err != nil || slices.ContainsFunc(addrs, isPublic) {
		return netip.Addr{}
	}
	address := t.server.Host
	if t.server.Port() == "" {
		address += ":443"
	}
	conn, err := t.dial(ctx, "tcp", address)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	config := t.inner.TLSClientConfig.Clone()
	config.ServerName = cmp.Or(config.ServerName, t.server.Hostname())
	secure := tls.Client(conn, config)
	if secure.HandshakeContext(ctx) != nil {
		return netip.Addr{}
	}
	t.connected(secure)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// special are the prefixes of the IANA special-purpose address registries that
// net/netip takes for public. The documentation prefixes are not here, since
// no host has such an address.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT, RFC 6598
	netip.MustParsePrefix("168.63.129.16/32"), // a cloud's metadata service
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
	netip.MustParsePrefix("192.88.99.0/24"),   // relays of 6to4, run by anybody; deprecated by RFC 7526
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
	netip.MustParsePrefix("2001::/23"),        // protocol assignments, Teredo among them
}

var (
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour      = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// isPublic reports whether addr belongs to the public Internet. An IPv6 address
// with an IPv4 address in it (ISATAP, NAT64, 6to4) is public only if that one is.
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	b := addr.As16()
	switch isatap := b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe; { // RFC 5214 §6.1
	case addr.Is6() && isatap && !isPublic(netip.AddrFrom4([4]byte(b[12:]))):
		return false
	case nat64.Contains(addr):
		return isPublic(netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(addr):
		return isPublic(netip.AddrFrom4([4]byte(b[2:6])))
	case !addr.IsGlobalUnicast(), addr.IsPrivate(), addr.Is6() && !globalUnicast6.Contains(addr):
		return false
	}
	for _, p := range special {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}
