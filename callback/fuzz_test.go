package callback_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/callback"
)

// recorder starts a wait that never decides, and returns what reached its check.
func recorder(f *testing.F, config callback.Config, pasted <-chan string) (*callback.Listener, <-chan url.Values) {
	l, err := callback.Listen(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	checked := make(chan url.Values, 1)
	go func() {
		_ = l.Wait(context.Background(), func(_ context.Context, v url.Values) error {
			checked <- v
			return callback.ErrIgnored
		}, pasted)
	}()
	return l, checked
}

func equal(a, b url.Values) bool { return maps.EqualFunc(a, b, slices.Equal) }

// requests is a listener without a socket, so that a request takes microseconds.
type requests chan *request

func (r requests) Accept() (net.Conn, error) {
	if c, ok := <-r; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (requests) Close() error   { return nil }
func (requests) Addr() net.Addr { return &net.TCPAddr{} }

// A request is a connection on which all was sent.
type request struct {
	sent io.Reader
	page bytes.Buffer
	end  func()
}

func (r *request) Read(p []byte) (int, error)       { return r.sent.Read(p) }
func (r *request) Write(p []byte) (int, error)      { return r.page.Write(p) }
func (r *request) CloseWrite() error                { r.end(); return nil }
func (r *request) Close() error                     { r.end(); return nil }
func (r *request) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r *request) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *request) SetDeadline(time.Time) error      { return nil }
func (r *request) SetReadDeadline(time.Time) error  { return nil }
func (r *request) SetWriteDeadline(time.Time) error { return nil }

// wellFormed is what a browser sends, at its shortest.
var wellFormed = regexp.MustCompile(`^GET /callback(\?[!-~]*)? HTTP/1\.[01]\r\nHost: HOST\r\n\r\n$`)

// FuzzRequest holds that check sees a request's query only where the request
// line is GET and the exact path, and the Host header is ours; then it sees
// all of it, and nothing else; and that no page shows anything of a request.
func FuzzRequest(f *testing.F) {
	const canary = "code-of-this-sign-in"
	for _, request := range []string{
		"GET /callback?state=right&code=" + canary + " HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback?state=right&session_state=6a1f&iss=https%3A%2F%2Fauth.example.com%2Frealms%2Fx&code=0a1b.6a1f.9c2d HTTP/1.1\r\nHost: HOST\r\nCookie: a=b\r\nAccept: text/html\r\nConnection: keep-alive\r\n\r\n",
		"GET /callback?error=access_denied&error_description=" + canary + " HTTP/1.1\r\nhost:HOST\r\n\r\n",
		"GET /callback HTTP/1.0\r\nHost: HOST\r\n\r\n",
		"GET //callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET http://HOST/callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback/../callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /%63allback?state=%zz HTTP/1.1\r\nHost: evil.example\r\nHost: HOST\r\n\r\n",
		"GET /callback?state=right HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET /callback?state=right HTTP/1.1\r\nHost: HOST.evil.example\r\n\r\n",
		"GET /callback?state=right HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"GET /callback?state=right HTTP/1.1\r\nHost: evil.example\r\n X: HOST\r\n\r\n",
		"GET /callback?state=right HTTP/1.1\r\nX: a\r\n Host: HOST\r\n\r\n",
		"GET /callback?code=%zz HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback?a;b HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback?state=right#" + canary + " HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"get /callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"HEAD /callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"CONNECT /callback HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST /callback?a;b HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na=b&c\r\n0\r\n\r\nGET /callback?x",
		"GET /callback?1 HTTP/1.1\r\nHost: HOST\r\n\r\nGET /callback?2 HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"\r\n\r\nGET /callback?\x00 HTTP/1.1\nHost:HOST\n\n",
	} {
		f.Add(request)
	}
	l, checked := recorder(f, callback.Config{}, nil)
	conns := make(requests)
	go l.Serve(conns)
	f.Cleanup(func() { close(conns) })
	host := authority(l)

	f.Fuzz(func(t *testing.T, text string) {
		sent := strings.ReplaceAll(text, "HOST", host)
		ended := make(chan struct{})
		r := &request{sent: strings.NewReader(sent), end: sync.OnceFunc(func() { close(ended) })}
		conns <- r
		<-ended
		page := r.page.String()
		if strings.Contains(page, canary) {
			t.Errorf("the page shows what was sent: %s", page)
		}

		var got url.Values
		select {
		case got = <-checked:
		default:
			if m := wellFormed.FindStringSubmatch(text); m != nil {
				if _, err := url.ParseQuery(strings.TrimPrefix(m[1], "?")); err == nil && len(m[1]) < 16<<10 {
					t.Errorf("check was not called for %q", text)
				}
			}
			return
		}
		line, header, _ := strings.Cut(sent, "\n")
		target, ok := strings.CutPrefix(line, "GET /callback")
		target, _, found := strings.Cut(target, " ")
		if !ok || !found || target != "" && target[0] != '?' {
			t.Fatalf("check was called for %q", line)
		}
		if want, err := url.ParseQuery(strings.TrimPrefix(target, "?")); err != nil || !equal(got, want) {
			t.Errorf("check got %q, want %q (%v)", got, want, err)
		}
		hosts := 0
		for line := range strings.Lines(header) {
			name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
			if name == "" {
				break
			}
			if strings.EqualFold(name, "Host") {
				hosts++
				if !strings.EqualFold(strings.Trim(value, " \t"), host) {
					t.Errorf("check was called for %q", line)
				}
			}
		}
		if hosts != 1 {
			t.Errorf("check was called with %d hosts: %q", hosts, sent)
		}
	})
}

