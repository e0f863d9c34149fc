package oauthhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestGetJSON(t *testing.T) {
	type document struct{ Issuer string }
	duplicate, wrongType, status := &DuplicateError{}, &json.UnmarshalTypeError{}, &StatusError{}
	for name, tc := range map[string]struct {
		status      int
		contentType string
		body        string
		want        any // nil, error, or pointer for errors.As
	}{
		"JSON":                 {200, "application/json", `{"issuer":"x"}`, nil},
		"JSON with charset":    {200, "application/json; charset=utf-8", `{"issuer":"x"}`, nil},
		"other JSON type":      {200, "application/oauth-metadata+json", ` {"issuer":"x"} `, nil},
		"as text":              {200, "text/plain", `{"issuer":"x"}`, nil},
		"malformed type":       {200, ";;", `{"issuer":"x"}`, nil},
		"HTML":                 {200, "text/html; charset=utf-8", `<!doctype html><title>x</title>`, ErrNotJSON},
		"JSON called HTML":     {200, "text/html", `{"issuer":"x"}`, ErrNotJSON},
		"XHTML":                {200, "application/xhtml+xml", `{}`, ErrNotJSON},
		"HTML called JSON":     {200, "application/json", "\n<html>", ErrNotJSON},
		"empty":                {200, "application/json", ``, ErrNotJSON},
		"truncated":            {200, "application/json", `{"issuer":"x"`, ErrNotJSON},
		"trailing data":        {200, "application/json", `{"issuer":"x"}{}`, ErrNotJSON},
		"duplicate":            {200, "application/json", `{"issuer":"x","ISSUER":"y"}`, &duplicate},
		"wrong type":           {200, "application/json", `{"issuer":7}`, &wrongType},
		"array":                {200, "application/json", `[]`, &wrongType},
		"too deep":             {200, "application/json", strings.Repeat("[", 100) + strings.Repeat("]", 100), ErrTooDeep},
		"too large":            {200, "application/json", `{"issuer":"x"` + strings.Repeat(" ", maxBody) + "}", ErrTooLarge},
		"50 MB":                {200, "application/json", strings.Repeat(" ", 50<<20), ErrTooLarge},
		"201":                  {201, "application/json", `{"issuer":"x"}`, &status},
		"404":                  {404, "application/json", `{"issuer":"x"}`, &status},
		"500 HTML":             {500, "text/html", `<html>`, &status},
		"status without words": {599, "", ``, &status},
	} {
		t.Run(name, func(t *testing.T) {
			at := answer(t, tc.status, http.Header{"Content-Type": {tc.contentType}}, tc.body)
			var got document
			err := GetJSON(t.Context(), nil, at, &got)
			switch want := tc.want.(type) {
			case nil:
				if err != nil || got.Issuer != "x" {
					t.Errorf("got %v, %v", got, err)
				}
				return
			case error:
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			default:
				if !errors.As(err, want) {
					t.Errorf("error %v, want %T", err, want)
				}
			}
			if tc.want == any(&status) && status.Status != tc.status {
				t.Errorf("status %d, want %d", status.Status, tc.status)
			}
			if got.Issuer == "y" {
				t.Error("the duplicate won")
			}
		})
	}
}

func TestGetJSONFollowsFewRedirects(t *testing.T) {
	var hops, asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if hops.Add(-1) >= 0 {
			http.Redirect(w, r, "/next", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	defer srv.Close()
	for n, want := range map[int32]error{0: nil, 3: nil, 4: ErrRedirect} {
		hops.Store(n)
		asked.Store(0)
		if err := GetJSON(t.Context(), nil, srv.URL, &struct{}{}); !errors.Is(err, want) {
			t.Errorf("%d redirects: %v", n, err)
		}
		if want := min(n+1, 4); asked.Load() != want {
			t.Errorf("%d redirects: asked %d times, want %d", n, asked.Load(), want)
		}
	}
}

func TestGetJSONChecksRedirects(t *testing.T) {
	var hits atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hits.Add(1) }))
	defer plain.Close()
	for name, location := range map[string]string{
		"from https to http": plain.URL,
		"user info":          "https://u:p@as.example/",
		"file":               "file:///etc/passwd",
		"http elsewhere":     "http://as.example/",
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewTLSServer(http.RedirectHandler(location, http.StatusFound))
			defer srv.Close()
			if err := GetJSON(t.Context(), srv.Client(), srv.URL+"/?q=hidden", &struct{}{}); !errors.Is(err, ErrRedirect) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("error %v, want ErrRedirect", err)
			}
		})
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests arrived in the clear", hits.Load())
	}
}

func TestGetJSONErrorsOfTheConnection(t *testing.T) {
	if err := GetJSON(t.Context(), nil, "http://as.example/", &struct{}{}); !isURLError(err) {
		t.Errorf("http: %v", err)
	}
	cut := raw(t, func(c net.Conn) {
		read(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
	})
	if err := GetJSON(t.Context(), nil, "http://"+cut, &struct{}{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	drip := raw(t, func(c net.Conn) {
		read(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := io.WriteString(c, " "); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := GetJSON(ctx, nil, "http://"+drip, &struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drip: %v", err)
	}
}

func isURLError(err error) bool {
	var e *URLError
	return errors.As(err, &e)
}

func TestPostJSONAndDelete(t *testing.T) {
	var method, bearer, body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		method, bearer, body = r.Method, r.Header.Get("Authorization"), r.Header.Get("Content-Type")+string(b)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
		_, _ = io.WriteString(w, "answer")
	}))
	defer srv.Close()
	status, header, got, err := PostJSON(t.Context(), nil, srv.URL, "tok", map[string]int{"a": 1})
	if err != nil || status != 307 || string(got) != "answer" || header == nil {
		t.Errorf("got %d %v %q %v", status, header, got, err)
	}
	if method != "POST" || bearer != "Bearer tok" || body != `application/json{"a":1}` {
		t.Errorf("sent %s %q %q", method, bearer, body)
	}
	if _, _, _, err := PostJSON(t.Context(), nil, srv.URL, "", 1); err != nil || bearer != "" {
		t.Errorf("bearer %q, error %v", bearer, err)
	}
	status, got, err = Delete(t.Context(), nil, srv.URL, "tok")
	if err != nil || status != 307 || string(got) != "answer" || method != "DELETE" || bearer != "Bearer tok" || body != "" {
		t.Errorf("got %d %q %v, sent %s %q %q", status, got, err, method, bearer, body)
	}
	if _, _, _, err := PostJSON(t.Context(), nil, "ftp://x", "", 1); !isURLError(err) {
		t.Errorf("ftp: %v", err)
	}
	large := answer(t, 201, nil, strings.Repeat(" ", maxBody+1))
	if status, _, _, err := PostJSON(t.Context(), nil, large, "", 1); !errors.Is(err, ErrTooLarge) || status != 201 {
		t.Errorf("large: %d %v", status, err)
	}
}
