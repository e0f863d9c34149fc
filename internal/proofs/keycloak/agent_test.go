package keycloak

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// errNoRedirect is a page of Keycloak's that leads nowhere.
var errNoRedirect = errors.New("no redirect, but a page of Keycloak")

var (
	formAction  = regexp.MustCompile(`<form[^>]*\baction="([^"]+)"`)
	grantAccess = regexp.MustCompile(`Grant Access to ([^<]*?)\s*<`)
	hiddenInput = regexp.MustCompile(`<input type="hidden" name="(tab_id|csrf)" value="([^"]*)"`) // the sandbox's
)

// A browser is a user agent without a screen, for tests that are not about Keycloak's pages: it
// posts their forms, and the sandbox's. It keeps cookies, and so the single sign-on session.
type browser struct {
	user, password string
	deny           bool     // on the consent page
	asked          []string // for whom such pages have asked
	http           *http.Client
}

func newBrowser(user string) *browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &browser{user: user, password: user + "-password", http: &http.Client{Jar: loopback{jar}, Timeout: 30 * time.Second}}
}

// loopback is a jar that, like every browser, takes loopback for secure.
type loopback struct{ jar http.CookieJar }

func (l loopback) SetCookies(u *url.URL, cookies []*http.Cookie) {
	l.jar.SetCookies(secure(u), cookies)
}
func (l loopback) Cookies(u *url.URL) []*http.Cookie { return l.jar.Cookies(secure(u)) }

func secure(u *url.URL) *url.URL {
	s := *u
	s.Scheme = "https"
	return &s
}

// open is an OpenBrowser.
func (b *browser) open(ctx context.Context, address string) error {
	page, status, at, err := b.get(ctx, address, nil)
	for range 5 {
		if err != nil {
			return err
		}
		form := url.Values{}
		for _, m := range hiddenInput.FindAllStringSubmatch(page, -1) {
			form.Set(m[1], m[2])
		}
		if m := grantAccess.FindStringSubmatch(page); m != nil {
			b.asked = append(b.asked, html.UnescapeString(m[1]))
		}
		switch {
		case strings.Contains(page, `name="password"`):
			form.Set("username", b.user)
			form.Set("password", b.password)
		case strings.Contains(page, `name="accept"`) && b.deny:
			form.Set("cancel", "No")
		case strings.Contains(page, `name="accept"`):
			form.Set("accept", "Yes")
		case strings.Contains(page, `name="decision"`):
			form.Set("decision", "approve")
		case status != http.StatusOK || strings.Contains(page, "kc-error-message"):
			return fmt.Errorf("%w: status %d", errNoRedirect, status)
		default:
			return nil // the callback's page
		}
		match := formAction.FindStringSubmatch(page)
		if match == nil {
			return errors.New("Keycloak's page has no form")
		}
		action, bad := url.Parse(html.UnescapeString(match[1]))
		if bad != nil {
			return bad
		}
		page, status, at, err = b.get(ctx, at.ResolveReference(action).String(), form)
	}
	return errors.New("Keycloak asks again and again")
}

func (b *browser) get(ctx context.Context, address string, form url.Values) (page string, status int, at *url.URL, err error) {
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return "", 0, nil, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.http.Do(req)
	if err != nil {
		return "", 0, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return string(data), res.StatusCode, res.Request.URL, err
}

// chromium goes through Keycloak's own pages in a browser of testenv.Chromium: its sign-in page,
// and its consent page where consent says that one comes.
func chromium(t *testing.T, tab context.Context, address, user string, consent bool) error {
	t.Helper()
	steps := []chromedp.Action[chromedp.Void]{
		chromedp.Navigate(address),
		chromedp.SendKeys(chromedp.CSS(`#username`), user),
		chromedp.SendKeys(chromedp.CSS(`#password`), user+"-password"),
		chromedp.Click(chromedp.CSS(`#kc-login`)),
	}
	if consent {
		steps = append(steps, chromedp.Click(chromedp.CSS(`[name=accept]`)), chromedp.WaitNotPresent(chromedp.CSS(`[name=accept]`)))
	} else {
		steps = append(steps, chromedp.WaitNotPresent(chromedp.CSS(`#kc-login`)))
	}
	ctx, cancel := context.WithTimeout(tab, 30*time.Second)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}
