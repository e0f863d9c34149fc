package oauthhttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

func TestPublicAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "203.0.113.7": true, "172.15.0.1": true, "172.32.0.1": true, "100.63.0.1": true, "100.128.0.1": true,
		"2606:4700::1111": true, "2a00::1": true, "2001:db8::1": true, "2002:808:808::1": true, "64:ff9b::808:808": true, "::ffff:8.8.8.8": true,

		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.255.0.1": false, "10.0.0.1": false, "172.16.0.1": false,
		"172.31.255.255": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false,
		"168.63.129.16": false, "192.0.0.1": false, "198.18.0.1": false, "224.0.0.1": false, "239.1.1.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "fec0::1": false,
		"ff02::1": false, "100::1": false, "2001::1": false, "2001:0:1::1": false, "::ffff:10.0.0.1": false, "::10.0.0.1": false,
		"64:ff9b::a00:1": false, "64:ff9b::7f00:1": false, "64:ff9b:1::808:808": false, "2002:a00:1::1": false, "2002:7f00:1::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(addr)); got != want {
			t.Errorf("isPublic(%s) = %v", addr, got)
		}
	}
}

// hosts is an Internet of our own: names with addresses, all of them served
// by one TLS server.
type hosts struct {
	addrs map[string][]string
	mu    sync.Mutex
	asked int
	dials []string
}

func (h *hosts) transport(t *testing.T, server string) *Transport {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	tr := &Transport{
		Server: server,
		TLS:    &tls.Config{RootCAs: roots, ServerName: "example.com"}, // httptest's name
		Resolve: func(_ context.Context, host string) (addrs []netip.Addr, err error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.asked++
			for _, a := range h.addrs[host] {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			if addrs == nil {
				err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			return addrs, err
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			h.mu.Lock()
			h.dials = append(h.dials, address)
			h.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestGuardAtTheDial(t *testing.T) {
	names := map[string][]string{
		"public.example": {"203.0.113.1"}, "as.example": {"2001:db8::1"}, "intra.example": {"10.0.0.1", "fd00::1"},
		"metadata.example": {"169.254.169.254"}, "mixed.example": {"10.0.0.1", "203.0.113.9"}, "mixed2.example": {"203.0.113.9", "10.0.0.1"}, "loop.example": {"127.0.0.1"},
		"localhost": {"127.0.0.1"}, "many.example": {"::1", "10.0.0.1", "100.64.0.1"},
	}
	for name, tc := range map[string]struct {
		server, host string
		dialled      string // "": refused as private
	}{
		"public server, public host":              {"https://public.example/mcp", "as.example", "[2001:db8::1]:443"},
		"public server, itself":                   {"https://public.example/mcp", "public.example", "203.0.113.1:443"},
		"public server, private host":             {"https://public.example/mcp", "intra.example", ""},
		"public server, metadata host":            {"https://public.example/mcp", "metadata.example", ""},
		"public server, all private":              {"https://public.example/mcp", "many.example", ""},
		"public server, loopback by name":         {"https://public.example/mcp", "loop.example", ""},
		"public server, localhost":                {"https://public.example/mcp", "localhost", ""},
		"public server, private number":           {"https://public.example/mcp", "10.0.0.1", ""},
		"public server, loopback number":          {"https://public.example/mcp", "[::1]", ""},
		"public server, private by NAT64":         {"https://public.example/mcp", "[64:ff9b::a00:1]", ""},
		"public server, partly private":           {"https://public.example/mcp", "mixed.example", "203.0.113.9:443"},
		"partly private server is public":         {"https://mixed.example/", "intra.example", ""},
		"partly private server, other order":      {"https://mixed2.example/", "intra.example", ""},
		"partly private server, itself":           {"https://MIXED.example./", "mixed.example", "10.0.0.1:443"},
		"private server, itself":                  {"https://intra.example/", "intra.example", "10.0.0.1:443"},
		"private server, private host":            {"https://intra.example/", "metadata.example", "169.254.169.254:443"},
		"private server by number":                {"https://192.168.1.1/", "intra.example", "10.0.0.1:443"},
		"loopback server, private host":           {"http://localhost:3000/", "intra.example", "10.0.0.1:443"},
		"server that cannot be found":             {"https://gone.example/", "intra.example", ""},
		"no server, public host":                  {"", "public.example", "203.0.113.1:443"},
		"no server, private host":                 {"", "intra.example", ""},
		"no server, localhost":                    {"", "localhost", "127.0.0.1:443"},
		"no server, loopback number":              {"", "127.0.0.1", "127.0.0.1:443"},
		"no server, loopback under another name":  {"", "loop.example", ""},
		"server that is no address, private host": {"://", "intra.example", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hosts{addrs: names}
			hc := &http.Client{Transport: h.transport(t, tc.server)}
			err := GetJSON(t.Context(), hc, "https://"+tc.host+"/", &struct{}{})
			var private *PrivateAddressError
			if errors.As(err, &private) != (tc.dialled == "") || err != nil && private == nil {
				t.Fatalf("error %v", err)
			}
			var want []string
			if tc.dialled != "" {
				want = []string{tc.dialled}
			}
			if strings.Join(h.dials, " ") != strings.Join(want, " ") {
				t.Errorf("dialled %q, want %q", h.dials, want)
			}
			if private != nil {
				_, err := RequestToken(t.Context(), hc, "https://"+tc.host+"/", refreshForm(), public("c"))
				wantOutcome(t, err, NotSent)
			}
		})
	}
}

func TestGuardFollowsRedirects(t *testing.T) {
	h := &hosts{addrs: map[string][]string{"public.example": {"203.0.113.1"}, "intra.example": {"10.0.0.1"}}}
	tr := h.transport(t, "https://public.example/")
	hc := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := tr.RoundTrip(r)
		if err == nil {
			resp.StatusCode = http.StatusFound
			resp.Header.Set("Location", "https://intra.example/")
		}
		return resp, err
	})}
	var private *PrivateAddressError
	if err := GetJSON(t.Context(), hc, "https://public.example/", &struct{}{}); !errors.As(err, &private) {
		t.Errorf("error %v", err)
	}
}

func TestGuardOfTheRealDialer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	defer srv.Close()
	for server, ok := range map[string]bool{"": true, srv.URL: true, "http://127.0.0.9": true, "https://203.0.113.1/": false} {
		hc := NewClient(server)
		err := GetJSON(t.Context(), hc, srv.URL, &struct{}{})
		var private *PrivateAddressError
		if (err == nil) != ok || !ok && !errors.As(err, &private) {
			t.Errorf("server %q: %v", server, err)
		}
		hc.CloseIdleConnections()
	}
}

