package oauthhttp

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// A spy is a body that counts what was read and knows whether it was closed.
type spy struct {
	io.Reader
	read   int
	closed func() error
}

func (s *spy) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read += n
	return n, err
}

func (s *spy) Close() error { return s.closed() }

func TestDrain(t *testing.T) {
	for _, test := range []struct {
		name        string
		size, reads int
	}{
		{"short", 1000, 1000},
		{"long", 1 << 20, maxDrain},
	} {
		t.Run(test.name, func(t *testing.T) {
			closed := false
			body := &spy{Reader: strings.NewReader(strings.Repeat("x", test.size)), closed: func() error { closed = true; return nil }}
			Drain(&http.Response{Body: body})
			if body.read != test.reads || !closed {
				t.Errorf("read %d bytes, closed %v, want %d and true", body.read, closed, test.reads)
			}
		})
	}
	t.Run("that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			begun := time.Now()
			Drain(&http.Response{Body: r})
			if took := time.Since(begun); took != drainTime {
				t.Errorf("took %v, want %v", took, drainTime)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("write after it: %v, want a closed body", err)
			}
		})
	})
}

func TestBoundedKeepsADeadline(t *testing.T) {
	ctx, cancel := bounded(t.Context())
	defer cancel()
	if at, ok := ctx.Deadline(); !ok || time.Until(at) > requestTimeout {
		t.Errorf("deadline %v, %v", at, ok)
	}
	long, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if ctx, _ := bounded(long); ctx != long {
		t.Error("the caller's deadline is replaced")
	}
}

// A date is one of the server's clock, which here is two days ahead of ours;
// where the server does not say what time it is, ours has to do.
func TestRetryAfter(t *testing.T) {
	theirs, ours := time.Now().Add(48*time.Hour), clock.Now()
	date := func(at time.Time) string { return at.UTC().Format(http.TimeFormat) }
	for _, tc := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", date(theirs), 0},
		{"7", date(theirs), 7 * time.Second},
		{"0", date(theirs), 0},
		{"-7", date(theirs), 0},
		{"soon", date(theirs), 0},
		{"999999", date(theirs), time.Hour},
		{"99999999999999999999", date(theirs), 0},
		{date(theirs.Add(10 * time.Minute)), date(theirs), 10 * time.Minute},
		{date(theirs.Add(-time.Minute)), date(theirs), 0},
		{date(theirs.Add(24 * time.Hour)), date(theirs), time.Hour},
		{date(ours.Add(10 * time.Minute)), "", 10 * time.Minute},
	} {
		h := http.Header{"Date": nil} // not sent
		if tc.date != "" {
			h.Set("Date", tc.date)
		}
		if tc.value != "" {
			h.Set("Retry-After", tc.value)
		}
		_, err := RequestToken(t.Context(), nil, answer(t, 429, h, ""), refreshForm(), public("c"))
		if e := wantOutcome(t, err, Refused); (e.RetryAfter - tc.want).Abs() > 5*time.Second {
			t.Errorf("Retry-After %q: %v, want %v", tc.value, e.RetryAfter, tc.want)
		}
	}
}

// raw listens on loopback and hands each connection to serve, which decides
// where the conversation ends.
func raw(t *testing.T, serve func(net.Conn)) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

// read reads one request.
func read(c net.Conn) (ok bool) { return readFrom(bufio.NewReader(c)) }

func readFrom(br *bufio.Reader) (ok bool) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

