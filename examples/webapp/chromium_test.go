package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// TestChromium signs in on the sandbox's pages as a person does, and checks each page of the
// application in light and dark, in the size of a phone and of a screen.
func TestChromium(t *testing.T) {
	ctx := testenv.Chromium(t)
	srv := startSandbox(t)
	a := startApp(t, srv, nil)
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}

	do(chromedp.Navigate(a.URL), chromedp.WaitVisible(chromedp.CSS("#sign-in")))
	look(t, ctx, "welcome")

	// The pages of a request that finds no turn, and of a browser that does not go on by itself.
	for range mostTurns {
		a.begin <- struct{}{}
	}
	do(chromedp.Click(chromedp.CSS("#sign-in")), chromedp.WaitVisible(chromedp.CSS("#message")))
	look(t, ctx, "busy")
	for range mostTurns {
		<-a.begin
	}
	undo := srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Status: http.StatusNoContent})
	do(chromedp.Click(chromedp.CSS("#sign-in")), chromedp.WaitVisible(chromedp.CSS("#go-on")))
	look(t, ctx, "onward")
	undo()
	do(chromedp.Click(chromedp.CSS("#go-on")), chromedp.WaitVisible(chromedp.CSS("#username")))

	do(chromedp.Navigate(a.URL), chromedp.WaitVisible(chromedp.CSS("#sign-in")), chromedp.Click(chromedp.CSS("#sign-in")), chromedp.WaitVisible(chromedp.CSS("#username")),
		chromedp.NavigateBack(), chromedp.WaitVisible(chromedp.CSS("body.welcome #sign-in")), // past the page that only leads on
		chromedp.Click(chromedp.CSS("#sign-in")), chromedp.WaitVisible(chromedp.CSS("#username")),
		chromedp.Click(chromedp.CSS("#as-mia")), chromedp.WaitVisible(chromedp.CSS("#approve")),
		chromedp.Click(chromedp.CSS("#deny")), chromedp.WaitVisible(chromedp.CSS("#message")))
	look(t, ctx, "denied")

	do(chromedp.Click(chromedp.CSS("#sign-in")), chromedp.WaitVisible(chromedp.CSS("#username")),
		chromedp.SendKeys(chromedp.CSS("#username"), "mia"), chromedp.SendKeys(chromedp.CSS("#password"), "mia-sandbox\n"),
		chromedp.WaitVisible(chromedp.CSS("#approve")), chromedp.Click(chromedp.CSS("#approve")), chromedp.WaitVisible(chromedp.CSS("#who")))
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText + location.href + document.cookie`))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, onlyMia) || strings.Contains(text, onlyAdam) || !strings.HasSuffix(text, a.URL+"/") {
		t.Errorf("not Mia's board at its own address, or a cookie that scripts can read:\n%s", text)
	}
	look(t, ctx, "board")

	do(chromedp.Click(chromedp.CSS("#sign-out")), chromedp.WaitVisible(chromedp.CSS("#message")))
	look(t, ctx, "signed-out")
	do(chromedp.Navigate(a.URL), chromedp.WaitVisible(chromedp.CSS("#sign-in")))
}

// look checks that a page is styled and fits, and keeps a picture of it.
func look(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	for _, width := range []int64{360, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			err := chromedp.Do(ctx,
				chromedp.Action[chromedp.Void](func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
					_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
						Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
					return chromedp.Void{}, err
				}),
				chromedp.EmulateViewport(width, 844))
			if err != nil {
				t.Fatal(err)
			}
			fits, err := chromedp.Run(ctx, chromedp.Evaluate[bool](
				`document.documentElement.scrollWidth <= innerWidth && getComputedStyle(document.querySelector("header")).display === "flex"`))
			if err != nil || !fits {
				t.Errorf("%s at %d: styled and within its width: %v %v", name, width, fits, err)
			}
			testenv.Screenshot(t, ctx, fmt.Sprintf("%s-%d-%s", name, width, scheme))
		}
	}
}
