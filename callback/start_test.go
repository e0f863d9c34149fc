package callback_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

// authorization stands for a URL of the authorization server's.
const authorization = "https://auth.example/auth?state=right&code_challenge=x"

// begin starts a listener with a start page, and a wait.
func begin(t *testing.T, config callback.Config, pasted <-chan string) (l *callback.Listener, page string, result <-chan error) {
	l = listen(t, config)
	page = l.Start(authorization)
	return l, page, wait(t.Context(), l, check, pasted)
}

// sent is a browser that the start page has sent.
func sent(t *testing.T, page string) *http.Client {
	t.Helper()
	browser := testenv.NewBrowser()
	if to, err := testenv.Begin(t.Context(), browser, page); err != nil || to != authorization {
		t.Fatalf("the page leads to %q, %v", to, err)
	}
	return browser
}

func status(t *testing.T, browser *http.Client, url string) int {
	t.Helper()
	res, err := browser.Get(url)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func TestStart(t *testing.T) {
	for _, redirect := range []string{"", "http://localhost/back", "http://[::1]/a/b"} {
		t.Run(redirect, func(t *testing.T) {
			if redirect != "" {
				needIPv6(t)
			}
			l, page, result := begin(t, callback.Config{RedirectURI: redirect}, nil)
			u, err := url.Parse(page)
			if err != nil || u.Host != authority(l) || len(u.Path) != 27 {
				t.Fatalf("the page is at %s, %v", page, err)
			}
			answer := l.RedirectURI() + "?state=right&code=good"
			if got := status(t, testenv.NewBrowser(), answer); got != 403 {
				t.Errorf("a browser that was not sent gets %d", got)
			}
			first := sent(t, page)
			if got := status(t, testenv.NewBrowser(), answer); got != 403 {
				t.Errorf("then one that was not sent gets %d", got)
			}
			if got := status(t, first, l.RedirectURI()+"?state=wrong"); got != 400 {
				t.Errorf("another answer of the right browser gets %d", got)
			}
			sent(t, page) // a private window has it open too, or the opener has looked what it is
			if got := status(t, sent(t, page), answer); got != 200 {
				t.Errorf("the right answer gets %d", got)
			}
			returns(t, result, nil)
			if got := status(t, first, page); got != 410 {
				t.Errorf("the page, when all is over: %d", got)
			}
		})
	}
}

func TestStartPageIsNarrow(t *testing.T) {
	l, page, result := begin(t, callback.Config{}, nil)
	stops := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	do := func(method, address string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := stops.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	for _, tt := range []struct {
		method, address string
		status          int
	}{
		{"HEAD", page, 200}, {"POST", page, 405}, {"OPTIONS", page, 405},
		{"GET", page + "?", 404}, {"GET", page + "?a=b", 404}, {"GET", page + "/", 404}, {"GET", page[:len(page)-1], 404},
		{"GET", strings.ToLower(page), 404}, {"GET", strings.TrimSuffix(page, path.Base(page)), 404},
	} {
		if res := do(tt.method, tt.address); res.StatusCode != tt.status || res.Header.Get("Location")+res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s %s: %d, want %d and nothing more: %v", tt.method, tt.address, res.StatusCode, tt.status, res.Header)
		}
	}
	res := do("GET", page)
	if res.StatusCode != 303 || res.Header.Get("Location") != authorization ||
		res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	paths := map[string]bool{}
	for _, c := range res.Cookies() {
		paths[c.Path] = c.HttpOnly && c.SameSite == http.SameSiteLaxMode && c.Domain == "" && len(c.Value) == 26 && len(c.Name) > 26
	}
	if len(paths) != 2 || !paths["/callback"] || !paths["/"+path.Base(page)] {
		t.Errorf("cookies %v", res.Header["Set-Cookie"])
	}
	browser := sent(t, page)
	if got := status(t, browser, l.RedirectURI()+"?state=right&code=good"); got != 200 {
		t.Errorf("the right answer gets %d", got)
	}
	returns(t, result, nil)
}

func TestStartPageIsNotPrinted(t *testing.T) {
	l := listen(t, callback.Config{})
	page := l.Start(authorization)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if text := fmt.Sprintf(verb, l); strings.Contains(text, path.Base(page)) || strings.Contains(text, "state=right") || strings.Contains(text, "sign-in-") {
			t.Errorf("%s shows the page: %s", verb, text)
		}
	}
}

// TestAnotherBrowser comes back in a private window: the answer does not count, and its address
// does when it is pasted.
func TestAnotherBrowser(t *testing.T) {
	pasted := make(chan string)
	l, page, result := begin(t, callback.Config{Name: "Acme Notes"}, pasted)
	sent(t, page)
	answer := l.RedirectURI() + "?state=right&code=good"
	res := get(t, answer)
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 403 || !strings.Contains(string(body), "paste it where Acme Notes asks for it") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	pasted <- answer
	returns(t, result, nil)
}

func TestAnyBrowser(t *testing.T) {
	l, _, result := begin(t, callback.Config{AnyBrowser: true}, nil)
	stillWaits(t, l, result)
}

// TestNobodyCanTell plays to a listener of a user who is not root what root's sockets, which are
// anybody's, do to its start page.
func TestNobodyCanTell(t *testing.T) {
	testenv.Need(t, "a second user", runtime.GOOS == "linux" && os.Geteuid() == 0, "only root on Linux can be somebody else")
	t.Parallel() // it waits until nobody else can come
	for name, play := range map[string]func(t *testing.T, page, answer string) (want error){
		"one browser": func(t *testing.T, page, answer string) error {
			browser := sent(t, page)
			if _, err := testenv.Begin(t.Context(), browser, page); err != nil { // it is back after a crash
				t.Error(err)
			}
			start := time.Now()
			if got := status(t, browser, answer); got != 200 {
				t.Errorf("the answer gets %d", got)
			}
			if d := time.Since(start); d < 1900*time.Millisecond {
				t.Errorf("it counts after %v already", d)
			}
			return nil
		},
		"a second one before the answer": func(t *testing.T, page, answer string) error {
			sent(t, page)
			if got := status(t, testenv.NewBrowser(), page); got != 409 {
				t.Errorf("it gets %d", got)
			}
			return callback.ErrOpenedTwice
		},
		"a second one after the answer": func(t *testing.T, page, answer string) error {
			browser := sent(t, page)
			held := make(chan int, 1)
			go func() { held <- status(t, browser, answer) }()
			time.Sleep(200 * time.Millisecond) // it may be before the answer as well
			if got := status(t, testenv.NewBrowser(), page); got != 409 {
				t.Errorf("it gets %d", got)
			}
			if got := <-held; got != 409 && got != 410 {
				t.Errorf("the first one's answer gets %d", got)
			}
			return callback.ErrOpenedTwice
		},
		"many wrong answers do not add up": func(t *testing.T, page, answer string) error {
			browser := sent(t, page)
			start := time.Now()
			for range 5 {
				go status(t, browser, strings.Replace(answer, "right", "wrong", 1))
			}
			time.Sleep(100 * time.Millisecond)
			if got := status(t, browser, answer); got != 200 {
				t.Errorf("the answer gets %d", got)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it counts after %v only", d)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env, cmd.Dir = []string{}, "/"
			asNobody(cmd)
			child := testenv.Start(t, cmd)
			uri, page := ask(t, child, "listen"), ask(t, child, "start")
			child.Send("wait")
			want := play(t, page, uri+"?state=right&code=good")
			var got string
			if !child.Receive(&got) || got != fmt.Sprint(want) {
				t.Errorf("Wait returns %q, want %v", got, want)
			}
		})
	}
}