// FuzzPasted holds that check sees a pasted address only if its path is exact,
// and then its whole query and no other, so that none with a foreign state is
// taken for ours; that every address with the exact path and a good query gets
// there; and that what does not is reported without its words.
func FuzzPasted(f *testing.F) {
	for _, s := range []string{
		"http://127.0.0.1:20000/callback?state=right&code=good",
		"http://127.0.0.1:20000/callback?state=right&session_state=6a1f&iss=https%3A%2F%2Fauth.example.com%2Frealms%2Fx&code=0a1b.6a1f.9c2d",
		"http://127.0.0.1:20000/callback?error=access_denied&error_description=User+denied+access&state=right#_=_",
		"http://localhost/callback?state=right#x", "http://localhost/callback?state=left#?state=right", "http://localhost/x?/callback?state=right",
		"http://localhost/callback?state=left?state=right", "http://x@localhost/callback?state=right",
		"localhost:3142/callback?code=good", "[::1]:3142/callback?code=good",
		"https://evil.example/callback/?code=good", "https://evil.example/callback%3fstate=right", "http:/callback?state=right", "http:////callback?state=right",
		"?state=right;code=good", "?state=right&code=good", "state=right&code=good#x", "state=right&state=left",
		"iss=https://auth.example/realms/x?y&state=right",
		"//callback?x=1", "/callback?x=1", "a=%zz", "=", "?", "/", "#", "state=\xff",
	} {
		f.Add(s)
	}
	pasted := make(chan string)
	ignored := make(chan error, 1)
	_, checked := recorder(f, callback.Config{OnIgnored: func(err error) { ignored <- err }}, pasted)
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.TrimSpace(s)
		if s == "" {
			return
		}
		pasted <- s
		err := <-ignored // the check, too, ends in ErrIgnored
		var got url.Values
		select {
		case got = <-checked:
		default:
		}
		if !errors.Is(err, callback.ErrIgnored) {
			t.Errorf("OnIgnored(%v)", err)
		}
		if len(s) > 60 && strings.Contains(err.Error(), s[20:60]) {
			t.Errorf("the error shows what was pasted: %v", err)
		}
		u, perr := url.Parse(s)
		if perr != nil || u.Scheme == "" || u.Host == "" {
			// No whole address: a query alone, or what follows a path.
			beforeFragment, _, _ := strings.Cut(s, "#")
			_, after, _ := strings.Cut(beforeFragment, "?")
			for _, query := range []string{s, strings.TrimPrefix(s, "?"), after} {
				if want, err := url.ParseQuery(query); err == nil && equal(got, want) {
					return
				}
			}
			if got != nil {
				t.Errorf("check got %q", got)
			}
			return
		}
		want, qerr := url.ParseQuery(u.RawQuery)
		switch exact := u.EscapedPath() == "/callback"; {
		case !exact && got != nil:
			t.Errorf("check was called for the path %q", u.EscapedPath())
		case exact && qerr == nil && len(s) < 16<<10 && got == nil:
			t.Errorf("check was not called: %v", err)
		case got != nil && !equal(got, want):
			t.Errorf("check got %q, want %q", got, want)
		}
	})
}
