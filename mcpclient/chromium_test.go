package mcpclient_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// TestInBrowser signs in as a person does, on the sandbox's pages, and looks at
// the page that they end on.
func TestInBrowser(t *testing.T) {
	browser := testenv.Chromium(t)
	srv := testenv.Sandbox(t, sandbox.Options{})
	username, approve, deny := chromedp.CSS("#username"), chromedp.CSS("#approve"), chromedp.CSS("#deny")
	for _, test := range []struct {
		name    string
		host    string // of the callback; localhost is another site than the sandbox's pages
		steps   []chromedp.Action[chromedp.Void]
		denied  bool
		heading string
	}{
		{"denied", "127.0.0.1", []chromedp.Action[chromedp.Void]{
			chromedp.SendKeys(username, "mia"), chromedp.SendKeys(chromedp.CSS("#password"), "mia-sandbox\n"), chromedp.WaitVisible(deny), chromedp.Click(deny),
		}, true, "Access was not allowed"},
		{"approved", "127.0.0.1", []chromedp.Action[chromedp.Void]{chromedp.WaitVisible(approve), chromedp.Click(approve)}, false, "You are signed in"},
		{"from another site", "localhost", []chromedp.Action[chromedp.Void]{chromedp.WaitVisible(approve), chromedp.Click(approve)}, false, "You are signed in"},
	} {
		t.Run(test.name, func(t *testing.T) {
			looked := make(chan struct{})
			c := &mcpclient.Client{
				Name: "Acme Notes", Server: srv.URL(), Store: &tokenstore.Memory{}, SignInTimeout: time.Minute,
				Registration: mcpclient.Registration{RedirectURL: "http://" + test.host + "/callback"},
				OpenBrowser: func(_ context.Context, url string) error {
					defer close(looked)
					if err := chromedp.Do(browser, chromedp.Navigate(url)); err != nil {
						return err
					}
					if err := chromedp.Do(browser, append(test.steps, chromedp.WaitVisible(chromedp.CSS("main [role=status]")))...); err != nil {
						return err
					}
					heading, err := chromedp.Run(browser, chromedp.Evaluate[string](`document.querySelector("h1").innerText`))
					if err != nil || heading != test.heading {
						t.Errorf("the page says %q, %v", heading, err)
					}
					at, err := chromedp.Run(browser, chromedp.Location())
					if u := queryOf(t, at); err != nil || u.Get("state") == "" {
						t.Errorf("the page is at another address: %v", err)
					}
					testenv.Screenshot(t, browser, "callback")
					return nil
				},
			}
			defer c.Close()
			session, err := c.Connect(t.Context())
			select {
			case <-looked: // the page is there also after the sign-in has ended
			case <-time.After(30 * time.Second):
				t.Error("nobody saw the page")
			}
			if test.denied {
				if ae := new(authcode.AuthorizationError); !errors.As(err, &ae) || !ae.Denied() {
					t.Errorf("Connect: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			mustCall(t, session)
			if st, err := c.Status(t.Context()); err != nil || !st.SignedIn {
				t.Errorf("Status: %+v, %v", st, err)
			}
		})
	}
}
