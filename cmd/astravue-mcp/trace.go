package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
)

// An exchange is one request and its answer, without secrets.
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

// trace is a transport that keeps and shows every exchange, with its step. Steps without a request
// of their own (PKCE, the sign-in page, the callback) are added as exchanges that stand for them.
type trace struct {
	srv  *sandbox.Server
	show func(*exchange) // is called for one exchange at a time

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

// shownMembers are the members that a trace shows. It is a list of what is allowed, since a server
// may put a secret anywhere.
var shownMembers = []string{
	"grant_type", "client_id", "client_name", "redirect_uris", "redirect_uri", "application_type", "grant_types",
	"response_type", "token_endpoint_auth_method", "scope", "resource", "prompt", "code_challenge", "code_challenge_method",
	"authorization_servers", "scopes_supported", "issuer", "authorization_endpoint", "token_endpoint",
	"registration_endpoint", "revocation_endpoint", "code_challenge_methods_supported",
	"token_type", "expires_in", "refresh_expires_in", "token_type_hint", "iss", "error", "error_description",
}

// redactedMembers are shown as redacted. Members on neither list are left out.
var redactedMembers = []string{
	"code", "code_verifier", "state", "access_token", "refresh_token", "client_secret", "registration_access_token", "token",
}

func redact(m map[string]any) map[string]any {
	out := make(map[string]any)
	for name, v := range m {
		switch {
		case slices.Contains(shownMembers, name):
			out[name] = v
		case slices.Contains(redactedMembers, name):
			out[name] = "[redacted]"
		}
	}
	return out
}

// authorize shows step 4: the browser makes that request, not this transport.
func (t *trace) authorize(raw string) {
	u, err := url.Parse(raw)
	if err != nil {
		return
	}
	sent := redact(values(u.Query()))
	u.RawQuery = ""
	t.add(mcpclient.StepAuthorize, &exchange{Method: "open", URL: u.String(), Sent: sent})
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

// step returns the step that a request belongs to, and sets what e shows of its body.
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
	case req.Method == http.MethodGet && req.URL.Query().Has("client_id"):
		e.Sent = redact(values(req.URL.Query()))
		e.Title = "is the client of the last sign-in still registered?"
		return mcpclient.StepRegistration
	case req.Method == http.MethodGet:
		return mcpclient.StepDiscovery
	case members["redirect_uris"] != nil:
		t.add(mcpclient.StepPKCE, &exchange{Method: "make", URL: "code_verifier, 32 random bytes, and code_challenge, its SHA-256"})
		return mcpclient.StepRegistration
	case members["grant_type"] == "refresh_token":
		return mcpclient.StepRefresh
	case members["grant_type"] != nil:
		// The browser has come back: the callback is checked before the code is sent.
		t.add(mcpclient.StepCallback, &exchange{Method: http.MethodGet, URL: fmt.Sprint(members["redirect_uri"]), Sent: map[string]any{
			"code": "[redacted]", "state": "[redacted]", "iss": t.srv.Issuer(),
		}})
		return mcpclient.StepExchange
	}
	e.Title = "revoke the tokens"
	return mcpclient.StepConnect
}

// values returns the parameters of a query or form as members.
func values(v url.Values) map[string]any {
	m := make(map[string]any)
	for name, all := range v {
		m[name] = strings.Join(all, " ")
	}
	return m
}
