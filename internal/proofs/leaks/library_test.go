package leaks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/pkce"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

// newClient returns a client of the env that keeps its tokens in store.
func (e *env) newClient(store tokenstore.Store) *mcpclient.Client {
	return &mcpclient.Client{
		Name: "Acme Notes", Server: e.server, Store: store, Logger: e.log(),
		SignInTimeout: 20 * time.Second, RequestTimeout: 5 * time.Second,
		OpenBrowser: func(ctx context.Context, address string) error {
			e.Add("start page", path.Base(address))
			return browse(ctx, address, e.show)
		},
	}
}

// live takes tokens through a life: sign-in, use, refresh, sign-out. spoil is
// called when there are any. All that comes of it is shown.
func (e *env) live(where string, newClient func() *mcpclient.Client, spoil func()) {
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	show := func(what string, v any, err error) {
		e.print(where+": "+what, v)
		if err != nil {
			e.print(where+": error of "+what, err)
		}
	}
	c := newClient()
	found, err := c.Discover(ctx)
	show("Discover", found, err)
	show("Login", nil, c.Login(ctx, nil))
	show("Close", nil, c.Close())
	spoil()
	c = newClient()
	session, err := c.Connect(ctx)
	show("Connect", nil, err)
	if err == nil {
		call := func() {
			res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
			show("CallTool", res, err)
		}
		call()
		_ = e.srv.ExpireAccess("olivia")
		call()
		call()
		_ = session.Close()
	}
	status, err := c.Status(ctx)
	show("Status", status, err)
	out, err := c.Logout(ctx)
	show("Logout", out, err)
	show("Close", nil, c.Close())
	e.print(where+": Client", c)
}

// Every step goes wrong in every way that the sandbox knows.
func TestErrorsOfFaults(t *testing.T) {
	t.Parallel() // it waits for sign-ins that do not end
	for _, step := range []sandbox.Step{
		"", sandbox.StepChallenge, sandbox.StepResourceMetadata, sandbox.StepServerMetadata, sandbox.StepRegister,
		sandbox.StepAuthorize, sandbox.StepExchange, sandbox.StepRefresh, sandbox.StepRevoke, sandbox.StepMCP,
	} {
		t.Run(string("at "+step), func(t *testing.T) {
			for name, f := range map[string]sandbox.Fault{
				"refused":       {Status: 400, Body: `{"error":"invalid_grant"}`},
				"unauthorized":  {Status: 401, Body: `{"error":"invalid_client"}`},
				"forbidden":     {Status: 403, Body: `{"error":"access_denied"}`},
				"broken":        {Status: 500, Body: "oops"},
				"not JSON":      {Body: "<html>"},
				"another type":  {CarryOut: true, Set: map[string]any{"access_token": 7, "client_id": 7, "issuer": 7, "iss": "https://other.example"}},
				"no token type": {CarryOut: true, Set: map[string]any{"token_type": "mac", "error": "access_denied", "code": nil}},
				"cut off":       {CarryOut: true, Drop: true, Cut: 200},
				"lost":          {CarryOut: true, Drop: true},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					e := newEnv(t, "client_secret")
					store := new(tokenstore.Memory)
					if step != "" && step != sandbox.StepMCP {
						e.srv.Fail(step, f)
					}
					e.live(name, func() *mcpclient.Client {
						c := e.newClient(store)
						if step == sandbox.StepAuthorize {
							c.SignInTimeout = 2 * time.Second // the browser does not always come back
						}
						return c
					}, func() {
						if step == sandbox.StepMCP {
							e.srv.Fail(step, f)
						}
					})
					if step != "" && !slices.ContainsFunc(e.srv.Requests(), func(r sandbox.Request) bool { return r.Fault && r.Step == step }) {
						t.Error("nothing went wrong")
					}
					if step == "" {
						e.Want(t, "code", "code_verifier", "state", "access_token", "refresh_token", "registration_access_token")
					}
				})
				if step == "" {
					break
				}
			}
		})
	}
}

