package testenv

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Secrets are strings that must not be seen, and the one check that they are not. A test adds
// those that it knows; [Secrets.Transport] and [Secrets.Before] take the others off the wire. The
// zero Secrets has none. It is safe for concurrent use.
type Secrets struct {
	mu    sync.Mutex
	kinds map[string]string         // what a secret is
	parts map[int]map[string]string // parts of all forms of it, by their length
	heads [1 << 16]bool             // how parts begin
}

// secretMembers are the names under which OAuth sends secrets.
var secretMembers = []string{
	"code", "code_verifier", "state", "access_token", "refresh_token", "id_token", "client_secret",
	"registration_access_token", "token", "password",
}

// Add adds a secret and says what it is. What is shorter than 8 bytes would be found everywhere.
func (s *Secrets) Add(what, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(value) < 8 || s.kinds[value] != "" {
		return
	}
	if s.kinds == nil {
		s.kinds, s.parts = map[string]string{}, map[int]map[string]string{}
	}
	s.kinds[value] = what
	add := func(form string, size int) {
		size = min(size, len(form))
		if s.parts[size] == nil {
			s.parts[size] = map[string]string{}
		}
		// Of these parts one is in whatever shows twice its length.
		for i := 0; i+size <= len(form); i += size {
			part := form[i : i+size]
			s.parts[size][part] = what
			s.heads[head(part)] = true
		}
	}
	data := []byte(value)
	quoted := strconv.Quote(value)
	encoded, _ := json.Marshal(value)
	for _, form := range []string{
		value, url.QueryEscape(value), url.PathEscape(value), quoted[1 : len(quoted)-1], string(encoded[1 : len(encoded)-1]),
	} {
		add(form, 16)
	}
	for _, form := range []string{
		hex.EncodeToString(data), fmt.Sprintf("%X", data), fmt.Sprintf("% x", data), strings.Trim(fmt.Sprint(data), "[]"),
		strings.Trim(fmt.Sprintf("%#v", data), "[]byte{}"),
	} {
		add(form, 48)
	}
	// In base64 a secret looks in three ways, by what is before it. What it shares a letter with
	// is left out.
	for before := range 3 {
		form := append(make([]byte, before), data...)
		form = form[:len(form)/3*3]
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := encoding.EncodeToString(form)
			if before > 0 {
				text = text[4:]
			}
			if len(text) >= 8 {
				add(text, 16)
			}
		}
	}
}

func head(text string) uint16 {
	return uint16(text[0]) ^ uint16(text[1])<<4 ^ uint16(text[2])<<8 ^ uint16(text[3])<<12
}

// Find says which kinds of secrets text shows: a long one counts from some 32 bytes of it on,
// and so does what is escaped, in hexadecimal, in base64, or a list of numbers.
func (s *Secrets) Find(text string) (kinds []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]bool{}
	for size, parts := range s.parts {
		for i := 0; i+size <= len(text); i++ {
			if s.heads[head(text[i:])] {
				if what, ok := parts[text[i:i+size]]; ok {
					found[what] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Sweep fails the test for each kind of secret that text, which was found at where, shows.
func (s *Secrets) Sweep(t testing.TB, where, text string) {
	t.Helper()
	for _, kind := range s.Find(text) {
		t.Errorf("%s shows a secret: %s", where, kind)
	}
}

// Want fails the test unless there is a secret of each kind: to sweep for others proves nothing.
func (s *Secrets) Want(t testing.TB, kinds ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	have := slices.Collect(maps.Values(s.kinds))
	for _, kind := range kinds {
		if !slices.Contains(have, kind) {
			t.Errorf("there was no %s to look for", kind)
		}
	}
}

// Transport returns a transport over base that takes down the secrets that pass.
func (s *Secrets) Transport(base http.RoundTripper) http.RoundTripper {
	return listener{s, base}
}

type listener struct {
	*Secrets
	base http.RoundTripper
}

func (l listener) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		sent, _ = io.ReadAll(req.Body)
		_ = req.Body.Close()
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	l.form(req.URL.Query())
	if v, err := url.ParseQuery(string(sent)); err == nil {
		l.form(v)
	}
	if scheme, credentials, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
		l.Add(scheme+" credentials", credentials)
	}
	resp, err := l.base.RoundTrip(req)
	if err != nil || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, err // a stream may last
	}
	received, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(received), failing{err}))
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil {
		l.form(u.Query())
	}
	var doc map[string]any
	if json.Unmarshal(received, &doc) == nil {
		for _, name := range secretMembers {
			if text, ok := doc[name].(string); ok {
				l.Add(name, text)
			}
		}
	}
	return resp, nil
}

// failing is the end of a body that broke off, or did not.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

func (s *Secrets) form(v url.Values) {
	for _, name := range secretMembers {
		for _, value := range v[name] {
			s.Add(name, value)
		}
	}
}

// Before puts a proxy that takes down secrets before each of the servers with these origins
// (http://HOST:PORT). Who comes to one of them sees the proxies' addresses wherever the servers
// name their own; seen gives text from the servers the same appearance.
func (s *Secrets) Before(t testing.TB, origins ...string) (seen func(text string) string) {
	proxies := make([]*httptest.Server, len(origins))
	translate := func(text string, out bool) string {
		for i, p := range proxies {
			from, to := strings.TrimPrefix(origins[i], "http://"), strings.TrimPrefix(p.URL, "http://")
			if out {
				from, to = to, from
			}
			text = strings.ReplaceAll(text, from, to)
			text = strings.ReplaceAll(text, url.QueryEscape(from), url.QueryEscape(to))
		}
		return text
	}
	through := s.Transport(&http.Transport{DisableKeepAlives: true})
	for i := range proxies {
		proxies[i] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			req, err := http.NewRequestWithContext(r.Context(), r.Method, origins[i]+translate(r.URL.RequestURI(), true), strings.NewReader(translate(string(body), true)))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header = r.Header.Clone()
			req.Header.Del("Accept-Encoding")
			resp, err := through.RoundTrip(req)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			defer resp.Body.Close()
			for name, values := range resp.Header {
				for _, v := range values {
					w.Header().Add(name, translate(v, false))
				}
			}
			answer, err := io.ReadAll(resp.Body)
			answer = []byte(translate(string(answer), false))
			if err == nil {
				w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = w.Write(answer)
			if err != nil {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}))
		t.Cleanup(proxies[i].Close)
		t.Cleanup(proxies[i].CloseClientConnections)
	}
	return func(text string) string { return translate(text, false) }
}
