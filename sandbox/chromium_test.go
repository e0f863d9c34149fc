package sandbox_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// TestChromium signs in, approves and denies as a person does, and looks at
// each page in light and dark, on a phone and on a desk.
func TestChromium(t *testing.T) {
	ctx := testenv.Chromium(t)
	callbacks := make(chan url.Values, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			fmt.Fprint(w, "<title>back</title><p id=back>back")
			callbacks <- r.URL.Query()
		}
	}))
	defer app.Close()
	s := start(t, sandbox.Options{})
	back := app.URL + "/callback"
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	callback := func() url.Values {
		t.Helper()
		select {
		case v := <-callbacks:
			return v
		case <-time.After(20 * time.Second):
			t.Fatal("the browser was not sent back")
			return nil
		}
	}
	username, approve := chromedp.CSS("#username"), chromedp.CSS("#approve")

	do(chromedp.Navigate(authorizeURL(s, "redirect_uri", back)), chromedp.WaitVisible(username))
	look(t, ctx, "signin")
	do(chromedp.SendKeys(username, "mia"), chromedp.SendKeys(chromedp.CSS("#password"), "wrong\n"), chromedp.WaitVisible(chromedp.CSS("[role=alert]")))
	look(t, ctx, "wrong-password")
	do(chromedp.SendKeys(chromedp.CSS("#password"), "mia-sandbox\n"), chromedp.WaitVisible(approve))
	look(t, ctx, "consent")
	do(chromedp.Click(chromedp.CSS("#deny")), chromedp.WaitVisible(chromedp.CSS("#back")))
	if cb := callback(); cb.Get("error") != "access_denied" || cb.Get("iss") != s.Issuer() {
		t.Errorf("deny: %v", cb)
	}

	do(chromedp.Navigate(authorizeURL(s, "redirect_uri", back, "prompt", "select_account")), chromedp.WaitVisible(username))
	look(t, ctx, "select-account")
	do(chromedp.Click(chromedp.CSS("#as-adam")), chromedp.WaitVisible(approve), chromedp.Click(approve), chromedp.WaitVisible(chromedp.CSS("#back")))
	cb := callback()
	a := exchange(t, s, cb.Get("code"), "redirect_uri", back)
	if a.status != 200 {
		t.Errorf("exchange: %d %v", a.status, a.m)
	}
	log := s.Requests()
	if got := log[len(log)-1].User; got != "adam" {
		t.Errorf("signed in as %q", got)
	}

	do(chromedp.Navigate(authorizeURL(s, "redirect_uri", "https://attacker.example/")), chromedp.WaitVisible(chromedp.CSS("#error")))
	look(t, ctx, "error")
	do(chromedp.Navigate(s.APIURL() + "/"))
	look(t, ctx, "home")
}

// look checks that a page is styled and fits, and keeps a picture.
func look(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	for _, width := range []int64{390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			if _, err := chromedp.Run(ctx, chromedp.Action[chromedp.Void](func(ctx context.Context, tg *chromedp.Target) (chromedp.Void, error) {
				_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
				return chromedp.Void{}, err
			})); err != nil {
				t.Fatal(err)
			}
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 844)); err != nil {
				t.Fatal(err)
			}
			fits, err := chromedp.Run(ctx, chromedp.Evaluate[bool](
				`document.documentElement.scrollWidth <= innerWidth && getComputedStyle(document.querySelector("main")).borderRadius !== "0px"`))
			if err != nil || !fits {
				t.Errorf("%s at %d: styled and within its width: %v %v", name, width, fits, err)
			}
			testenv.Screenshot(t, ctx, fmt.Sprintf("%s-%d-%s", name, width, scheme))
		}
	}
}
