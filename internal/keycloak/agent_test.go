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
var errNoRedirect = errors.New("Keycloak does not redirect")

var (
	formAction = regexp.MustCompile(`<form[^>]*\baction="([^"]+)"`)
	errorText  = regexp.MustCompile(`(?s)id="kc-error-message".*?<p[^>]*>(.*?)</p>`)
)

// A browser is a user agent without a screen, for tests that are not about Keycloak's pages: it
// posts their forms. It keeps cookies, and so the single sign-on session.
type browser struct {
	user string
	deny bool // on the consent page
	http *http.Client
}

func newBrowser(user string) *browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &browser{user: user, http: &http.Client{Jar: loopback{jar}, Timeout: 30 * time.Second}}
}

// loopback is a jar that, like every browser, takes loopback for secure.
type loopback struct{ jar http.CookieJar }

func (l loopback) SetCookies(u *url.URL, cookies []*http.Cookie) { l.jar.SetCookies(secure(u), cookies) }
func (l loopback) Cookies(u *url.URL) []*http.Cookie             { return l.jar.Cookies(secure(u)) }

func secure(u *url.URL) *url.URL {
	s := *u
	s.Scheme = "https"
	return &s
}

// open is an OpenBrowser.
func (b *browser) open(ctx context.Context, address string) error {
	for range 5 {
		page, status, err := b.get(ctx, address, nil)
		for err == nil {
			form := url.Values{}
			switch {
			case strings.Contains(page, `id="kc-form-login"`) && strings.Contains(page, `id="kc-content-wrapper"`) && strings.Contains(page, "input-error"):
				return errors.New("Keycloak does not let " + b.user + " in")
			case strings.Contains(page, `name="password"`):
				form.Set("username", b.user)
				form.Set("password", b.user+"-password")
			case strings.Contains(page, `name="accept"`) && b.deny:
				form.Set("cancel", "No")
			case strings.Contains(page, `name="accept"`):
				form.Set("accept", "Yes")
			case status != http.StatusOK || strings.Contains(page, "kc-error-message"):
				return fmt.Errorf("%w: status %d, %s", errNoRedirect, status, firstOf(errorText, page))
			default:
				return nil // the callback's page
			}
			action := html.UnescapeString(firstOf(formAction, page))
			page, status, err = b.get(ctx, action, form)
		}
		return err
	}
	return nil
}

func (b *browser) get(ctx context.Context, address string, form url.Values) (page string, status int, err error) {
	method, body := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return "", 0, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return string(data), res.StatusCode, err
}

func firstOf(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return strings.TrimSpace(m[1])
	}
	return ""
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
	return chromedp.Do(tab, steps...)
}
