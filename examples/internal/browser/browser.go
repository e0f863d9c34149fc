// Package browser is what the examples use in place of a browser with -sandbox. A program of yours
// does not need it.
package browser

import (
	"context"
	"net/http"
	"net/http/cookiejar"
)

// Open follows the redirects of pages that approve by themselves, from url to the callback, with
// the cookies that they set. The callback ends the sign-in and with it ctx, perhaps before its page
// has been read; that is no error.
func Open(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Jar: jar}).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return resp.Body.Close()
}
