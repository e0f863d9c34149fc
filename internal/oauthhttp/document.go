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

// ErrNotJSON is a body that is not JSON, such as an HTML page, or that is cut off.
var ErrNotJSON = errors.New("answer is not JSON")

// A StatusError is an answer with another status than 200, and so without a document.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("answered %d %s", e.Status, http.StatusText(e.Status)))
}

// GetJSON fetches a metadata document from rawURL, which [CheckURL] must allow,
// and reads it with [Unmarshal]. It follows at most 3 redirects, each to an
// address that [CheckURL] allows, and none from https to http. It takes every
// content type but HTML, since not all servers send the right one.
//
// Without a deadline in ctx it takes at most 30 s. If hc is nil, a shared
// [NewClient]("") fetches.
//
// Errors: *StatusError for any status but 200, ErrNotJSON, ErrTooLarge,
// ErrTooDeep, *DuplicateError, *URLError, ErrRedirect, *PrivateAddressError, and
// those of encoding/json and of the network. Of the answer an error holds at
// most the name of a member.
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

// unmarshalDocument is [Unmarshal] with ErrNotJSON for malformed JSON.
func unmarshalDocument(body []byte, into any) error {
	err := Unmarshal(body, into)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return fmt.Errorf("%w: %w", ErrNotJSON, err)
	}
	return err
}

// checkRedirect returns the rule by which hc follows redirects, see [GetJSON].
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

// PostJSON posts body as JSON (RFC 7591 §3.1), at most once, with the bearer
// token unless it is "". It returns the answer whatever its status, also a
// redirect. Deadline, hc and errors are as for [GetJSON]; no *StatusError comes.
func PostJSON(ctx context.Context, hc *http.Client, rawURL, bearer string, body any) (status int, header http.Header, answer []byte, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, nil, err
	}
	return exchange(ctx, hc, http.MethodPost, rawURL, bearer, data)
}

// Delete sends a DELETE with the bearer token (RFC 7592 §2.3), at most once. Its
// results are those of [PostJSON].
func Delete(ctx context.Context, hc *http.Client, rawURL, bearer string) (status int, answer []byte, err error) {
	status, _, answer, err = exchange(ctx, hc, http.MethodDelete, rawURL, bearer, nil)
	return status, answer, err
}

// exchange sends one request and returns its answer.
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
