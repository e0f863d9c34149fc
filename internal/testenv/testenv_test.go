package testenv

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestNeed runs TestNeedChild in a process of its own, since a skip and a failure can
// only be seen from outside.
func TestNeed(t *testing.T) {
	for _, test := range []struct {
		name, ok, ci string
		want         string
		fails        bool
	}{
		{"there", "1", "", "--- PASS: TestNeedChild", false},
		{"there in CI", "1", "1", "--- PASS: TestNeedChild", false},
		{"absent", "", "", "--- SKIP: TestNeedChild", false},
		{"absent in CI", "", "1", "--- FAIL: TestNeedChild", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestNeedChild$", "-test.v")
			cmd.Env = append(os.Environ(), "NEED_CHILD=1", "NEED_OK="+test.ok, CI+"="+test.ci)
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), test.want) || (err != nil) != test.fails {
				t.Errorf("%v, want %s in:\n%s", err, test.want, out)
			}
			if test.ok == "" && !strings.Contains(string(out), "the teapot") {
				t.Errorf("the missing part is not named in:\n%s", out)
			}
		})
	}
}

func TestNeedChild(t *testing.T) {
	if os.Getenv("NEED_CHILD") == "" {
		return // only a part of TestNeed
	}
	Need(t, "the teapot", os.Getenv("NEED_OK") == "1", "it is not short and stout")
}

func TestSecretService(t *testing.T) {
	SecretService(t)
}

func TestChromiumReadsAPage(t *testing.T) {
	t.Setenv(Artefacts, t.TempDir())
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("<title>Hello</title><p>from loopback"))
	}))
	defer site.Close()
	ctx := Chromium(t)
	if err := chromedp.Do(ctx, chromedp.Navigate(site.URL)); err != nil {
		t.Fatal(err)
	}
	if title, err := chromedp.Run(ctx, chromedp.Title()); err != nil || title != "Hello" {
		t.Errorf("title %q, %v", title, err)
	}
	Screenshot(t, ctx, "hello")
	if _, err := os.Stat(os.Getenv(Artefacts) + "/TestChromiumReadsAPage.hello.png"); err != nil {
		t.Error(err)
	}
}
