package attacks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// sentBack are the ways in which a server writes down a secret that it was sent.
var sentBack = []struct {
	how   string
	write func(string) string
}{
	{"as it is", func(s string) string { return s }},
	{"in lower case", strings.ToLower},
	{"percent-encoded", func(s string) string { return escapedBytes("%%%02X", s) }},
	{"percent-encoded twice", func(s string) string { return escapedBytes("%%25%02x", s) }},
	{"in base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }},
	{"in base64, moved by one", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(":" + s)) }},
	{"in base64url, moved by two", func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("ab" + s)) }},
	{"in hexadecimal", func(s string) string { return escapedBytes("%02x", s) }},
	{"split by spaces", func(s string) string { return strings.Join(strings.Split(s, ""), " ") }},
	{"split by what cannot be seen", func(s string) string { return strings.Join(strings.Split(s, ""), "\u200b") }},
	{"cut at its end", func(s string) string { return s[:len(s)-3] }},
}

func escapedBytes(format, s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

// An echo is a place in which a server sends a secret back.
type echo struct {
	id, does string
	put      func(r *rogue, write func(string) string)
	use      func(ctx context.Context, c *mcpclient.Client) error // nil: call a tool
}

var wordsAttacks = func() (attacks []attack) {
	for _, e := range echoes {
		attacks = append(attacks, attack{
			id: "echo-" + e.id, who: "anybody who reads an error or a log", gains: "a secret that a server quotes back to us",
			does: fmt.Sprintf("%s, in %d ways", e.does, len(sentBack)), play: e.play,
		})
	}
	return attacks
}()

var echoes = []echo{
	{id: "rpc-message", does: "the token is in the message of a JSON-RPC error", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		reply(rw, http.StatusOK, rpcAnswer(id, s, nil))
	})},
	{id: "rpc-data", does: "the token is in the data of a JSON-RPC error, as a name and a value", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		reply(rw, http.StatusOK, rpcAnswer(id, "no", map[string]any{s: []any{1, s, true}}))
	})},
	{id: "rpc-400", does: "the token is in a JSON-RPC error with status 400", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		reply(rw, http.StatusBadRequest, rpcAnswer(id, s, s))
	})},
	{id: "rpc-403", does: "the token is in a JSON-RPC error with status 403", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		reply(rw, http.StatusForbidden, rpcAnswer(id, s, s))
	})},
	{id: "rpc-500", does: "the token is in a JSON-RPC error with status 500", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		reply(rw, http.StatusInternalServerError, rpcAnswer(id, s, s))
	})},
	{id: "rpc-other-id", does: "the token is in a JSON-RPC error for another call", put: echoRPC(func(rw http.ResponseWriter, _, s string) {
		reply(rw, http.StatusOK, rpcAnswer(`"another"`, s, s))
	})},
	{id: "rpc-event", does: "the token is in a JSON-RPC error in an event", put: echoRPC(func(rw http.ResponseWriter, id, s string) {
		rw.Header().Set("Content-Type", "text/event-stream")
		data, _ := json.Marshal(rpcAnswer(id, s, s))
		_, _ = fmt.Fprintf(rw, "id: 7\ndata: %s\n\n", data)
	})},
	{id: "rpc-resumed", does: "the token is in a JSON-RPC error in a stream that was resumed", put: func(r *rogue, write func(string) string) {
		var call string
		echoRPC(func(rw http.ResponseWriter, id, s string) {
			call = id
			rw.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(rw, "id: 7\nretry: 1\ndata:\n\n")
		})(r, write)
		r.answers("", func(rw http.ResponseWriter, req *http.Request, _ string) {
			if req.Header.Get("Last-Event-ID") != "7" {
				rw.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			rw.Header().Set("Content-Type", "text/event-stream")
			s := write(bearer(req))
			data, _ := json.Marshal(rpcAnswer(call, s, s))
			_, _ = fmt.Fprintf(rw, "id: 8\ndata: %s\n\n", data)
		})
	}},
	{id: "rpc-initialize", does: "the token is in a JSON-RPC error in answer to initialize", put: func(r *rogue, write func(string) string) {
		r.answers("initialize", func(rw http.ResponseWriter, req *http.Request, id string) {
			reply(rw, http.StatusOK, rpcAnswer(id, write(bearer(req)), write(bearer(req))))
		})
	}},
	{id: "content-type", does: "the token is the Content-Type of an answer", put: echoRPC(func(rw http.ResponseWriter, _, s string) {
		rw.Header().Set("Content-Type", "text/"+strings.NewReplacer(" ", "", "\u200b", "", "=", "").Replace(s))
		_, _ = io.WriteString(rw, "<")
	})},
	{id: "challenge-403", does: "the token is in the challenge of a 403", put: echoRPC(func(rw http.ResponseWriter, _, s string) {
		rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", error_description="%s", scope="%[1]s"`, s))
		rw.WriteHeader(http.StatusForbidden)
	})},
	{id: "challenge-401", does: "the token is in the challenge of a 401", put: echoRPC(func(rw http.ResponseWriter, _, s string) {
		rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="%s", error_description="%[1]s", scope="%[1]s"`, s))
		rw.WriteHeader(http.StatusUnauthorized)
	})},
	{id: "token-error", does: "code, code verifier and client secret are in the refusal of tokens", put: echoForm("token", "code", "code_verifier", "client_secret"), use: login},
	{id: "token-type", does: "the code is the type of a token", use: login, put: func(r *rogue, write func(string) string) {
		r.answers("token", func(rw http.ResponseWriter, _ *http.Request, body string) {
			form, _ := url.ParseQuery(body)
			r.got(form.Get("code"))
			reply(rw, http.StatusOK, map[string]any{"access_token": rogueToken, "token_type": write(form.Get("code"))})
		})
	}},
	{id: "token-member", does: "the code verifier is the name of a member that comes twice", use: login, put: func(r *rogue, write func(string) string) {
		r.answers("token", func(rw http.ResponseWriter, _ *http.Request, body string) {
			form, _ := url.ParseQuery(body)
			r.got(form.Get("code_verifier"))
			_, _ = fmt.Fprintf(rw, `{%s:1,%[1]s:2}`, quoteJSON(strings.Repeat("\u200b", 500)+write(form.Get("code_verifier"))))
		})
	}},
	{id: "revocation-error", does: "the refresh token and the client secret are in the refusal of a revocation", put: echoForm("revoke", "token", "client_secret"), use: func(ctx context.Context, c *mcpclient.Client) error {
		if err := c.Login(ctx, nil); err != nil {
			return err
		}
		res, err := c.Logout(ctx)
		return errors.Join(err, res.Err)
	}},
	{id: "callback-error", does: "state and code are in the error that the browser brings", use: login, put: func(r *rogue, write func(string) string) {
		r.answers("authorize", func(rw http.ResponseWriter, req *http.Request, _ string) {
			q := req.URL.Query()
			const code = "Vb3-k_Xq9.Rw/7Tz+Lm=2~Pn8YcHd5Jf"
			r.got(q.Get("state"), code)
			to := url.Values{"state": {q.Get("state")}, "code": {code}, "error": {write(q.Get("state"))}, "error_description": {write(q.Get("state")) + " " + write(code)}}
			http.Redirect(rw, req, q.Get("redirect_uri")+"?"+to.Encode(), http.StatusFound)
		})
	}},
	{id: "callback-issuer", does: "the state is in the issuer that the browser brings", use: login, put: func(r *rogue, write func(string) string) {
		r.answers("authorize", func(rw http.ResponseWriter, req *http.Request, _ string) {
			q := req.URL.Query()
			r.got(q.Get("state"))
			to := url.Values{"state": {q.Get("state")}, "code": {"code"}, "iss": {"https://evil.example/" + write(q.Get("state"))}}
			http.Redirect(rw, req, q.Get("redirect_uri")+"?"+to.Encode(), http.StatusFound)
		})
	}},
}

func login(ctx context.Context, c *mcpclient.Client) error { return c.Login(ctx, nil) }

func bearer(req *http.Request) string {
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
}

func echoRPC(answer func(rw http.ResponseWriter, id, s string)) func(*rogue, func(string) string) {
	return func(r *rogue, write func(string) string) {
		r.answers("tools/call", func(rw http.ResponseWriter, req *http.Request, id string) {
			answer(rw, id, write(bearer(req)))
		})
	}
}

func rpcAnswer(id, message string, data any) map[string]any {
	return map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "error": map[string]any{"code": -32001, "message": "bad token " + message, "data": data}}
}

// echoForm refuses a form and quotes members of it.
func echoForm(place string, members ...string) func(*rogue, func(string) string) {
	return func(r *rogue, write func(string) string) {
		r.answers(place, func(rw http.ResponseWriter, _ *http.Request, body string) {
			form, _ := url.ParseQuery(body)
			var all []string
			for _, name := range members {
				r.got(form.Get(name))
				all = append(all, write(form.Get(name)))
			}
			reply(rw, http.StatusBadRequest, map[string]any{"error": all[0], "error_description": strings.Join(all, " ")})
		})
	}
}

func (e echo) play(t *testing.T) (won bool, seen string) {
	for _, back := range sentBack {
		r := newRogue(t)
		r.adds("register", map[string]any{"client_secret": "Wn8-Yc_2Hd.Pj/6Kq+9Zx4Vb7LmTr5Gs", "token_endpoint_auth_method": "client_secret_post"})
		r.got(rogueToken)
		e.put(r, back.write)
		var log testenv.Buffer
		c := &mcpclient.Client{
			Name: "Acme Notes", Server: r.mcp(), Store: &tokenstore.Memory{}, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			OpenBrowser: func(ctx context.Context, address string) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
				if err != nil {
					return err
				}
				resp, err := testenv.NewBrowser().Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				return nil
			},
		}
		use := e.use
		if use == nil {
			use = callTool
		}
		err := use(t.Context(), c)
		_ = c.Close()
		if err == nil {
			t.Fatalf("%s: no error", back.how)
		}
		said := err.Error() + fmt.Sprintf(" %+v", err) + log.String()
		if wire := new(jsonrpc.Error); errors.As(err, &wire) {
			said += wire.Message + string(wire.Data)
		}
		for _, secret := range r.secrets() {
			if leaks(said, secret, back.write(secret)) {
				return true, "shown " + back.how
			}
		}
	}
	return false, "not in the error, its message and data, nor the log"
}

func callTool(ctx context.Context, c *mcpclient.Client) error {
	session, err := c.Connect(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = session.CallTool(ctx, &mcp.CallToolParams{Name: "tool"})
	return err
}

// leaks reports whether ten letters and digits in a row of what was written are in said.
func leaks(said string, written ...string) bool {
	letters := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, strings.ToLower(s))
	}
	said = letters(said)
	for _, w := range written {
		w = letters(w)
		for i := 0; i+10 <= len(w); i++ {
			if strings.Contains(said, w[i:i+10]) {
				return true
			}
		}
	}
	return false
}