func TestTLSBelow12IsRefused(t *testing.T) {
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		srv.EnableHTTP2 = ok // which would refuse TLS 1.1 itself
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		hc := &http.Client{Transport: &Transport{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}}}
		status, _, proto, err := PostJSON(t.Context(), hc, srv.URL, "", 1)
		if (err == nil) != ok || ok && (status != 200 || string(proto) != "HTTP/2.0") {
			t.Errorf("TLS %x: %d %s %v", version, status, proto, err)
		}
		hc.CloseIdleConnections()
		srv.Close()
	}
}

const proxyChild = "OAUTHHTTP_TEST_PROXY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(proxyChild) == "" { // the proxy of whoever runs the tests is none of ours
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
			os.Unsetenv(name)
			os.Unsetenv(strings.ToLower(name))
		}
	}
	os.Exit(m.Run())
}

// The proxy of the environment is read once in a process, so this test runs
// itself again with one.
func TestProxyOfTheEnvironment(t *testing.T) {
	if os.Getenv(proxyChild) != "" {
		hc := NewClient("https://203.0.113.1/") // a public server: loopback may not be dialled for it
		var private *PrivateAddressError
		if err := GetJSON(t.Context(), hc, "https://10.0.0.1/", &struct{}{}); !errors.As(err, &private) {
			t.Errorf("private number: %v", err)
		}
		err := GetJSON(t.Context(), hc, "https://as.example/", &struct{}{})
		if err == nil || errors.As(err, &private) {
			t.Errorf("through the proxy: %v", err)
		}
		_, err = RequestToken(t.Context(), hc, "https://as.example/", refreshForm(), public("c"))
		wantOutcome(t, err, NotSent)
		return
	}
	var mu sync.Mutex
	var connects []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		connects = append(connects, r.Method+" "+r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyOfTheEnvironment$")
	cmd.Env = append(os.Environ(), proxyChild+"=1", "HTTPS_PROXY="+proxy.URL)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := strings.Join(connects, ", "), "CONNECT as.example:443, CONNECT as.example:443"; got != want {
		t.Errorf("the proxy saw %q, want %q", got, want)
	}
}
