package testenv

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// What Find cannot see, no sweep sees.
func TestSecretsAreFound(t *testing.T) {
	long := strings.Repeat("k3", 20) + "/+ü\"\\" + strings.Repeat("Zq", 20)
	short := "hunter2&secret"
	var s Secrets
	s.Add("long", long)
	s.Add("short", short)
	for _, secret := range []struct{ kind, value string }{{"long", long}, {"short", short}} {
		v := secret.value
		type holder struct{ V []byte }
		encoded, err := json.Marshal(holder{[]byte("x" + v)})
		if err != nil {
			t.Fatal(err)
		}
		var text, object, twice bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&object, nil)).Info("x", "v", v)
		_, _ = io.WriteString(&twice, "x"+v[:7])
		_, _ = io.WriteString(&twice, v[7:]+"x")
		for form, shown := range map[string]string{
			"as it is": v, "in two writes": twice.String(), "in an error": errors.Join(fmt.Errorf("no: %s", v)).Error(),
			"quoted": fmt.Sprintf("%q", v), "for Go": fmt.Sprintf("%#v", holder{[]byte(v)}), "in JSON": object.String(), "in a log": text.String(),
			"bytes": fmt.Sprint([]byte("x" + v)), "a list": fmt.Sprintf("%d", []byte(v)),
			"hexadecimal": fmt.Sprintf("%x", v), "in capitals": fmt.Sprintf("%X", v), "spaced": fmt.Sprintf("% x", v),
			"query": url.QueryEscape(v), "path": url.PathEscape(v), "form": url.Values{"x": {v}}.Encode(),
			"base64 in JSON": string(encoded),
			"base64":         base64.StdEncoding.EncodeToString([]byte(v)), "of an address": base64.RawURLEncoding.EncodeToString([]byte(v)),
			"base64 behind one":   base64.StdEncoding.EncodeToString([]byte("x" + v)),
			"base64 behind two":   base64.URLEncoding.EncodeToString([]byte("xy" + v + "z")),
			"basic authorization": base64.StdEncoding.EncodeToString([]byte("client:" + v)),
		} {
			for _, around := range []string{"%s", "before %s after", "\x00\xff%s\xff", strings.Repeat("x", 10000) + "%s"} {
				if got := s.Find(fmt.Sprintf(around, shown)); !slices.Equal(got, []string{secret.kind}) {
					t.Errorf("%s, %s: found %q in %q", secret.kind, form, got, shown)
				}
			}
		}
	}
	if got := s.Find("a part: " + long[9:41]); !slices.Equal(got, []string{"long"}) {
		t.Errorf("a part: found %q", got)
	}
	for _, other := range []string{"", "hunter", "hunter2", strings.Repeat("k4", 1000), long[:15], fmt.Sprintf("%x", "another secret")} {
		if got := s.Find(other); len(got) != 0 {
			t.Errorf("found %q in %q", got, other)
		}
	}
}

func TestSecretsOffTheWire(t *testing.T) {
	const address = "/x?state=the-state-of-it"
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		w.Header().Set("Location", server.URL+"/back?code=the-code-of-it")
		fmt.Fprintf(w, `{"access_token":"the-token-of-it","issuer":%q}`, server.URL)
	}))
	defer server.Close()
	var s Secrets
	seen := s.Before(t, server.URL)
	req, err := http.NewRequest("POST", seen(server.URL)+address, strings.NewReader(url.Values{"code_verifier": {"the-verifier-of-it"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Basic the-basic-of-it")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(answer) + resp.Header.Get("Location"); strings.Contains(text, server.URL) || strings.Count(text, seen(server.URL)) != 2 {
		t.Errorf("the server is seen itself: %s", text)
	}
	for kind, value := range map[string]string{
		"state": "the-state-of-it", "code": "the-code-of-it", "code_verifier": "the-verifier-of-it",
		"access_token": "the-token-of-it", "Basic credentials": "the-basic-of-it",
	} {
		if got := s.Find(value); !slices.Equal(got, []string{kind}) {
			t.Errorf("of the %s, found is %q", kind, got)
		}
	}
}