func TestOutcomeByWhereTheConnectionEnds(t *testing.T) {
	nobody := raw(t, func(net.Conn) {})
	port, err := testenv.FreePort() // none that a server of this test could get
	if err != nil {
		t.Fatal(err)
	}
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close) // after the parallel subtests

	says := func(text string) string {
		return raw(t, func(c net.Conn) {
			if read(c) {
				_, _ = io.WriteString(c, text)
			}
		})
	}
	for name, tc := range map[string]struct {
		endpoint string
		want     Outcome
		status   int
	}{
		"nobody listens":                       {"http://127.0.0.1:" + port, NotSent, 0},
		"no such host":                         {"https://token.invalid", NotSent, 0},
		"closed in the handshake":              {"https://" + nobody, NotSent, 0},
		"certificate of nobody":                {untrusted.URL, NotSent, 0},
		"plain text where TLS is due":          {"https://" + raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 No\r\n\r\n") }), NotSent, 0},
		"http to elsewhere":                    {"http://192.0.2.1", NotSent, 0},
		"closed after accept":                  {"http://" + nobody, Unknown, 0},
		"closed after the request":             {"http://" + says(""), Unknown, 0},
		"closed in the status line":            {"http://" + says("HTTP/1.1 20"), Unknown, 0},
		"closed in the headers":                {"http://" + says("HTTP/1.1 200 OK\r\nContent-Le"), Unknown, 0},
		"not HTTP":                             {"http://" + says("SSH-2.0-x\r\n\r\n"), Unknown, 0},
		"closed before the body":               {"http://" + says("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"), Unknown, 200},
		"closed in the body":                   {"http://" + says("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"+goodAnswer[:50]), Unknown, 200},
		"closed in a chunk":                    {"http://" + says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{"), Unknown, 200},
		"closed in the body of an error":       {"http://" + says("HTTP/1.1 400 No\r\nContent-Length: 90\r\n\r\n{"), Refused, 400},
		"redirect to what is no address":       {"http://" + says("HTTP/1.1 307 Go\r\nLocation: http://[::secret\r\nContent-Length: 0\r\n\r\n"), Refused, 307},
		"closed in the body of a server error": {"http://" + says("HTTP/1.1 502 No\r\nContent-Length: 90\r\n\r\n{"), Unknown, 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hc := &http.Client{Transport: &Transport{TLS: &tls.Config{ServerName: "x.example"}, Resolve: noResolver}}
			defer hc.CloseIdleConnections()
			_, err := RequestToken(t.Context(), hc, tc.endpoint, refreshForm(), public("c"))
			if e := wantOutcome(t, err, tc.want); e.Status != tc.status {
				t.Errorf("status %d, want %d: %v", e.Status, tc.status, err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error shows what was sent: %v", err)
			}
		})
	}
}

func noResolver(_ context.Context, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// due is a context whose time is over, and whose timer has not fired yet.
type due struct{ context.Context }

func (due) Deadline() (time.Time, bool) { return time.Now(), true }

func TestNothingIsSentAfterTheDeadline(t *testing.T) {
	server := "http://" + raw(t, func(c net.Conn) {
		if read(c) {
			t.Error("it was sent")
		}
	})
	err := Revoke(due{t.Context()}, nil, server, "a token", "refresh_token", public("c"))
	wantOutcome(t, err, NotSent)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want context.DeadlineExceeded", err)
	}
}

func TestOutcomeOfACancelledRequest(t *testing.T) {
	t.Parallel() // it waits for deadlines
	got := make(chan struct{}, 1)
	silent := "http://" + raw(t, func(c net.Conn) {
		if read(c) {
			got <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		}
	})
	slow := "http://" + raw(t, func(c net.Conn) {
		if read(c) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
			got <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		}
	})
	for name, endpoint := range map[string]string{"before the answer": silent, "in the body": slow} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-got; cancel() }()
			_, err := RequestToken(ctx, nil, endpoint, refreshForm(), public("c"))
			wantOutcome(t, err, Unknown)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := RequestToken(ctx, nil, silent, refreshForm(), public("c"))
		wantOutcome(t, err, Unknown)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want context.DeadlineExceeded", err)
		}
	})
	t.Run("timeout of the client", func(t *testing.T) {
		t.Parallel()
		_, err := RequestToken(t.Context(), &http.Client{Timeout: time.Second}, silent, refreshForm(), public("c"))
		wantOutcome(t, err, Unknown)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want context.DeadlineExceeded", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := RequestToken(ctx, nil, silent, refreshForm(), public("c"))
		wantOutcome(t, err, NotSent)
	})
	t.Run("in the dial", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hc := &http.Client{Transport: &Transport{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}}}
		_, err := RequestToken(ctx, hc, "https://203.0.113.1", refreshForm(), public("c"))
		wantOutcome(t, err, NotSent)
	})
}

