package main

import (
	"context"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"

	"github.com/astravue/mcp-client-go/sandbox"
)

var (
	formTag   = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)".*?</form>`)
	inputTag  = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*>`)
	attribute = regexp.MustCompile(`(name|value)="([^"]*)"`)
)

// A person stands in for somebody at a browser who has an account and decides on the consent page.
type person struct {
	sandbox.Account
	decision string // "approve" or "deny"
}

// signIn fills in the sandbox's sign-in form, decides on its consent page, and follows the redirects
// to the application's own page.
func (p person) signIn(ctx context.Context, address string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	hc := &http.Client{Jar: jar}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	page, at, err := fetch(hc, req)
	for range 2 { // sign-in, consent
		if err != nil {
			return err
		}
		form := formTag.FindStringSubmatch(page)
		if form == nil {
			return nil // the application's own page
		}
		v := url.Values{}
		for _, input := range inputTag.FindAllString(form[0], -1) {
			var name, value string
			for _, a := range attribute.FindAllStringSubmatch(input, -1) {
				if a[1] == "name" {
					name = html.UnescapeString(a[2])
				} else {
					value = html.UnescapeString(a[2])
				}
			}
			v.Set(name, value)
		}
		if strings.Contains(form[0], `name="password"`) {
			v.Set("username", p.User)
			v.Set("password", p.Password)
		} else {
			v.Set("decision", p.decision)
		}
		action, err := at.Parse(html.UnescapeString(form[1]))
		if err != nil {
			return err
		}
		if req, err = http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(v.Encode())); err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if page, at, err = fetch(hc, req); err != nil {
			return err
		}
	}
	if formTag.MatchString(page) {
		return errors.New("the sandbox's pages did not lead back")
	}
	return nil
}

func fetch(hc *http.Client, req *http.Request) (page string, at *url.URL, err error) {
	resp, err := hc.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body), resp.Request.URL, err
}
