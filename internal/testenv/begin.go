package testenv

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
)

// NewBrowser returns what is browser enough for pages that approve by themselves: it follows
// redirects and keeps cookies.
func NewBrowser() *http.Client {
	jar, _ := cookiejar.New(nil) // never fails
	return &http.Client{Jar: jar}
}

// Begin has a browser go to the page at which an application has it begin, and returns the
// authorization URL that this sends it on to.
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
		return "", fmt.Errorf("the page to begin at sends nobody on: %s", resp.Status)
	}
	return resp.Header.Get("Location"), nil
}
