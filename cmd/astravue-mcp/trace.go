package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
)

// An exchange is one request and its answer, without anything secret.
type exchange struct {
	Step     int            `json:"step"`
	Package  string         `json:"package"`
	Title    string         `json:"title"`
	Method   string         `json:"method"`
	URL      string         `json:"url"`
	Sent     map[string]any `json:"sent,omitempty"`
	Status   int            `json:"status,omitempty"`
	Received map[string]any `json:"received,omitempty"`
}

// trace is a transport that shows what passes it.
type trace struct {
	srv  *sandbox.Server
	show func(*exchange)

	mu        sync.Mutex
	exchanges []*exchange
}

func (t *trace) add(step mcpclient.Step, e *exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Step, e.Package, e.Title = int(step), step.String(), cmp.Or(e.Title, stepTitles[step])
	t.exchanges = append(t.exchanges, e)
	t.show(e)
}

// shown are the members that a trace may show. What is not named here is
// redacted: a server may put a secret anywhere.
var shown = []string{
	"grant_type", "client_id", "client_name", "redirect_uris", "redirect_uri", "application_type", "grant_types",
	"response_type", "token_endpoint_auth_method", "scope", "resource", "prompt", "code_challenge", "code_challenge_method",
	"authorization_servers", "scopes_supported", "issuer", "authorization_endpoint", "token_endpoint",
	"registration_endpoint", "revocation_endpoint", "code_challenge_methods_supported",
	"token_type", "expires_in", "refresh_expires_in", "token_type_hint", "iss", "error", "error_description",
}

// secret are the members that are worth showing as redacted; the rest is left out.
var secret = []string{
	"code", "code_verifier", "state", "access_token", "refresh_token", "client_secret", "registration_access_token", "token",
}

func redact(m map[string]any) map[string]any {
	out := make(map[string]any)
	for name, v := range m {
		switch {
		case slices.Contains(shown, name):
			out[name] = v
		case slices.Contains(secret, name):
			out[name] = "[redacted]"
		}
	}
	return out
}

// authorize shows steps 4 and 5, which are the browser's.
func (t *trace) authorize(raw string) {
	u, err := url.Parse(raw)
	if err != nil {
		return
	}
	sent := redact(values(u.Query()))
	u.RawQuery = ""
	t.add(mcpclient.StepAuthorize, &exchange{Method: "open", URL: u.String(), Sent: sent})
	t.add(mcpclient.StepCallback, &exchange{Method: "wait", URL: fmt.Sprint(sent["redirect_uri"]), Sent: map[string]any{
		"code": "[redacted]", "state": "[redacted]", "iss": t.srv.Issuer(),
	}})
}

func (t *trace) RoundTrip(req *http.Request) (*http.Response, error) {
	e := &exchange{Method: req.Method, URL: req.URL.Scheme + "://" + req.URL.Host + req.URL.Path}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	step := t.step(req, body, e)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	e.Status = resp.StatusCode
	if step == mcpclient.StepConnect {
		if challenge := resp.Header.Get("WWW-Authenticate"); challenge != "" {
			step = mcpclient.StepDiscovery
			e.Received = map[string]any{"WWW-Authenticate": challenge}
		}
		t.add(step, e)
		return resp, nil
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	var members map[string]any
	if json.Unmarshal(answer, &members) == nil {
		e.Received = redact(members)
	}
	t.add(step, e)
	return resp, nil
}

// step tells which step a request belongs to, and notes what it sends.
func (t *trace) step(req *http.Request, body []byte, e *exchange) mcpclient.Step {
	var members map[string]any
	switch mediaType := req.Header.Get("Content-Type"); {
	case mediaType == "application/x-www-form-urlencoded":
		form, _ := url.ParseQuery(string(body))
		members = values(form)
	case len(body) > 0:
		_ = json.Unmarshal(body, &members)
	}
	if e.URL == t.srv.URL() {
		e.Sent = map[string]any{}
		if method, ok := members["method"]; ok {
			e.Sent["method"] = method
			if params, ok := members["params"].(map[string]any); ok && params["name"] != nil {
				e.Sent["name"] = params["name"]
			}
		}
		if req.Header.Get("Authorization") != "" {
			e.Sent["Authorization"] = "Bearer [redacted]"
		}
		return mcpclient.StepConnect
	}
	e.Sent = redact(members)
	switch {
	case req.Method == http.MethodGet:
		return mcpclient.StepDiscovery
	case members["redirect_uris"] != nil:
		t.add(mcpclient.StepPKCE, &exchange{Method: "make", URL: "code_verifier, 32 random bytes, and code_challenge, its SHA-256"})
		return mcpclient.StepRegistration
	case members["grant_type"] == "refresh_token":
		return mcpclient.StepRefresh
	case members["grant_type"] != nil:
		return mcpclient.StepExchange
	}
	e.Title = "the tokens back to the server"
	return mcpclient.StepConnect
}

func values(v url.Values) map[string]any {
	m := make(map[string]any)
	for name, all := range v {
		m[name] = strings.Join(all, " ")
	}
	return m
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

func remarshal(from, into any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

var (
	formTag   = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)".*?</form>`)
	inputTag  = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*>`)
	attribute = regexp.MustCompile(`(name|value)="([^"]*)"`)
)

// signInByItself does what a person does on the sandbox's pages: it fills in
// the sign-in form, approves on the consent page, and follows the redirect.
func signInByItself(ctx context.Context, srv *sandbox.Server, address, user string) error {
	accounts := srv.Accounts()
	i := max(0, slices.IndexFunc(accounts, func(a sandbox.Account) bool { return a.User == user }))
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	hc := &http.Client{Jar: jar}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	page, at, err := fetch(hc, req)
	for range 3 { // sign-in, consent
		if err != nil {
			return err
		}
		form := formTag.FindStringSubmatch(page)
		if form == nil {
			return nil // the application's own page: it is over
		}
		v := url.Values{}
		for _, input := range inputTag.FindAllString(form[0], -1) {
			var name, value string
			for _, a := range attribute.FindAllStringSubmatch(input, -1) {
				if a[1] == "name" {
					name = html.UnescapeString(a[2])
				} else {
					value = html.UnescapeString(a[2])
				}
			}
			v.Set(name, value)
		}
		if strings.Contains(form[0], `name="password"`) {
			v.Set("username", accounts[i].User)
			v.Set("password", accounts[i].Password)
		} else {
			v.Set("decision", "approve")
		}
		action, perr := at.Parse(html.UnescapeString(form[1]))
		if perr != nil {
			return perr
		}
		if req, err = http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(v.Encode())); err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		page, at, err = fetch(hc, req)
	}
	if err == nil && formTag.MatchString(page) {
		return errors.New("the sandbox's pages did not lead back")
	}
	return err
}

func fetch(hc *http.Client, req *http.Request) (page string, at *url.URL, err error) {
	resp, err := hc.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body), resp.Request.URL, err
}
