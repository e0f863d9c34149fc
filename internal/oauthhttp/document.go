package oauthhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/astravue/mcp-client-go/internal/text"
)

const maxRedirects = 3

// ErrNotJSON is a body that is something else, such as an HTML page, or cut off.
var ErrNotJSON = errors.New("answer is not JSON")

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
		return WithoutURL(err)
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
