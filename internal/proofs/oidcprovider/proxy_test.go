package oidcprovider

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// A proxy stands in front of the provider and sees everything that it is asked: the client's
// requests and the browser's. It does what a bad network does.
type proxy struct {
	*httptest.Server

	mu       sync.Mutex
	provider *url.URL
	fault    fault
	trace    []string
	spent    map[string]int // how often each refresh token was sent
	answered int            // refreshes that have an answer
	requests []url.Values   // at the token endpoint
}

// A fault changes what becomes of requests of one kind, such as "refresh".
type fault struct {
	kind   string
	ask    func(url.Values)                     // changes the form, if not nil
	refuse int                                  // the status that is answered in the provider's place, if not 0
	answer func(*http.Response, map[string]any) // changes the answer, if not nil
	delay  time.Duration                        // between carrying it out and the answer
	cut    bool                                 // carried out, and no answer
}

func newProxy(t *testing.T) *proxy {
	p := &proxy{spent: map[string]int{}}
	p.Server = httptest.NewServer(testenv.Proxy(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			p.mu.Lock()
			defer p.mu.Unlock()
			r.SetURL(p.provider)
			r.Out.Host = r.In.Host
		},
		Transport: p,
		// What the fault leaves of an answer is none.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}))
	t.Cleanup(p.Close)
	t.Cleanup(p.CloseClientConnections)
	return p
}

// front puts p before the provider at origin.
func (p *proxy) front(t *testing.T, origin string) {
	u, err := url.Parse(origin)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.provider = u
}

// set makes f the fault; the zero one ends it.
func (p *proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// RoundTrip asks the provider.
func (p *proxy) RoundTrip(req *http.Request) (*http.Response, error) {
	var form url.Values
	if req.Body != nil && strings.HasPrefix(req.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		if form, err = url.ParseQuery(string(body)); err != nil {
			return nil, err
		}
	}
	kind := kindOf(req, form)
	p.mu.Lock()
	var f fault
	if p.fault.kind == kind {
		f = p.fault
	}
	if req.URL.Path == "/token" {
		p.requests = append(p.requests, form)
		if token := form.Get("refresh_token"); token != "" {
			p.spent[token]++
		}
	}
	p.mu.Unlock()

	if f.refuse != 0 {
		p.saw(kind, strconv.Itoa(f.refuse))
		return &http.Response{StatusCode: f.refuse, Request: req, Header: http.Header{}, Body: http.NoBody}, nil
	}
	if form != nil {
		if f.ask != nil {
			form = url.Values(http.Header(form).Clone())
			f.ask(form)
		}
		body := form.Encode()
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || kind == "" {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	var answer map[string]any
	_ = json.Unmarshal(body, &answer) // which many are not
	if f.answer != nil {
		f.answer(resp, answer)
		if body, err = json.Marshal(answer); err != nil {
			return nil, err
		}
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))

	what := []string{strconv.Itoa(resp.StatusCode)}
	code, _ := answer["error"].(string)
	if to, err := resp.Location(); err == nil {
		code = to.Query().Get("error")
		if to.Host == req.Host {
			return resp, nil // to one of the provider's pages
		}
	}
	select {
	case <-time.After(f.delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if f.cut {
		p.saw(kind, "cut off")
		return nil, io.ErrUnexpectedEOF
	}
	if code != "" {
		what = append(what, code)
	}
	p.saw(kind, what...)
	return resp, nil
}

// kindOf returns what is asked of the provider, or "" where it does not matter.
func kindOf(req *http.Request, form url.Values) string {
	switch path := req.URL.Path; {
	case path == "/reg" && req.Method == http.MethodPost:
		return "register"
	case path == "/auth" || strings.HasPrefix(path, "/auth/"):
		return "authorize"
	case path == "/token/revocation":
		return "revoke " + form.Get("token_type_hint")
	case path == "/token" && form.Get("grant_type") == "refresh_token":
		return "refresh"
	case path == "/token":
		return "code"
	}
	return ""
}

// saw notes an event. An event that repeats is noted once.
func (p *proxy) saw(kind string, what ...string) {
	event := kind + " " + strings.Join(what, " ")
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == "refresh" {
		p.answered++
	}
	if !slices.Contains(p.trace[max(len(p.trace)-1, 0):], event) {
		p.trace = append(p.trace, event)
	}
}

// happened returns the events, of which those of an ordinary sign-in are one,
// and what they come to.
func (p *proxy) happened() string {
	sent, tokens := p.refreshes()
	p.mu.Lock()
	defer p.mu.Unlock()
	all := strings.Join(p.trace, ", ")
	all = strings.ReplaceAll(all, "authorize 303, code 200", "sign-in")
	switch {
	case all == "":
		return "nothing"
	case sent > tokens:
		return all + "; a refresh token is sent again"
	case sent > 0:
		return all + "; each refresh token is sent once"
	}
	return all
}

// refreshes counts requests, whatever became of them, and the tokens in them.
func (p *proxy) refreshes() (sent, tokens int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.spent {
		sent += n
	}
	return sent, len(p.spent)
}

// refreshed returns how many refreshes have an answer, which the trace then shows.
func (p *proxy) refreshed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered
}

// forms returns what was sent to the token endpoint.
func (p *proxy) forms() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}
