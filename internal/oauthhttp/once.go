package oauthhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
)

const (
	maxBody       = 1 << 20
	maxRetryAfter = time.Hour

	maxDrain  = 64 << 10
	drainTime = 100 * time.Millisecond
)

var (
	// ErrTooLarge is a body of more than 1 MiB.
	ErrTooLarge = errors.New("answer is larger than 1 MiB")
	// ErrRedirect is a redirect that is not followed.
	ErrRedirect = errors.New("redirect not followed")
)

// newRequest makes a request that net/http sends at most once. Without GetBody it
// cannot send the body again, on a stale connection or after a 307, and returns
// an error.
func newRequest(ctx context.Context, method string, u *url.URL, contentType string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.GetBody = nil
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	return req, nil
}

// sendOnce sends req, which [newRequest] made, and follows no redirect. Its errors do not show the
// address.
func sendOnce(hc *http.Client, req *http.Request) (*http.Response, error) {
	c := *clientOr(hc)
	c.Transport = stay{c.Transport}
	resp, err := c.Do(req)
	return resp, WithoutURL(err)
}

// stay removes Location from a redirect, so that http.Client has nothing to
// follow. CheckRedirect would come too late: if Location is not a URL,
// http.Client returns an error before it asks, and the status is lost.
type stay struct{ next http.RoundTripper }

func (s stay) RoundTrip(r *http.Request) (*http.Response, error) {
	next := s.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err == nil && resp.StatusCode/100 == 3 {
		resp.Header.Del("Location")
	}
	return resp, err
}

// clientOr returns hc, or the shared client if hc is nil.
func clientOr(hc *http.Client) *http.Client {
	if hc == nil {
		return defaultClient()
	}
	return hc
}

// bounded adds a deadline to a context that has none: a caller's client may have
// no timeout.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// expired reports a deadline that has passed by the clock, even if its timer has not fired yet.
func expired(ctx context.Context) error {
	if at, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// WithoutURL returns an error of net/http without the address that it names,
// since the query of an address may be private.
func WithoutURL(err error) error {
	for u := (*url.Error)(nil); errors.As(err, &u); {
		err = u.Err
	}
	return err
}

// readBody reads at most maxBody bytes. With an error of the connection it returns what came before.
func readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		return nil, ErrTooLarge
	}
	return body, err
}

// RetryAfter returns the time that the header Retry-After asks to wait (RFC 9110
// §10.2.3): at most an hour, 0 if there is none. A date is compared with the
// header Date, since the server's clock may differ from ours.
func RetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	var d time.Duration
	if s, err := strconv.ParseUint(v, 10, 63); err == nil {
		d = time.Duration(min(s, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = clock.Now()
		}
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// Drain reads the rest of an answer that nobody needs, and closes its body.
// A connection can be used again only if its last answer was read to the end.
// But a long wait costs more than a new connection: after 64 KiB or 100 ms
// Drain stops reading.
func Drain(resp *http.Response) {
	defer time.AfterFunc(drainTime, func() { _ = resp.Body.Close() }).Stop()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
	_ = resp.Body.Close()
}

// Watch returns a context for one request, and a function that says what an
// error of that request means: [NotSent] or [Unknown]. net/http reports through
// the context how far the request came.
func Watch(ctx context.Context) (context.Context, func(error) Outcome) {
	var watched, connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { watched.Store(true) },
		// GotConn comes after dial and handshake, right before the request is
		// written. WroteHeaders and WroteRequest come too late under HTTP/2: a
		// cancelled request may still be on its way out.
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	return ctx, func(err error) Outcome {
		if connected.Load() || !watched.Load() && !beforeSend(err) {
			return Unknown
		}
		return NotSent
	}
}

// beforeSend reports whether err can only arise before a request is written. It
// serves for a RoundTripper that does not report to a trace.
func beforeSend(err error) bool {
	var (
		op      *net.OpError
		dns     *net.DNSError
		private *PrivateAddressError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns) || errors.As(err, &private) ||
		errors.As(err, &verify) || errors.As(err, &record)
}
