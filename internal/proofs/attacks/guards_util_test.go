package attacks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// A guardNet is an Internet of a test's own: names, which an attacker answers for as it likes; the
// attacker's public server; and a private network, all of whose hosts are one server with a trusted
// certificate for each of them. All connections are real ones, to loopback; what is dialled is told
// apart before that.
type guardNet struct {
	t       *testing.T
	roots   *x509.CertPool
	servers map[string]*httptest.Server // "public", "private"

	mu       sync.Mutex
	names    map[string][]string // addresses
	answers  map[string][]byte   // of the public server, by host and path
	public   map[string]bool     // the addresses of the public server
	requests map[string]int      // by server
	conns    map[string]int
}

// newGuardNet has server.example and as.example at public addresses, and intra.example at a
// private one. Literals are addresses that the private network has a certificate for.
func newGuardNet(t *testing.T, literals ...string) *guardNet {
	return newGuardNetWith(t, []string{"intra.example"}, literals)
}

// newGuardNetWith has certificates for these names in the private network.
func newGuardNetWith(t *testing.T, names, literals []string) *guardNet {
	t.Helper()
	g := &guardNet{
		t: t, roots: x509.NewCertPool(), servers: map[string]*httptest.Server{},
		names:    map[string][]string{"server.example": {"203.0.113.1"}, "as.example": {"203.0.113.2"}, "intra.example": {"10.0.0.5"}},
		public:   map[string]bool{"203.0.113.1": true, "203.0.113.2": true},
		answers:  map[string][]byte{},
		requests: map[string]int{}, conns: map[string]int{},
	}
	g.roots.AddCert(guardCA().cert)
	g.servers["public"] = g.start("public", []string{"server.example", "as.example", "relay.example"}, nil)
	g.servers["private"] = g.start("private", names, literals)
	return g
}

type guardAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// guardCA is trusted by whoever is attacked here.
var guardCA = sync.OnceValue(func() guardAuthority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "attacks"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return guardAuthority{cert, key}
})

