package testenv

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
)

// NewBrowser returns a browser for pages that approve by themselves: it follows redirects and keeps
// cookies.
func NewBrowser() *http.Client {
	jar, _ := cookiejar.New(nil) // never fails
	return &http.Client{Jar: jar}
}

// Visit goes to a page as a browser whose user is signed in and has approved, and follows every
// redirect. It is an OpenBrowser for clients whose server approves by itself.
func Visit(ctx context.Context, page string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	resp, err := NewBrowser().Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close()
}

// Begin opens the page of the application's own at which a sign-in begins, and returns the
// authorization URL to which that page redirects.
func Begin(ctx context.Context, browser *http.Client, page string) (authorizationURL string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return "", err
	}
	stops := *browser
	stops.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := stops.Do(req)
	if err != nil {
		return "", err
	}
	_ = resp.Body.Close()
	if resp.Header.Get("Location") == "" {
		return "", fmt.Errorf("the first page does not redirect: %s", resp.Status)
	}
	return resp.Header.Get("Location"), nil
}
