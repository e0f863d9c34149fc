package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/discovery"
)

func TestParseChallenge(t *testing.T) {
	const m = `resource_metadata="https://h/m"`
	found := discovery.Challenge{Scheme: "Bearer", ResourceMetadata: "https://h/m"}
	none := discovery.Challenge{}
	for _, test := range []struct {
		name  string
		lines []string
		want  discovery.Challenge
	}{
		{"no header", nil, none},
		{"empty", []string{""}, none},
		{"no parameter", []string{"Bearer"}, discovery.Challenge{Scheme: "Bearer"}},
		{"all of ours", []string{`Bearer realm="r", error="insufficient_scope", error_description="more \"please\"", scope="a b", ` + m},
			discovery.Challenge{"Bearer", "https://h/m", "a b", "insufficient_scope", `more "please"`}},
		{"case and space", []string{"bEARER  RESOURCE_metadata =\t\"https://h/m\" ,"}, found},
		{"token values", []string{"Bearer error=invalid_token , scope=a"}, discovery.Challenge{Scheme: "Bearer", Error: "invalid_token", Scope: "a"}},
		{"URL without quotes", []string{"Bearer resource_metadata=https://h/m"}, found},
		{"empty quoted value", []string{`Bearer realm="", ` + m}, found},
		{"comma and scheme in quotes", []string{`Basic realm="a, Bearer scope=x", Bearer ` + m}, found},
		{"escaped backslash before the quote", []string{`Basic realm="a\\", Bearer ` + m}, found},
		{"after Basic", []string{`Basic realm="x", Bearer ` + m}, found},
		{"after a bare scheme", []string{`Negotiate, Bearer ` + m}, found},
		{"after token68", []string{`Negotiate YII==, Bearer ` + m}, found},
		{"before another scheme", []string{`Bearer ` + m + `, Basic realm="x"`}, found},
		{"second line", []string{`Basic realm="x"`, `Bearer ` + m}, found},
		{"first of two", []string{`Bearer ` + m + `, Bearer scope="b"`, `Bearer scope="c"`}, found},
		{"only others", []string{`Basic realm="x"`, `DPoP algs="ES256"`}, none},
		{"malformed line before", []string{`Bearer scope="open`, `Bearer ` + m}, found},
		{"no comma", []string{`Bearer error="x" ` + m}, none},
		{"no value", []string{`Bearer resource_metadata=`}, discovery.Challenge{Scheme: "Bearer"}}, // that is a token68
		{"parameter twice", []string{`Bearer ` + m + `, ` + m}, none},
		{"not a challenge", []string{`"Bearer"`, `=`, `,,,`, "\xff"}, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := discovery.ParseChallenge(http.Header{"Www-Authenticate": test.lines}); got != test.want {
				t.Errorf("%q:\n got %+v\nwant %+v", test.lines, got, test.want)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	const challenge = `Bearer resource_metadata="https://api.example.com/m", scope="a"`
	unauthorized := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	}
	for _, test := range []struct {
		name  string
		pages pages
		in    bool
		err   bool
		want  []string
	}{
		{"401", pages{server: unauthorized}, true, false, []string{server}},
		{"200", pages{server: doc(`{"jsonrpc":"2.0","id":1,"result":{}}`)}, false, false, []string{server}},
		{"403 with a challenge", pages{server: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusForbidden)
		}}, false, false, []string{server}},
		{"404", pages{}, false, false, []string{server}},
		{"500", pages{server: page(500, "", "")}, false, false, []string{server}},
		{"redirect within the origin", pages{server: http.RedirectHandler("/mcp/", http.StatusTemporaryRedirect).ServeHTTP, server + "/": unauthorized}, true, false, []string{server, server + "/"}},
		{"redirect to another origin", pages{server: http.RedirectHandler("https://evil.example/?secret", http.StatusTemporaryRedirect).ServeHTTP, "https://evil.example/?secret": unauthorized}, false, true, []string{server}},
		{"redirect to another port", pages{server: http.RedirectHandler("https://api.example.com:444/", http.StatusTemporaryRedirect).ServeHTTP}, false, true, []string{server}},
		{"redirect in a circle", pages{server: http.RedirectHandler(server, http.StatusTemporaryRedirect).ServeHTTP}, false, true, []string{server, server, server, server}},
	} {
		t.Run(test.name, func(t *testing.T) {
			hc, requests := test.pages.serve(t)
			c, in, err := discovery.Probe(t.Context(), hc, server)
			if in != test.in || (err != nil) != test.err {
				t.Errorf("got %v, %v", in, err)
			}
			if want := (discovery.Challenge{Scheme: "Bearer", ResourceMetadata: "https://api.example.com/m", Scope: "a"}); in && c != want || !in && c != (discovery.Challenge{}) {
				t.Errorf("challenge %+v", c)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the redirect: %v", err)
			}
			if !slices.Equal(requests(), test.want) {
				t.Errorf("requests %q, want %q", requests(), test.want)
			}
		})
	}
	t.Run("401 without a challenge", func(t *testing.T) {
		hc, _ := pages{server: page(401, "", "")}.serve(t)
		if c, in, err := discovery.Probe(t.Context(), hc, server); c != (discovery.Challenge{}) || !in || err != nil {
			t.Errorf("got %+v, %v, %v", c, in, err)
		}
	})
	t.Run("is a ping", func(t *testing.T) {
		hc, _ := pages{server: func(_ http.ResponseWriter, r *http.Request) {
			var ping struct {
				JSONRPC, Method string
				ID              int
			}
			if err := json.NewDecoder(r.Body).Decode(&ping); err != nil || ping.JSONRPC != "2.0" || ping.Method != "ping" || ping.ID == 0 {
				t.Errorf("body %+v, %v", ping, err)
			}
			accept := r.Header.Get("Accept")
			if r.Method != "POST" || r.Header.Get("Authorization") != "" || r.Header.Get("Content-Type") != "application/json" ||
				!strings.Contains(accept, "application/json") || !strings.Contains(accept, "text/event-stream") {
				t.Errorf("%s with %v", r.Method, r.Header)
			}
		}}.serve(t)
		if _, _, err := discovery.Probe(t.Context(), hc, server); err != nil {
			t.Error(err)
		}
	})
	t.Run("endless body", func(t *testing.T) {
		hc, _ := pages{server: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
					return
				}
			}
		}}.serve(t)
		if _, in, err := discovery.Probe(t.Context(), hc, server); !in || err != nil {
			t.Errorf("got %v, %v", in, err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		srv := httptest.NewServer(nil)
		srv.Close()
		if _, in, err := discovery.Probe(t.Context(), nil, srv.URL); in || err == nil {
			t.Errorf("got %v, %v", in, err)
		}
	})
	t.Run("context", func(t *testing.T) {
		hc, _ := pages{server: hang}.serve(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := discovery.Probe(ctx, hc, server); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