// guardCertificate is for names and addresses.
func guardCertificate(t *testing.T, names, addresses []string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range addresses {
		if addr, err := netip.ParseAddr(a); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.WithZone("").AsSlice()))
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, guardCA().cert, key.Public(), guardCA().key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (g *guardNet) start(which string, names, addresses []string) *httptest.Server {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.requests[which]++
		body := g.answers[r.Host+r.URL.Path]
		g.mu.Unlock()
		if location, ok := strings.CutPrefix(string(body), "redirect "); ok {
			http.Redirect(w, r, location, http.StatusTemporaryRedirect)
			return
		}
		if body == nil {
			body = []byte(`{}`)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{guardCertificate(g.t, names, addresses)}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	g.t.Cleanup(srv.Close)
	return srv
}

// serve has the public server answer for host with documents by path.
func (g *guardNet) serve(host string, documents map[string]any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for path, d := range documents {
		body, ok := d.(string)
		if !ok {
			data, err := json.Marshal(d)
			if err != nil {
				g.t.Fatal(err)
			}
			body = string(data)
		}
		g.answers[host+path] = []byte(body)
	}
}

// move has the attacker's name server answer so from now on.
func (g *guardNet) move(name string, addresses ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names[name] = addresses
}

// count is how many requests a server got; dialled how often it was connected to.
func (g *guardNet) count(which string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests[which]
}

func (g *guardNet) dialled(which string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[which]
}

func (g *guardNet) transport(server string) *oauthhttp.Transport {
	tr := &oauthhttp.Transport{
		Server: server,
		TLS:    &tls.Config{RootCAs: g.roots},
		Resolve: func(_ context.Context, host string) (addrs []netip.Addr, err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, a := range g.names[host] {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			if addrs == nil {
				err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			return addrs, err
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			g.mu.Lock()
			which := "private"
			if g.public[host] {
				which = "public"
			}
			g.conns[which]++
			to := g.servers[which].Listener.Addr().String()
			g.mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	}
	g.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (g *guardNet) client(server string) *http.Client {
	return &http.Client{Transport: g.transport(server), Timeout: 20 * time.Second}
}

const guardAddress = "ATTACKS_GUARD_ADDRESS"

// TestGuardBehindAProxy is the process of [guardProxied], whose environment names a proxy.
func TestGuardBehindAProxy(t *testing.T) {
	address := os.Getenv(guardAddress)
	if address == "" {
		return // there is nothing to do in any other process
	}
	hc := oauthhttp.NewClient("https://server.example/mcp")
	err := oauthhttp.GetJSON(t.Context(), hc, address, &struct{}{})
	fmt.Println("outcome:", openedOutcome(err))
	// And without looking at the address before, as a program's own request comes along.
	u, err := url.Parse(address)
	if err != nil {
		return
	}
	resp, err := hc.Transport.RoundTrip((&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}}).WithContext(t.Context()))
	if err == nil {
		resp.Body.Close()
	}
}

// guardProxied has a process request the address through a proxy. It returns the outcome and the
// requests that reached the proxy.
func guardProxied(t *testing.T, address string) (outcome string, asked []string) {
	t.Helper()
	var mu sync.Mutex
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.Host)
		mu.Unlock()
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuardBehindAProxy$", "-test.v")
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(strings.ToUpper(e), "="); name != "HTTP_PROXY" && name != "HTTPS_PROXY" && name != "NO_PROXY" && name != "REQUEST_METHOD" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, guardAddress+"="+address, "HTTPS_PROXY="+proxy.URL, "HTTP_PROXY="+proxy.URL)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, outcome, ok := strings.Cut(string(out), "outcome: ")
	if !ok {
		t.Fatalf("no outcome:\n%s", out)
	}
	outcome, _, _ = strings.Cut(outcome, "\n")
	return outcome, asked
}

const guardSteps = "ATTACKS_GUARD_STEPS"

// TestGuardInANetwork is the process of [guardInANetwork]: it is alone in a network of its own,
// with public and private addresses, and the name server of that is the attacker's.
func TestGuardInANetwork(t *testing.T) {
	steps := os.Getenv(guardSteps)
	if steps == "" {
		return // there is nothing to do in any other process
	}
	g := newGuardNet(t, "10.0.0.5")
	g.lookups(t)
	for address, which := range map[string]string{"203.0.113.1": "public", "10.0.0.5": "private", "10.9.9.9": "private"} {
		ln, err := net.Listen("tcp", address+":443")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: g.servers[which].Config.Handler, TLSConfig: g.servers[which].TLS.Clone(), ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = srv.ServeTLS(ln, "", "") }()
		t.Cleanup(func() { _ = srv.Close() })
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: guardCA().cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	hc := oauthhttp.NewClient("https://server.example/mcp")
	var err error
	moved := false
	for step := range strings.FieldsSeq(steps) {
		if to, ok := strings.CutPrefix(step, "move="); ok {
			moved = true
			g.move("server.example", strings.Split(to, ",")...)
			hc.CloseIdleConnections()
			continue
		}
		err = oauthhttp.GetJSON(t.Context(), hc, step, &struct{}{})
		if err != nil && !moved && step == "https://server.example/mcp" {
			t.Fatal(err)
		}
	}
	fmt.Printf("outcome: %s, with %d requests to private hosts\n", openedOutcome(err), g.count("private"))
}

// lookups serves the names of g to the resolver of the system (RFC 1035 §4).
func (g *guardNet) lookups(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var labels []string
			i := 12
			for ; i < n && buf[i] != 0; i += 1 + int(buf[i]) {
				labels = append(labels, string(buf[i+1:i+1+int(buf[i])]))
			}
			question := buf[12 : i+5]
			wanted := binary.BigEndian.Uint16(buf[i+1:])
			var records []byte
			count := 0
			g.mu.Lock()
			for _, a := range g.names[strings.ToLower(strings.Join(labels, "."))] {
				addr := netip.MustParseAddr(a)
				if kind := map[bool]uint16{true: 1, false: 28}[addr.Is4()]; kind == wanted {
					records = append(records, 0xc0, 12)
					records = binary.BigEndian.AppendUint16(records, kind)
					records = append(records, 0, 1, 0, 0, 0, 0, 0, byte(len(addr.AsSlice())))
					records = append(records, addr.AsSlice()...)
					count++
				}
			}
			g.mu.Unlock()
			answer := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, byte(count), 0, 0, 0, 0}, question...)
			_, _ = conn.WriteTo(append(answer, records...), from)
		}
	}()
}

// guardInANetwork has a process in a network of its own take the steps: addresses to ask for, and
// move=ADDRESS,… of server.example. It returns what became of the last one.
func guardInANetwork(t *testing.T, steps string) string {
	t.Helper()
	testenv.Need(t, "network namespaces", exec.Command("unshare", "-rnm", "ip", "link", "set", "lo", "up").Run() == nil, "unshare or ip cannot make a network")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-rnm", "sh", "-ec",
		`mount --bind "$1" /etc/resolv.conf; ip link set lo up; for a in 203.0.113.1 10.0.0.5 10.9.9.9; do ip addr add $a/32 dev lo; done; shift; exec "$@"`,
		"sh", resolv, os.Args[0], "-test.run=^TestGuardInANetwork$", "-test.v")
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(strings.ToUpper(e), "="); name != "HTTP_PROXY" && name != "HTTPS_PROXY" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, guardSteps+"="+steps)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, outcome, ok := strings.Cut(string(out), "outcome: ")
	if !ok {
		t.Fatalf("no outcome:\n%s", out)
	}
	outcome, _, _ = strings.Cut(outcome, "\n")
	return outcome
}