// An echo is a transport to a server that at some requests says what it is told.
type echo struct {
	at      func(auth string, form url.Values) bool
	answer  func(told string) *http.Response
	answers atomic.Int32
}

func (e *echo) RoundTrip(req *http.Request) (*http.Response, error) {
	auth, sent := req.Header.Get("Authorization"), ""
	if req.Body != nil {
		data, err := io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
		sent = string(data)
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(strings.NewReader(sent))
	}
	form, _ := url.ParseQuery(sent)
	if !e.at(auth, form) {
		return http.DefaultTransport.RoundTrip(req)
	}
	told := auth + " " + sent
	for _, values := range form {
		told += " " + strings.Join(values, " ")
	}
	e.answers.Add(1)
	resp := e.answer(strings.NewReplacer(`"`, "'", `\`, "/").Replace(told))
	resp.ProtoMajor, resp.ProtoMinor, resp.Request = 1, 1, req
	return resp, nil
}

func TestErrorsOfServersThatEcho(t *testing.T) {
	t.Parallel()
	answer := func(status int, header, body string) *http.Response {
		resp := &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
		name, value, _ := strings.Cut(header, ": ")
		resp.Header.Set("Content-Type", "application/json")
		resp.Header.Set(name, value)
		return resp
	}
	never := func(string, url.Values) bool { return false }
	for at, match := range map[string]func(auth string, form url.Values) bool{
		"exchange": func(_ string, form url.Values) bool { return form.Get("grant_type") == "authorization_code" },
		"refresh":  func(_ string, form url.Values) bool { return form.Get("grant_type") == "refresh_token" },
		"revoke":   func(_ string, form url.Values) bool { return form.Has("token") },
		"use":      func(auth string, _ url.Values) bool { return strings.HasPrefix(auth, "Bearer ") },
	} {
		method := "client_secret_post"
		if at == "refresh" || at == "revoke" {
			method = "client_secret_basic"
		}
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, "client_secret")
			id, secret := e.srv.App()
			for name, make := range map[string]func(told string) *http.Response{
				"description": func(s string) *http.Response {
					return answer(400, "", `{"error":"invalid_grant","error_description":"`+s+`"}`)
				},
				"error": func(s string) *http.Response { return answer(400, "", `{"error":"`+s+`"}`) },
				"address": func(s string) *http.Response {
					return answer(400, "", `{"error":"invalid_request","error_uri":"https://x.example/`+s+`"}`)
				},
				"page": func(s string) *http.Response { return answer(500, "Content-Type: text/html", s) },
				"token type": func(s string) *http.Response {
					return answer(200, "", `{"access_token":"another one of theirs","token_type":"`+s+`"}`)
				},
				"broken JSON": func(s string) *http.Response { return answer(200, "", `{"access_token":"`+s) },
				"expiry": func(s string) *http.Response {
					return answer(200, "", `{"access_token":"another one of theirs","token_type":"Bearer","expires_in":"`+s+`"}`)
				},
				"redirect": func(s string) *http.Response {
					return answer(302, "Location: https://other.example/?"+url.QueryEscape(s), "")
				},
				"challenge": func(s string) *http.Response {
					return answer(401, `WWW-Authenticate: Bearer error="invalid_token", error_description="`+s+`"`, "")
				},
				"challenged page": func(s string) *http.Response {
					return answer(403, `WWW-Authenticate: Bearer error="`+s+`", scope="`+s+`"`, "")
				},
				"retry": func(s string) *http.Response { return answer(429, "Retry-After: "+s, "{}") },
				"type":  func(s string) *http.Response { return answer(200, "Content-Type: "+s, "{}") },
				"status": func(s string) *http.Response {
					resp := answer(400, "", "{}")
					resp.Status = "400 " + s
					return resp
				},
			} {
				transport := &echo{at: never, answer: make}
				if at == "exchange" {
					transport.at = match
				}
				store := new(tokenstore.Memory)
				e.live(name, func() *mcpclient.Client {
					c := e.newClient(store)
					c.Transport = transport
					c.Registration = mcpclient.Registration{ClientID: id, ClientSecret: tokenstore.NewSecret(secret), AuthMethod: method}
					return c
				}, func() { transport.at = match })
				if transport.answers.Load() == 0 {
					t.Errorf("%s: nothing was asked", name)
				}
			}
		})
	}
}

