package discovery_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Pages are the handlers of URLs. Any other URL is answered with 404.
type pages map[string]http.HandlerFunc

// doc serves a JSON document.
func doc(body string) http.HandlerFunc { return page(200, "application/json", body) }

func page(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // net/http notices only afterwards that the client has gone
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

func file(t testing.TB, name string) http.HandlerFunc {
	body, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return doc(string(body))
}

// with returns p, changed by more. A nil handler takes a page away.
func (p pages) with(more pages) pages {
	out := pages{}
	for _, m := range []pages{p, more} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// start serves p, for every host, over TLS on one loopback port. The client hc
// sends all requests there, and requests lists their URLs in order.
func (p pages) start() (hc *http.Client, requests func() []string, stop func()) {
	var mu sync.Mutex
	var seen []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		u := "https://" + r.Host + r.URL.RequestURI()
		mu.Lock()
		seen = append(seen, u)
		mu.Unlock()
		if h := p[u]; h != nil {
			h(rw, r)
			return
		}
		http.NotFound(rw, r)
	}))
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	hc = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		},
		// Answers of 404 are not read, so their connections are not used again. New ones resume a session.
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", ClientSessionCache: tls.NewLRUClientSessionCache(1)},
	}}
	return hc, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}, srv.Close
}

func (p pages) serve(t testing.TB) (hc *http.Client, requests func() []string) {
	hc, requests, stop := p.start()
	t.Cleanup(stop)
	return hc, requests
}

const (
	server  = "https://api.example.com/mcp"
	root    = "https://api.example.com/.well-known/oauth-protected-resource"
	path    = root + "/mcp"
	issuer  = "https://auth.example.com/realms/x"
	rfc8414 = "https://auth.example.com/.well-known/oauth-authorization-server/realms/x"
	insert  = "https://auth.example.com/.well-known/openid-configuration/realms/x"
	oidc    = issuer + "/.well-known/openid-configuration"

	resourceDoc = `{"resource": "` + server + `", "authorization_servers": ["` + issuer + `"], "scopes_supported": ["read", "write"]}`
	serverDoc   = `{"issuer": "` + issuer + `", "authorization_endpoint": "` + issuer + `/auth", "token_endpoint": "` + issuer + `/token",
		"registration_endpoint": "` + issuer + `/clients", "revocation_endpoint": "` + issuer + `/revoke", "code_challenge_methods_supported": ["plain", "S256"]}`
)

// good has no fault.
var good = pages{path: doc(resourceDoc), rfc8414: doc(serverDoc)}

// but replaces the first old in a document by new.
func but(s, old, new string) http.HandlerFunc {
	if !strings.Contains(s, old) {
		panic("nothing to replace: " + old)
	}
	return doc(strings.Replace(s, old, new, 1))
}
