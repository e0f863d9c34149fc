package testenv

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Chromium starts a headless browser of the test's own, with an empty profile, and returns the
// chromedp context of its first tab. It ends with the test, or after two minutes; a test that
// fails leaves a last screenshot.
func Chromium(t testing.TB) context.Context {
	t.Helper()
	path := browser()
	Need(t, "Chromium", path != "", "none of "+strings.Join(browsers, ", ")+" is installed")

	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.DisableGPU,
		chromedp.WindowSize(1280, 900),
		chromedp.Flag("disable-component-update", true),
		// Pages of other people's servers ask for fonts; nothing but loopback is asked for anything.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE [::1]"),
		chromedp.Flag("disable-quic", true),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel) // waits until the browser is gone, before its profile is removed
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	t.Cleanup(func() {
		if t.Failed() && ctx.Err() == nil {
			Screenshot(t, ctx, "failed")
		}
	})
	return ctx
}

var browsers = []string{
	"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
	"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
}

func browser() string {
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Screenshot keeps a picture of the whole page as TEST.NAME.png in the [Artefacts] folder, and
// does nothing where none is named.
func Screenshot(t testing.TB, ctx context.Context, name string) {
	t.Helper()
	if os.Getenv(Artefacts) == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Errorf("screenshot %s: %v", name, err)
		return
	}
	keep(t, name+".png", png)
}

// keep writes data as TEST.NAME to the artefacts, if they are kept.
func keep(t testing.TB, name string, data []byte) {
	t.Helper()
	dir := os.Getenv(Artefacts)
	if dir == "" {
		return
	}
	file := filepath.Join(dir, strings.NewReplacer("/", ".", "\\", ".", ":", ".").Replace(t.Name()+"."+name))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Error(err)
	} else if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Error(err)
	}
}