func TestOutcomeUnderHTTP2(t *testing.T) {
	t.Parallel() // it waits for deadlines
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _ = io.Copy(io.Discard, r.Body); r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, goodAnswer)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	for _, name := range []string{"new connection", "connection in use"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			roots := x509.NewCertPool()
			roots.AddCert(srv.Certificate())
			hc := &http.Client{Transport: &Transport{TLS: &tls.Config{RootCAs: roots}}}
			defer hc.CloseIdleConnections()
			if name == "connection in use" {
				if _, err := RequestToken(t.Context(), hc, srv.URL, refreshForm(), public("c")); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := RequestToken(ctx, hc, srv.URL+"/hang", refreshForm(), public("c"))
			wantOutcome(t, err, Unknown)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want context.DeadlineExceeded", err)
			}
		})
	}
}

func TestOutcomeUnderARoundTripperWithoutTrace(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want Outcome
	}{
		"dial":            {&net.OpError{Op: "dial", Err: errors.New("x")}, NotSent},
		"DNS":             {fmt.Errorf("wrapped: %w", &net.DNSError{}), NotSent},
		"certificate":     {&tls.CertificateVerificationError{Err: errors.New("x")}, NotSent},
		"not TLS":         {tls.RecordHeaderError{Msg: "x"}, NotSent},
		"private address": {&PrivateAddressError{}, NotSent},
		"read":            {&net.OpError{Op: "read", Err: errors.New("x")}, Unknown},
		"end of file":     {io.EOF, Unknown},
		"deadline":        {context.DeadlineExceeded, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			hc := &http.Client{Transport: testenv.RoundTripper(func(*http.Request) (*http.Response, error) { return nil, tc.err })}
			_, err := RequestToken(t.Context(), hc, "https://as.example/token", refreshForm(), public("c"))
			wantOutcome(t, err, tc.want)
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v does not wrap %v", err, tc.err)
			}
		})
	}
}

func TestNothingIsSentTwice(t *testing.T) {
	// A connection that dies under its second request, before or after that
	// request was read: where net/http may replay a body it sends it again.
	t.Run("stale connection, request read", func(t *testing.T) {
		var requests atomic.Int32
		endpoint := "http://" + raw(t, func(c net.Conn) {
			for br := bufio.NewReader(c); readFrom(br); {
				if requests.Add(1) == 2 {
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(goodAnswer), goodAnswer)
			}
		})
		hc := NewClient("")
		defer hc.CloseIdleConnections()
		if _, err := RequestToken(t.Context(), hc, endpoint, refreshForm(), public("c")); err != nil {
			t.Fatal(err)
		}
		_, err := RequestToken(t.Context(), hc, endpoint, refreshForm(), public("c"))
		wantOutcome(t, err, Unknown)
		if n := requests.Load(); n != 2 {
			t.Errorf("%d requests for 2 calls", n)
		}
	})
	t.Run("stale connection, nothing written", func(t *testing.T) {
		var requests, dials atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			requests.Add(1)
			_, _ = io.WriteString(w, goodAnswer)
		}))
		defer srv.Close()
		var broken atomic.Bool
		hc := &http.Client{Transport: &Transport{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return &breaking{c, &broken}, err
		}}}
		defer hc.CloseIdleConnections()
		if _, err := RequestToken(t.Context(), hc, srv.URL, refreshForm(), public("c")); err != nil {
			t.Fatal(err)
		}
		broken.Store(true)
		if _, err := RequestToken(t.Context(), hc, srv.URL, refreshForm(), public("c")); err == nil {
			t.Error("a dead connection went unnoticed")
		}
		if n, d := requests.Load(), dials.Load(); n != 1 || d != 1 {
			t.Errorf("%d requests over %d connections, want 1 over 1", n, d)
		}
	})
	t.Run("redirect that keeps the method", func(t *testing.T) {
		var hits atomic.Int32
		target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hits.Add(1) }))
		defer target.Close()
		endpoint := answer(t, 307, http.Header{"Location": {target.URL}}, "")
		_, err := RequestToken(t.Context(), nil, endpoint, refreshForm(), public("c"))
		if wantOutcome(t, err, Refused); !errors.Is(err, ErrRedirect) || hits.Load() != 0 {
			t.Errorf("error %v, %d requests at the target", err, hits.Load())
		}
	})
}

type breaking struct {
	net.Conn
	broken *atomic.Bool
}

func (c *breaking) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}
