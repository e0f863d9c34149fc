package oauthhttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

func TestPublicAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "203.0.113.7": true, "172.15.0.1": true, "172.32.0.1": true, "100.63.0.1": true, "100.128.0.1": true,
		"2606:4700::1111": true, "2a00::1": true, "2001:db8::1": true, "2002:808:808::1": true, "64:ff9b::808:808": true, "::ffff:8.8.8.8": true,

		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.255.0.1": false, "10.0.0.1": false, "172.16.0.1": false,
		"172.31.255.255": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false,
		"168.63.129.16": false, "192.0.0.1": false, "198.18.0.1": false, "224.0.0.1": false, "239.1.1.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "fec0::1": false,
		"192.88.99.1": false, "2002:c058:6301::1": false, // relays
		"2a00::5efe:a00:1": false, "2a00::200:5efe:a9fe:a9fe": false, "2a00::5efe:808:808": true, "2a00::1200:5efe:a00:1": true, // ISATAP
		"::ffff:0:a00:1": false, "5f00::1": false,
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
	srv   *httptest.Server
	addrs map[string][]string
	alien string // an address at which somebody else takes connections
	mu    sync.Mutex
	asked int
	dials []string
}

func (h *hosts) transport(t *testing.T, server string) *Transport {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	t.Cleanup(srv.Close)
	h.srv = srv
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
			to := srv.Listener.Addr().String()
			if h.alien != "" && strings.HasPrefix(address, h.alien+":") {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return nil, err
				}
				t.Cleanup(func() { ln.Close() })
				to = ln.Addr().String() // without the certificate
				go func() {
					if c, err := ln.Accept(); err == nil {
						_ = c.Close()
					}
				}()
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
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
		"private server, private host":            {"https://intra.example/", "metadata.example", "10.0.0.1:443 169.254.169.254:443"},
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

// A name server of the attacker's answers what it likes, at any time. What
// counts is where the server was when it proved its name.
func TestGuardGoesByTheConnection(t *testing.T) {
	const public, private, other = "203.0.113.1", "10.0.0.1", "fd00::1"
	type step struct {
		server string // where its name is from now on, if not ""
		ask    string
		ok     bool
	}
	for name, steps := range map[string][]step{
		"public, then private, seen by a look-up":       {{public, "server.example", true}, {private, "intra.example", false}, {"", "intra.example", false}},
		"public, then private, where it is not":         {{public, "server.example", true}, {"10.9.9.9", "server.example", false}, {"", "intra.example", false}},
		"private at once, where it is not":              {{"10.9.9.9", "intra.example", false}, {"", "server.example", false}, {"", "intra.example", false}},
		"public, then moved into the intranet":          {{public, "server.example", true}, {private, "server.example", true}, {"", "intra.example", true}},
		"private, then moved out":                       {{private, "server.example", true}, {"", "intra.example", true}, {public, "server.example", true}, {"", "intra.example", false}},
		"private, never asked":                          {{other, "intra.example", true}},
		"public, never asked":                           {{public, "intra.example", false}},
		"both, never asked":                             {{private + " " + public, "intra.example", false}, {public + " " + other, "intra.example", false}},
		"cannot be found, then private":                 {{"", "intra.example", false}, {private, "intra.example", true}},
		"its name in another spelling":                  {{private, "SERVER.Example.", true}, {"", "server。example", true}},
		"a name that only begins or ends like it":       {{public, "server.example", true}, {"", "server.example.evil.example", false}, {"", "evil-server.example", false}},
		"public, and the number of a private host":      {{public, "server.example", true}, {"", "10.0.0.5", false}, {"", "[::ffff:10.0.0.5]", false}, {"", "[fd00::5]", false}},
		"public, and localhost":                         {{public, "server.example", true}, {"", "localhost", false}, {"", "127.0.0.1", false}, {"", "LOCALHOST.", false}},
		"public, and a name with public and private":    {{public, "server.example", true}, {"", "mixed.example", true}},
		"public, and a number in full-width characters": {{public, "server.example", true}, {"", "１０.0.0.5", false}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hosts{alien: "10.9.9.9", addrs: map[string][]string{
				"intra.example": {"10.0.0.5"}, "mixed.example": {"10.0.0.5", "203.0.113.5"}, "localhost": {"127.0.0.1"},
				"server.example.evil.example": {"10.0.0.5"}, "evil-server.example": {"10.0.0.5"},
			}}
			tr := h.transport(t, "https://server.example/mcp")
			for i, s := range steps {
				if s.server != "" {
					h.mu.Lock()
					h.addrs["server.example"] = strings.Fields(s.server)
					h.mu.Unlock()
					tr.CloseIdleConnections()
				}
				err := GetJSON(t.Context(), &http.Client{Transport: tr}, "https://"+s.ask+"/", &struct{}{})
				if (err == nil) != s.ok {
					t.Fatalf("step %d: %v", i, err)
				}
				if err != nil && s.ask != "server.example" && !errors.As(err, new(*PrivateAddressError)) {
					t.Errorf("step %d: %T %v", i, err, err)
				}
			}
			for _, d := range h.dials {
				if host, _, _ := net.SplitHostPort(d); host == "10.0.0.5" && !slices.ContainsFunc(steps, func(s step) bool { return s.ask == "intra.example" && s.ok }) {
					t.Errorf("dialled %q", h.dials)
				}
			}
		})
	}
}

