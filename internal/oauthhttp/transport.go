package oauthhttp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
)

// NewClient returns the hardened client that is used wherever none is given:
// a [Transport] for server, 30 s for a request and its answer, redirects as
// [GetJSON] follows them.
func NewClient(server string) *http.Client {
	return &http.Client{Transport: NewTransport(server), Timeout: requestTimeout, CheckRedirect: checkRedirect}
}

// NewTransport returns what stands under [NewClient]: a [Transport] for the
// server that the user named.
func NewTransport(server string) http.RoundTripper { return &Transport{Server: server} }

// defaultClient serves every call with a nil client, so that they share
// connections.
var defaultClient = sync.OnceValue(func() *http.Client { return NewClient("") })

// A Transport is an [http.RoundTripper] with TLS 1.2 or newer, the proxy of the
// environment, HTTP/2, and a guard at the dial: the documents of a public
// server may not lead us to private addresses. It looks at the resolved
// address, so that a name that resolves to another one the second time gains
// nothing. Through a proxy only addresses given as numbers can be looked at.
//
// It limits dial and handshake to 10 s each, and nothing else, since streams
// pass through it: a limit for a whole request is the client's.
//
// The zero value is ready to use, and safe for concurrent use.
type Transport struct {
	// Server is the URL of the server that the user named. Its host may be
	// anywhere. Other hosts must have public addresses, unless Server itself
	// is loopback or private: then they may be anywhere too. With an empty
	// Server all must be public, but hosts that are called localhost, 127.x
	// or ::1 may be loopback.
	Server string

	// For tests. Resolve is in place of the system's resolver, Dial, which
	// gets a number for a host, in place of [net.Dialer], TLS adds root
	// certificates.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	TLS     *tls.Config

	once   sync.Once
	inner  *http.Transport
	server string // host of Server

	mu       sync.Mutex
	intranet *bool // Server is not public; nil: not looked up
}

// A PrivateAddressError is a host that a public server's document named and
// that is at an address which is not public.
type PrivateAddressError struct {
	Host string
	Addr netip.Addr
}

func (e *PrivateAddressError) Error() string {
	return fmt.Sprintf("host %q is at %v, and a public server may not send us to a private address", e.Host, e.Addr)
}

type proxyKey struct{}

func (t *Transport) init() {
	t.once.Do(func() {
		if u, err := url.Parse(t.Server); err == nil {
			t.server = hostKey(u.Hostname())
		}
		config := t.TLS.Clone() // nil stays nil
		if config == nil {
			config = &tls.Config{}
		}
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
		t.inner = &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				proxy, _ := r.Context().Value(proxyKey{}).(*url.URL)
				return proxy, nil
			},
			DialContext:           t.dial,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   dialTimeout,
			ForceAttemptHTTP2:     true, // off by default beside a DialContext
			MaxIdleConns:          100,
			MaxIdleConnsPerHost:   100, // there are two hosts, and a web application shares one of these
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	})
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.init()
	proxy, err := http.ProxyFromEnvironment(r)
	if proxy != nil {
		if addr, err := netip.ParseAddr(r.URL.Hostname()); err == nil {
			if err := t.check(r.Context(), r.URL.Hostname(), addr); err != nil {
				closeBody(r)
				return nil, err
			}
		}
		// The dial must know that it goes to the proxy.
		r = r.WithContext(context.WithValue(r.Context(), proxyKey{}, proxy))
	}
	if err != nil {
		closeBody(r)
		return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("proxy of the environment: %w", err)}
	}
	return t.inner.RoundTrip(r)
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (t *Transport) CloseIdleConnections() {
	t.init()
	t.inner.CloseIdleConnections()
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

func (t *Transport) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	dial := t.Dial
	if dial == nil {
		dial = d.DialContext
	}
	if ctx.Value(proxyKey{}) != nil {
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
		if conn, err = dial(ctx, network, net.JoinHostPort(addr.String(), port)); err == nil {
			return conn, nil
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

// check refuses addr, at which host was found.
func (t *Transport) check(ctx context.Context, host string, addr netip.Addr) error {
	switch {
	case isPublic(addr),
		t.server != "" && hostKey(host) == t.server,
		t.server == "" && loopbackHost(host) && addr.Unmap().IsLoopback(),
		t.server != "" && t.onIntranet(ctx):
		return nil
	}
	return &PrivateAddressError{host, addr}
}

// onIntranet reports whether the server that the user named has no public
// address. If that cannot be found out it counts as public.
func (t *Transport) onIntranet(ctx context.Context) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.intranet == nil {
		addrs, err := t.lookup(ctx, t.server)
		if err != nil {
			return false
		}
		private := len(addrs) > 0
		for _, addr := range addrs {
			private = private && !isPublic(addr)
		}
		t.intranet = &private
	}
	return *t.intranet
}

func hostKey(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// What net/netip does not know to be out of the public Internet, from the IANA
// special-purpose address registries. The documentation prefixes are left
// out: nobody is there.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT, RFC 6598
	netip.MustParsePrefix("168.63.129.16/32"), // a cloud's metadata service
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
	netip.MustParsePrefix("2001::/23"),        // protocol assignments, Teredo among them
}

var (
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour      = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// isPublic reports whether addr belongs to the public Internet. An IPv6
// address that stands for an IPv4 address is judged by that one.
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	b := addr.As16()
	switch {
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
