package oauthhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/text"
)

const (
	maxBody       = 1 << 20
	maxRedirects  = 3
	maxRetryAfter = time.Hour
)

var (
	// ErrTooLarge is a body of more than 1 MiB.
	ErrTooLarge = errors.New("answer is larger than 1 MiB")
	// ErrNotJSON is a body that is something else, such as an HTML page, or cut off.
	ErrNotJSON = errors.New("answer is not JSON")
	// ErrRedirect is a redirect that is not followed.
	ErrRedirect = errors.New("redirect not followed")
)

// A StatusError is an answer without the document that was asked for.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("answered %d %s", e.Status, http.StatusText(e.Status)))
}

// GetJSON fetches a metadata document from rawURL, which passes [CheckURL],
// and reads it with [Unmarshal]. At most 3 redirects are followed, each to an
// address that [CheckURL] allows and never from https to http. The content
// type may be any but HTML: not all servers get it right. Without a deadline
// in ctx it takes at most 30 s. hc nil is a shared [NewClient]("").
//
// Errors: *StatusError for any status but 200, ErrNotJSON, ErrTooLarge,
// *DuplicateError, *URLError, ErrRedirect, *PrivateAddressError, and those of
// encoding/json and of the network; none holds more of the answer than a name.
func GetJSON(ctx context.Context, hc *http.Client, rawURL string, into any) error {
	u, err := CheckURL(rawURL, "")
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	c := *clientOr(hc)
	c.CheckRedirect = checkRedirect(&c)
	resp, err := c.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &StatusError{resp.StatusCode}
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	body, err := readBody(resp)
	if err != nil {
		return err
	}
	if strings.HasSuffix(mediaType, "html") || strings.HasPrefix(mediaType, "application/xhtml") || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) {
		return fmt.Errorf("%w but %s", ErrNotJSON, text.Short(mediaType))
	}
	return unmarshalDocument(body, into)
}

func unmarshalDocument(body []byte, into any) error {
	err := Unmarshal(body, into)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Errorf("%w: %w", ErrNotJSON, err)
	}
	return err
}

// PostJSON posts body as JSON, once, with the bearer token if it is not "",
// and returns the answer, whatever its status. Redirects are answers.
// RFC 7591 §3.1. Errors as those of [GetJSON], without *StatusError.
func PostJSON(ctx context.Context, hc *http.Client, rawURL, bearer string, body any) (status int, header http.Header, answer []byte, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, nil, err
	}
	return exchange(ctx, hc, http.MethodPost, rawURL, bearer, data)
}

// Delete deletes with the bearer token, once. RFC 7592 §2.3. It returns as
// [PostJSON] does.
func Delete(ctx context.Context, hc *http.Client, rawURL, bearer string) (status int, answer []byte, err error) {
	status, _, answer, err = exchange(ctx, hc, http.MethodDelete, rawURL, bearer, nil)
	return status, answer, err
}

func exchange(ctx context.Context, hc *http.Client, method, rawURL, bearer string, body []byte) (int, http.Header, []byte, error) {
	u, err := CheckURL(rawURL, "")
	if err != nil {
		return 0, nil, nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	req, err := newRequest(ctx, method, u, "application/json", body)
	if err != nil {
		return 0, nil, nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := sendOnce(hc, req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := readBody(resp)
	return resp.StatusCode, resp.Header, answer, err
}

// newRequest makes a request that net/http sends once or not at all: without
// GetBody it cannot replay the body, neither on a stale connection nor after a
// 307, and says so by an error.
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

// sendOnce sends req and follows no redirect. Its errors do not repeat the address.
func sendOnce(hc *http.Client, req *http.Request) (*http.Response, error) {
	c := *clientOr(hc)
	c.Transport = stay{c.Transport}
	resp, err := c.Do(req)
	return resp, withoutURL(err)
}

// stay takes the Location from a redirect, so that http.Client has nothing to
// follow. CheckRedirect comes too late: a Location that is no URL makes an
// error before it is asked, and the status is lost.
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

func checkRedirect(hc *http.Client) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("%w: more than %d", ErrRedirect, maxRedirects)
		}
		if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return fmt.Errorf("%w: it leaves https", ErrRedirect)
		}
		if _, err := CheckNamed(req.Context(), hc, req.URL.String(), via[0].URL.String()); err != nil {
			return fmt.Errorf("%w: %w", ErrRedirect, err)
		}
		return nil
	}
}

func clientOr(hc *http.Client) *http.Client {
	if hc == nil {
		return defaultClient()
	}
	return hc
}

// bounded gives a context without a deadline one, since the client of a caller
// may have no timeout.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// over says why there is no time left, by the clock: of two timers that are due, the one of the
// request before this may have fired first.
func over(ctx context.Context) error {
	if at, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// withoutURL takes away what net/http says of the request: an address whose
// query may be private.
func withoutURL(err error) error {
	for u := (*url.Error)(nil); errors.As(err, &u); {
		err = u.Err
	}
	return err
}

func readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		return nil, ErrTooLarge
	}
	return body, err
}

// RetryAfter reads the header of that name (RFC 9110 §10.2.3): at most an hour,
// 0 if there is none. A date is one of the server's clock, which need not be ours.
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
