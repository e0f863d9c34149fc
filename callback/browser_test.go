package callback_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"

	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// TestPagesInBrowser looks at every page as a person does, on a phone and on a
// desk, by day and by night.
func TestPagesInBrowser(t *testing.T) {
	t.Parallel()
	ctx := testenv.Chromium(t)
	complaints := make(chan string, 100)
	if err := chromedp.Listen(ctx, func(event any) {
		// That a page has status 400 is logged as well, as the network's.
		if e, ok := event.(*log.EventEntryAdded); ok && e.Entry.Source != log.EntrySourceNetwork {
			complaints <- e.Entry.Text
		}
	}); err != nil {
		t.Fatal(err)
	}

	named := callback.Config{Name: "Acme Notes", Server: "Astravue"}
	for name, tt := range map[string]struct {
		config callback.Config
		path   string
		before string // asked for first; or "start" for a start page, "shown" for what Chromium would not get

		heading, says string
	}{
		"signed in":     {named, "?state=right&code=good", "", "You are signed in", "Acme Notes is now connected to Astravue."},
		"denied":        {named, "?state=right&error=access_denied", "", "Access was not allowed", "sign in again from Acme Notes"},
		"failed":        {named, "?state=right&code=bad", "", "The sign-in failed", "Go back to Acme Notes to see why"},
		"not ours":      {named, "?state=wrong", "", "This belongs to another sign-in", "Acme Notes is still waiting"},
		"finished":      {named, "?state=right&code=good", "?state=right&code=good", "This sign-in is already finished", "You can close this tab."},
		"other browser": {named, "?state=right&code=good", "start", "This is another browser", "paste it where Acme Notes asks for it"},
		"other user":    {named, "/foreign", "shown", "This is another user’s sign-in", "paste it where Acme Notes asks for it"},
		"stranger":      {named, "/stranger", "shown", "This is another user’s sign-in", "start Acme Notes as the user of this browser"},
		"opened":        {named, "/opened", "shown", "This sign-in was opened already", "start again from Acme Notes"},
		"twice":         {named, "/twice", "shown", "Somebody else opened this sign-in", "was not connected to Astravue"},
		"not found":     {named, "/more", "", "There is nothing here", "a sign-in for Acme Notes"},
		"nameless":      {callback.Config{}, "?state=right&code=good", "", "You are signed in", "The application is now connected to the server."},
		"long names":    {callback.Config{Name: strings.Repeat("Notes", 20), Server: "https://" + strings.Repeat("mcp.", 20) + "example/mcp"}, "?state=right&code=good", "", "You are signed in", "NotesNotes"},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, tt.config)
			waiting, stop := context.WithCancel(t.Context())
			result := wait(waiting, l, check, nil)
			address := l.RedirectURI() + tt.path
			switch tt.before {
			case "":
			case "start":
				l.Start("https://auth.example")
			case "shown":
				s := httptest.NewServer(l)
				defer s.Close()
				address = s.URL + tt.path
			default:
				get(t, l.RedirectURI()+tt.before)
			}
			if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
				t.Fatal(err)
			}
			page, err := chromedp.Run(ctx, chromedp.Evaluate[struct {
				Title, Lang string
				Headings    []string
				Mains       int
				Status      string
			}](`({
				Title: document.title,
				Lang: document.documentElement.lang,
				Headings: [...document.querySelectorAll("h1, h2, h3")].map(h => h.innerText),
				Mains: document.querySelectorAll("main").length,
				Status: document.querySelector("main [role=status]").innerText,
			})`))
			if err != nil {
				t.Fatal(err)
			}
			if page.Title != tt.heading || len(page.Headings) != 1 || page.Headings[0] != tt.heading ||
				page.Lang != "en" || page.Mains != 1 || !strings.Contains(page.Status, tt.says) {
				t.Errorf("%+v", page)
			}
			for _, scheme := range []string{"light", "dark"} {
				for _, width := range []int64{390, 1280} {
					media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
						{Name: "prefers-color-scheme", Value: scheme},
						{Name: "prefers-reduced-motion", Value: "reduce"},
					}}
					if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
						t.Fatal(err)
					}
					if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 800)); err != nil {
						t.Fatal(err)
					}
					overflow, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth - innerWidth`))
					if err != nil || overflow > 0 {
						t.Errorf("%d wide: %d too wide, %v", width, overflow, err)
					}
					// WCAG 2.2, 1.4.3 (AA).
					contrast, err := chromedp.Run(ctx, chromedp.Evaluate[float64](leastContrast))
					if err != nil || contrast < 4.5 {
						t.Errorf("%s: contrast %.1f, %v", scheme, contrast, err)
					}
					testenv.Screenshot(t, ctx, fmt.Sprintf("%s-%d", scheme, width))
				}
			}
			stop()
			<-result
		})
	}
	for len(complaints) > 0 {
		t.Errorf("the browser complains: %s", <-complaints)
	}
	// It would complain: the policy holds, and this test hears it.
	_, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](
		`void document.head.append(Object.assign(document.createElement("style"), {textContent: "p { color: red }"}))`))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-complaints:
	case <-time.After(10 * time.Second):
		t.Error("the browser takes foreign style without complaint")
	}
}

// leastContrast is the smallest contrast ratio of any text and its background,
// as WCAG 2.2 defines it.
const leastContrast = `(() => {
	const rgb = s => s.match(/[\d.]+/g).map(Number);
	const light = c => {
		const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const back = e => {
		for (; e; e = e.parentElement) {
			const c = rgb(getComputedStyle(e).backgroundColor);
			if (c.length == 3 || c[3] == 1) return c;
		}
		return [255, 255, 255];
	};
	return Math.min(...[...document.querySelectorAll("h1, p, footer, svg")].map(e => {
		const a = light(rgb(getComputedStyle(e).color)), b = light(back(e));
		return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
	}));
})()`