// Without TLS nothing proves a name, and nothing is asked for but loopback.
func TestGuardWithoutTLS(t *testing.T) {
	h := &hosts{addrs: map[string][]string{
		"server.example": {"127.0.0.1"}, "intra.example": {"10.0.0.5"}, "localhost": {"127.0.0.1"}, "cloud.example": {"169.254.169.254"},
	}}
	for _, server := range []string{"https://server.example", "https://10.0.0.1", "http://localhost:3000", "http://127.0.0.2", ""} {
		tr := h.transport(t, server)
		for _, host := range []string{"server.example", "intra.example", "cloud.example", "10.0.0.1", "169.254.169.254", "localhost", "127.0.0.1"} {
			resp, err := tr.RoundTrip(httptest.NewRequest("GET", "http://"+host+":8080/", nil))
			if err == nil {
				resp.Body.Close()
			}
			want := (host == "localhost" || host == "127.0.0.1") && (server == "" || strings.HasPrefix(server, "http:"))
			if (err == nil) != want || err != nil && !errors.As(err, new(*PrivateAddressError)) {
				t.Errorf("server %q, http://%s: %v", server, host, err)
			}
		}
	}
}

func TestGuardOfManyAtOnce(t *testing.T) {
	h := &hosts{addrs: map[string][]string{"server.example": {"10.0.0.1"}, "intra.example": {"10.0.0.5"}}}
	hc := &http.Client{Transport: h.transport(t, "https://server.example/mcp")}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if err := GetJSON(t.Context(), hc, "https://"+[]string{"server", "intra"}[i%2]+".example/", &struct{}{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCheckNamed(t *testing.T) {
	for _, tc := range []struct {
		server, at string // and where it is
		raw        string
		ok         bool
	}{
		{"https://mcp.example/", "10.0.0.1", "https://10.0.0.2/auth", true},
		{"https://mcp.example/", "10.0.0.1", "https://sso.internal/auth", true},
		{"https://mcp.example/", "10.0.0.1", "http://127.0.0.1/auth", false},
		{"https://mcp.example/", "10.0.0.1", "http://10.0.0.2/auth", false},
		{"https://mcp.example/", "203.0.113.1", "https://10.0.0.2/auth", false},
		{"https://mcp.example/", "203.0.113.1", "https://sso.internal/auth", false},
		{"https://mcp.example/", "203.0.113.1", "https://as.example/auth", true},
		{"https://mcp.example/", "10.9.9.9", "https://10.0.0.2/auth", false},
	} {
		h := &hosts{alien: "10.9.9.9", addrs: map[string][]string{"mcp.example": {tc.at}}}
		u, err := CheckNamed(t.Context(), &http.Client{Transport: h.transport(t, tc.server)}, tc.raw, tc.server)
		if (err == nil) != tc.ok || tc.ok && u.String() != tc.raw {
			t.Errorf("%s at %s names %s: %v, %v", tc.server, tc.at, tc.raw, u, err)
		}
		if _, err := CheckNamed(t.Context(), http.DefaultClient, tc.raw, tc.server); (err == nil) != (tc.raw == "https://as.example/auth") {
			t.Errorf("with another transport, %s: %v", tc.raw, err)
		}
	}
}

func TestGuardFollowsRedirects(t *testing.T) {
	h := &hosts{addrs: map[string][]string{"public.example": {"203.0.113.1"}, "intra.example": {"10.0.0.1"}}}
	tr := h.transport(t, "https://public.example/")
	hc := &http.Client{Transport: testenv.RoundTripper(func(r *http.Request) (*http.Response, error) {
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

// proxyChild is set in a process that runs one test again, with a proxy in its environment. Such a
// process is no child of testenv: its checks need a [testing.T].
const proxyChild = "OAUTHHTTP_TEST_PROXY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(proxyChild) == "" { // the proxy of whoever runs the tests is none of ours
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
			os.Unsetenv(name)
			os.Unsetenv(strings.ToLower(name))
		}
	}
	testenv.SideBySide(4)
	os.Exit(m.Run())
}

// A proxy is often in the private network, and what is reached through it is not.
func TestGuardBehindAProxy(t *testing.T) {
	if target := os.Getenv(proxyChild); target != "" {
		hc := NewClient("https://example.com/mcp")
		if err := GetJSON(t.Context(), hc, "https://example.com/mcp", &struct{}{}); err != nil {
			t.Fatal(err)
		}
		var private *PrivateAddressError
		if err := GetJSON(t.Context(), hc, target, &struct{}{}); !errors.As(err, &private) {
			t.Errorf("a host that is asked without the proxy: %v", err)
		}
		if hc.Transport.(*Transport).Intranet(t.Context()) {
			t.Error("the proxy counts as the server")
		}
		return
	}
	h := &hosts{}
	h.transport(t, "") // for its server
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up, err := net.Dial("tcp", h.srv.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, down); up.Close() }()
		_, _ = io.Copy(down, up)
		down.Close()
	}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuardBehindAProxy$")
	cmd.Env = append(os.Environ(), proxyChild+"="+h.srv.URL, "HTTPS_PROXY="+proxy.URL, "SSL_CERT_FILE="+roots)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
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
		for _, host := range []string{
			"2852039166", "0xa9fea9fe", "0xA9.254.169.254", "0251.0376.0251.0376", "169.254.43518", "127.1", "0", "0x", "10.0.0.1.", "10.1.", "127.0.0.1.",
			"１６９.２５４.１６９.２５４", "169。254。169。254", "①⓪.0.0.1", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a00:1]", "[fd00::1]", "[fe80::1%25eth0]", "[2a00::5efe:a00:1]",
			"sub.localhost", "localhost.", "ｌocalhost", "router.local", "metadata.google.internal", "intranet", "vault.test", "nas.home.arpa",
			"a..example", ".example", "a%E3%80%82%E3%80%82b",
		} {
			var none *URLError
			if err := GetJSON(t.Context(), hc, "https://"+host+"/", &struct{}{}); !errors.As(err, &private) && !errors.As(err, &none) {
				t.Errorf("%s: %v", host, err)
			}
			resp, err := hc.Transport.RoundTrip(httptest.NewRequest("GET", "https://"+host+"/", nil))
			if err == nil {
				resp.Body.Close()
			}
			if !errors.As(err, &private) && !errors.As(err, &none) {
				t.Errorf("%s: %v", host, err)
			}
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