// Whatever of the library's own holds a secret, and may be printed by who holds it.
func TestValues(t *testing.T) {
	e := newEnv(t)
	text := func(what string) tokenstore.Secret {
		s := rand.Text()
		e.Add(what, s)
		return tokenstore.NewSecret(s)
	}
	verifier := pkce.New()
	e.Add("code_verifier", verifier.Secret().Reveal())
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	e.Add("identity", identity.String())
	grant := &tokenstore.Grant{
		Server: e.server, Issuer: e.srv.Issuer(), TokenEndpoint: e.srv.AuthURL(), ClientID: "c", ClientSecret: text("client_secret"),
		AccessToken: text("access_token"), RefreshToken: text("refresh_token"), ExpiresAt: time.Now().Add(time.Hour),
	}
	registration := &tokenstore.Registration{ClientID: "c", ClientSecret: text("client_secret"), ManagementToken: text("registration_access_token")}
	state, key := text("state"), text("sealing key")
	stores := map[string]tokenstore.Store{
		"Memory": new(tokenstore.Memory),
		"File":   &tokenstore.File{Dir: t.TempDir(), Identity: tokenstore.NewSecret(identity.String())},
	}
	for name, store := range stores {
		if err := store.Update(t.Context(), "k", func(ctx context.Context, l *tokenstore.Locked) error {
			_, err := l.Save(ctx, tokenstore.Record{Grant: grant})
			e.print(name+"'s Locked", l)
			return errors.Join(err, l.SetMark(ctx, tokenstore.Mark{Pending: true}))
		}); err != nil {
			t.Fatal(err)
		}
		record, err := store.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		e.print(name+"'s Record", record)
		source := refresh.New(refresh.Config{Store: store, Key: "k", Logger: e.log()})
		access, err := source.Access(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e.print("Access", access)
		if err := source.Close(); err != nil {
			t.Fatal(err)
		}
		e.print(name, store)
	}
	c := e.newClient(stores["Memory"])
	c.Registration = mcpclient.Registration{ClientID: "c", ClientSecret: registration.ClientSecret, RedirectURL: "https://app.example/callback"}
	_, pending, err := c.BeginLogin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := pending.Seal([]byte(key.Reveal() + "123456")[:32])
	if err != nil {
		t.Fatal(err)
	}
	wrong := c.FinishLogin(t.Context(), pending, "https://app.example/callback?code="+text("code").Reveal()+"&state="+text("state").Reveal())
	for name, v := range map[string]any{
		"Grant": grant, "Registration": registration, "Records": []tokenstore.Record{{Grant: grant}, {Registration: registration}},
		"Verifier": verifier, "Check": authcode.Check{State: state}, "Request": authcode.Request{State: state, CodeChallenge: verifier.Challenge()},
		"Exchange":   authcode.Exchange{Code: text("code"), Verifier: verifier.Secret(), Client: authcode.ClientAuth{Secret: grant.ClientSecret}},
		"ClientAuth": authcode.ClientAuth{Secret: grant.ClientSecret},
		"Token":      authcode.Token{AccessToken: grant.AccessToken, RefreshToken: grant.RefreshToken},
		"dcr.Client": dcr.Client{Secret: text("client_secret"), ManagementToken: text("registration_access_token")},
		"Metadata":   dcr.Metadata{InitialAccessToken: text("initial access token")},
		"Client":     c, "its Registration": c.Registration, "HTTPClient": c.HTTPClient(),
		"PendingLogin": pending, "sealed PendingLogin": sealed, "error of a wrong callback": wrong,
		"postgres.Store": &postgres.Store{Keys: []tokenstore.Secret{key}},
	} {
		e.print(name, v)
		e.print("*"+name, &v)
		e.print("error with "+name, fmt.Errorf("failed: %v %+v %#v %w", v, v, v, errors.New("x")))
	}
}
