package callback_test

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/callback"
)

// recorder starts a wait that never decides, and returns what reached its check.
func recorder(f *testing.F, config callback.Config, pasted <-chan string) (*callback.Listener, <-chan url.Values) {
	l, err := callback.Listen(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	checked := make(chan url.Values, 1)
	go func() {
		_ = l.Wait(context.Background(), func(_ context.Context, v url.Values) error {
			checked <- v
			return callback.ErrIgnored
		}, pasted)
	}()
	return l, checked
}

func equal(a, b url.Values) bool { return maps.EqualFunc(a, b, slices.Equal) }

// FuzzRequest holds that check sees a request's query only where the request
// line is GET and the exact path, and then all of it.
func FuzzRequest(f *testing.F) {
	for _, request := range []string{
		"GET /callback?state=right&code=good HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback HTTP/1.0\r\nHost: HOST\r\n\r\n",
		"GET //callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET http://HOST/callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /callback/../callback?state=right HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"GET /%63allback?state=%zz HTTP/1.1\r\nHost: evil.example\r\nHost: HOST\r\n\r\n",
		"POST /callback?a;b HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na=b&c\r\n0\r\n\r\nGET /callback?x",
		"\r\n\r\nGET /callback?\x00 HTTP/1.1\nHost:HOST\n\n",
	} {
		f.Add(request)
	}
	l, checked := recorder(f, callback.Config{}, nil)
	f.Fuzz(func(t *testing.T, request string) {
		raw(t, l, request)
		select {
		case got := <-checked:
			line, _, _ := strings.Cut(request, "\n")
			target, ok := strings.CutPrefix(line, "GET /callback")
			target, _, found := strings.Cut(target, " ")
			if !ok || !found || target != "" && target[0] != '?' {
				t.Fatalf("check was called for %q", line)
			}
			want, err := url.ParseQuery(strings.TrimPrefix(target, "?"))
			if err != nil || !equal(got, want) {
				t.Errorf("check got %q, want %q (%v)", got, want, err)
			}
		default:
		}
	})
}

// FuzzPasted holds that check sees a pasted address only if its path is exact,
// and then its whole query; that every address with the exact path and a good
// query gets there; and that what does not is reported without its words.
func FuzzPasted(f *testing.F) {
	for _, s := range []string{
		"http://127.0.0.1:20000/callback?state=right&code=good",
		"http://localhost/callback?state=right#x",
		"localhost:3142/callback?code=good",
		"https://evil.example/callback/?code=good",
		"?state=right;code=good",
		"iss=https://auth.example/realms/x?y&state=right",
		"//callback?x=1", "/callback?x=1", "a=%zz", "=", "?", "/", "#",
	} {
		f.Add(s)
	}
	pasted := make(chan string)
	ignored := make(chan error, 1)
	_, checked := recorder(f, callback.Config{OnIgnored: func(err error) { ignored <- err }}, pasted)
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.TrimSpace(s)
		if s == "" {
			return
		}
		pasted <- s
		err := <-ignored // the check, too, ends in ErrIgnored
		var got url.Values
		select {
		case got = <-checked:
		default:
		}
		if !errors.Is(err, callback.ErrIgnored) {
			t.Errorf("OnIgnored(%v)", err)
		}
		u, perr := url.Parse(s)
		if perr != nil || u.Scheme == "" || u.Host == "" {
			return
		}
		want, qerr := url.ParseQuery(u.RawQuery)
		switch exact := u.EscapedPath() == "/callback"; {
		case !exact && got != nil:
			t.Errorf("check was called for the path %q", u.EscapedPath())
		case exact && qerr == nil && len(s) < 16<<10 && got == nil:
			t.Errorf("check was not called: %v", err)
		case got != nil && !equal(got, want):
			t.Errorf("check got %q, want %q", got, want)
		}
	})
}
