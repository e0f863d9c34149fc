package attacks

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/astravue/mcp-client-go/internal/text"
)

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// A place is a text that a hostile server writes, with the commands that show it to a person.
type place struct {
	id, does string
	put      func(r *rogue, w string) // w is what is written
	commands []string                 // each is run as it is, with -o json, and with --verbose
	login    bool                     // after an honest sign-in
}

var printerAttacks = slices.Concat(playPlaces(places), terminalAttacks, hintAttacks)

var places = []place{
	{id: "tools", does: "names, titles, descriptions and hints of tools, and their schemas", commands: []string{"tools"}, put: hostileTools},
	{id: "tool", does: "a tool's description, arguments, types and choices, one of them called like this", commands: []string{"tools tool", "tools too", "call tool", "call tool a=1", "call tool choice=1", "call tool number=x"}, put: hostileTools},
	{id: "result", does: "text, links, media types, resources and structure of a result", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.adds("tools/call", hostileResult(w))
	}},
	{id: "result-error", does: "a tool's own error", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		result := hostileResult(w)
		result["isError"] = true
		r.adds("tools/call", result)
	}},
	{id: "result-structure", does: "names and values of structured content, without any text", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.adds("tools/call", map[string]any{"content": []any{}, "structuredContent": map[string]any{w: w}})
	}},
	{id: "rpc-error", does: "message and data of a JSON-RPC error", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", rpcError(http.StatusOK, w))
	}},
	{id: "rpc-error-400", does: "a JSON-RPC error with status 400", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", rpcError(http.StatusBadRequest, w))
	}},
	{id: "rpc-error-500", does: "a JSON-RPC error with status 500", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", rpcError(http.StatusInternalServerError, w))
	}},
	{id: "server-info", does: "the server's name, title, version and instructions", commands: []string{"tools"}, put: func(r *rogue, w string) {
		r.adds("initialize", map[string]any{"serverInfo": map[string]any{"name": w, "title": w, "version": w}, "instructions": w})
	}},
	{id: "protocol-version", does: "the version of the protocol", commands: []string{"tools"}, put: func(r *rogue, w string) {
		r.adds("initialize", map[string]any{"protocolVersion": w})
	}},
	{id: "content-type", does: "headers of an answer of an unknown type", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", headers(http.StatusOK, w))
	}},
	{id: "redirect", does: "the Location of a redirect", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", headers(http.StatusTemporaryRedirect, w))
	}},
	{id: "status-line", does: "the words of the status line", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", rawAnswer("HTTP/1.1 500 "+line1(w)+"\r\nServer: "+line1(w)+"\r\nContent-Length: 0\r\n\r\n"))
	}},
	{id: "no-http", does: "an answer that is no HTTP", commands: []string{"call tool"}, put: func(r *rogue, w string) {
		r.answers("tools/call", rawAnswer(line1(w)+"\r\n"+line1(w)+"\r\n\r\n"))
	}},
	{id: "challenge-forbidden", does: "error, description and scope of a 403", commands: []string{"call tool"}, login: true, put: func(r *rogue, w string) {
		r.answers("tools/call", challenge(http.StatusForbidden, "insufficient_scope", w))
	}},
	{id: "challenge-refused", does: "error and description of a 401 to a new token", commands: []string{"call tool"}, login: true, put: func(r *rogue, w string) {
		r.answers("tools/call", challenge(http.StatusUnauthorized, w, w))
	}},
	{id: "challenge", does: "the challenge before a sign-in", commands: []string{"discover", "login"}, put: func(r *rogue, w string) {
		r.open.Store(false)
		r.answers("challenge", challenge(http.StatusUnauthorized, w, w))
	}},
	{id: "resource-metadata", does: "scopes and names in the resource's metadata", commands: []string{"discover", "login"}, put: signsIn("resource", func(r *rogue, w string) map[string]any {
		return map[string]any{"scopes_supported": []string{w, w}, "resource_name": w, w: w}
	})},
	{id: "resource-mismatch", does: "the resource in the metadata", commands: []string{"discover"}, put: signsIn("resource", func(r *rogue, w string) map[string]any {
		return map[string]any{"resource": w}
	})},
	{id: "issuer-none", does: "an issuer that is no address", commands: []string{"discover"}, put: signsIn("resource", func(r *rogue, w string) map[string]any {
		return map[string]any{"authorization_servers": []string{w}}
	})},
	{id: "issuer-mismatch", does: "another issuer in the metadata", commands: []string{"discover"}, put: signsIn("server", func(r *rogue, w string) map[string]any {
		return map[string]any{"issuer": r.URL + "/" + w}
	})},
	{id: "endpoints", does: "endpoints with all that an address may hold", commands: []string{"discover", "login"}, put: signsIn("server", func(r *rogue, w string) map[string]any {
		return map[string]any{
			"authorization_endpoint": r.URL + "/authorize?x=" + unescapedQuery(w), "revocation_endpoint": r.URL + "/revoke?x=" + unescapedQuery(w),
			"registration_endpoint": r.URL + "/register?x=" + unescapedQuery(w), "token_endpoint": r.URL + "/token?x=" + unescapedQuery(w),
			"code_challenge_methods_supported": []string{"S256", w}, "scopes_supported": []string{w},
		}
	})},
	{id: "endpoints-none", does: "an endpoint that is no address", commands: []string{"discover"}, put: signsIn("server", func(r *rogue, w string) map[string]any {
		return map[string]any{"token_endpoint": "http://" + w}
	})},
	{id: "metadata-name", does: "the name of a member that comes twice", commands: []string{"discover"}, put: func(r *rogue, w string) {
		r.open.Store(false)
		r.answers("server", func(rw http.ResponseWriter, _ *http.Request, _ string) {
			_, _ = fmt.Fprintf(rw, `{%s:1,%[1]s:2}`, quoteJSON(w))
		})
	}},
	{id: "metadata-type", does: "the type of metadata that is a page", commands: []string{"discover"}, put: func(r *rogue, w string) {
		r.open.Store(false)
		r.answers("server", headers(http.StatusOK, w))
	}},
	{id: "registration", does: "client ID and secret of a registration, shown in the session", commands: []string{"login", "status"}, put: signsIn("register", func(r *rogue, w string) map[string]any {
		return map[string]any{"client_id": w, "client_name": w, "client_secret": w, "token_endpoint_auth_method": "client_secret_post"}
	})},
	{id: "registration-method", does: "the way that the client proves itself", commands: []string{"login"}, put: signsIn("register", func(r *rogue, w string) map[string]any {
		return map[string]any{"client_secret": "secret", "token_endpoint_auth_method": w}
	})},
	{id: "registration-error", does: "error and description of a refused registration", commands: []string{"login"}, put: refusedAt("register")},
	{id: "token", does: "scopes of a session", commands: []string{"login", "status", "logout"}, put: signsIn("token", func(r *rogue, w string) map[string]any {
		return map[string]any{"scope": w}
	})},
	{id: "token-type", does: "the type of a token", commands: []string{"login"}, put: signsIn("token", func(r *rogue, w string) map[string]any {
		return map[string]any{"token_type": w}
	})},
	{id: "token-error", does: "error and description in place of a token", commands: []string{"login"}, put: refusedAt("token")},
	{id: "authorization-error", does: "error and description in the browser's answer", commands: []string{"login"}, put: signsIn("authorize", func(r *rogue, w string) map[string]any {
		return map[string]any{"error": w[:500], "error_description": w}
	})},
	{id: "authorization-issuer", does: "the issuer in the browser's answer", commands: []string{"login"}, put: signsIn("authorize", func(r *rogue, w string) map[string]any {
		return map[string]any{"iss": w}
	})},
	{id: "revocation-error", does: "error and description of a refused revocation", commands: []string{"logout"}, login: true, put: refusedAt("revoke")},
}

// playPlaces makes an attack of each place.
func playPlaces(places []place) (attacks []attack) {
	for _, p := range places {
		attacks = append(attacks, attack{
			id: "words-" + p.id, who: "a hostile MCP server", gains: "the user's terminal: its clipboard, title and screen, and lines that astravue-mcp seems to have said",
			does: fmt.Sprintf("it writes %d kinds of words into %s", len(acting), p.does),
			play: p.play,
		})
	}
	return attacks
}

func (p place) play(t *testing.T) (won bool, seen string) {
	runs, shown := 0, 0
	r := newRogue(t)
	r.open.Store(!p.login)
	who := newPerson(t, r)
	p.put(r, everything)
	if p.login {
		if o := who.run("login"); o.status != 0 {
			t.Fatalf("no sign-in: %s", o.stderr)
		}
	}
	for _, command := range p.commands {
		for _, more := range []string{"", " -o json", " --verbose"} {
			if p.login && runs > 0 && command == "logout" {
				who.run("login")
			}
			o := who.run(strings.Fields(command + more)...)
			if runs++; strings.Contains(o.stdout+o.stderr, marker) {
				shown++
			}
			if how := o.acts(); how != "" {
				return true, fmt.Sprintf("`%s`: %s", command+more, how)
			}
		}
	}
	return false, fmt.Sprintf("nothing acts, no line is forged, and JSON is JSON, in %d outputs, of which %d show the words", runs, shown)
}

// hostileTools is a list of tools, of which one can be asked for.
func hostileTools(r *rogue, w string) { setTools(r, w, w, "a") }

func setTools(r *rogue, w string, required ...string) {
	schema := map[string]any{"type": "object", "required": required, "properties": map[string]any{
		w:        map[string]any{"type": w, "description": w, "enum": []any{w, map[string]any{w: w}}, "title": w},
		"a":      map[string]any{"type": []any{w, "null"}, "description": w},
		"choice": map[string]any{"enum": []any{w}}, "number": map[string]any{"type": []any{w}},
	}}
	about := map[string]any{"title": w, "readOnlyHint": true}
	r.adds("tools/list", map[string]any{"tools": []any{
		map[string]any{"name": "tool", "title": w, "description": w, "inputSchema": schema, "annotations": about, "_meta": map[string]any{w: w}},
		map[string]any{"name": "tool " + w, "description": w, "inputSchema": schema, "annotations": about},
		map[string]any{"name": w, "title": w, "inputSchema": schema, "outputSchema": schema},
	}})
}

func hostileResult(w string) map[string]any {
	return map[string]any{"structuredContent": map[string]any{w: []any{w}}, "_meta": map[string]any{w: w}, "content": []any{
		map[string]any{"type": "text", "text": w},
		map[string]any{"type": "image", "mimeType": w, "data": "aGk="},
		map[string]any{"type": "audio", "mimeType": w, "data": "aGk="},
		map[string]any{"type": "resource_link", "name": w, "title": w, "uri": "file:///" + w, "mimeType": w, "description": w},
		map[string]any{"type": "resource", "resource": map[string]any{"uri": "file:///" + w, "mimeType": w, "text": w}},
		map[string]any{"type": "resource", "resource": map[string]any{"uri": "file:///" + w, "mimeType": w, "blob": "aGk="}},
	}}
}

func rpcError(status int, w string) func(http.ResponseWriter, *http.Request, string) {
	return func(rw http.ResponseWriter, _ *http.Request, id string) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_, _ = fmt.Fprintf(rw, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":%s,"data":{%[2]s:[%[2]s]}}}`, id, quoteJSON(w))
	}
}

// quoteJSON writes s as JSON in which no character is escaped that need not be, so that bytes that
// are not UTF-8 stay.
func quoteJSON(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < 0x20 || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return `"` + b.String() + `"`
}

// line1 returns s without line ends.
func line1(s string) string { return strings.NewReplacer("\n", "", "\r", "").Replace(s) }

func headers(status int, w string) func(http.ResponseWriter, *http.Request, string) {
	return func(rw http.ResponseWriter, _ *http.Request, _ string) {
		rawAnswer(fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Type: %s/html\r\nLocation: %[2]s\r\nServer: %[2]s\r\nMcp-Session-Id: %[2]s\r\nContent-Length: 1\r\n\r\n<", status, line1(w)))(rw, nil, "")
	}
}

// rawAnswer answers with bytes.
func rawAnswer(s string) func(http.ResponseWriter, *http.Request, string) {
	return func(rw http.ResponseWriter, _ *http.Request, _ string) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(s))
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.Close()
	}
}

func challenge(status int, code, w string) func(http.ResponseWriter, *http.Request, string) {
	quoted := func(s string) string { return strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(line1(s)) }
	return func(rw http.ResponseWriter, r *http.Request, _ string) {
		rawAnswer(fmt.Sprintf("HTTP/1.1 %d x\r\nWWW-Authenticate: Bearer resource_metadata=\"http://%s/.well-known/oauth-protected-resource/mcp\", error=\"%s\", error_description=\"%s\", scope=\"%[4]s\", realm=\"%[4]s\"\r\nContent-Length: 0\r\n\r\n",
			status, r.Host, quoted(code), quoted(w)))(rw, r, "")
	}
}

// signsIn puts members into an answer of a server that asks for a sign-in.
func signsIn(place string, members func(r *rogue, w string) map[string]any) func(*rogue, string) {
	return func(r *rogue, w string) {
		r.open.Store(false)
		r.adds(place, members(r, w))
	}
}

func refusedAt(place string) func(*rogue, string) {
	return func(r *rogue, w string) {
		r.open.Store(false)
		r.answers(place, func(rw http.ResponseWriter, _ *http.Request, _ string) {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(rw, `{"error":%s,"error_description":%[1]s,"error_uri":%[1]s}`, quoteJSON(w))
		})
	}
}

// unescapedQuery returns the characters of w that url.Parse accepts unescaped in a query.
func unescapedQuery(w string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || strings.ContainsRune("#%&+;", r) {
			return -1
		}
		return r
	}, w[:strconv.IntSize*16])
}

// terminalAttacks play each kind of words in a real terminal, to the commands that show most.
var terminalAttacks = func() (attacks []attack) {
	for _, name := range sortedNames(acting) {
		id, does, _ := strings.Cut(name, ": ")
		attacks = append(attacks, attack{
			id: "terminal-" + id, who: "a hostile MCP server", gains: "the user's terminal",
			does: "each string that it chooses " + does,
			play: func(t *testing.T) (bool, string) { return playTerminal(t, acting[name]) },
		})
	}
	return attacks
}()

func playTerminal(t *testing.T, w string) (won bool, seen string) {
	w = marker + " " + w
	r := newRogue(t)
	r.open.Store(true)
	setTools(r, w, "a")
	r.adds("initialize", map[string]any{"serverInfo": map[string]any{"name": w, "version": w}})
	result, failure := hostileResult(w), hostileResult(w)
	failure["isError"] = true
	var calls atomic.Int32
	r.answers("tools/call", func(rw http.ResponseWriter, req *http.Request, id string) {
		switch calls.Add(1) {
		case 1:
			reply(rw, http.StatusOK, map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "result": result})
		case 2:
			reply(rw, http.StatusOK, map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "result": failure})
		case 3:
			rpcError(http.StatusOK, w)(rw, req, id)
		default:
			rawAnswer("HTTP/1.1 403 "+line1(w)+"\r\nWWW-Authenticate: Bearer error=\""+text.Line(line1(w))+"\"\r\nContent-Length: 0\r\n\r\n")(rw, req, id)
		}
	})
	r.adds("server", map[string]any{"issuer": r.URL + "/" + w})
	given := `call tool --args '{"a":1}'`
	if how := newTmux(t, newPerson(t, r)).run(given, "tools -o json", given, given, given, "call too", "call tool choice=1", "tools", "tools tool", "discover", "status --verbose"); how != "" {
		return true, how
	}
	if n := calls.Load(); n != 4 {
		t.Fatalf("%d calls", n)
	}
	return false, "title, clipboard, cursor, colours and screen are what they were, and no line is forged"
}

// hintAttacks are scopes that a server asks for, which a hint may hold.
var hintAttacks = func() (attacks []attack) {
	for id, scopes := range map[string]string{
		"quote": "a'; touch pwned; '", "substitution": "$(touch pwned) `touch pwned`", "double-quote": `a"; touch pwned; "`,
		"line": "a\ntouch pwned\n", "background": "a & touch pwned &", "windows": "a & calc | %PATH% ^& !x!", "history": "a !! !$",
		"flag": "--store keychain", "backslash": `\ touch pwned`, "redirection": "a > pwned < pwned", "glob": "* ~ {a,b} ?",
	} {
		attacks = append(attacks, attack{
			id: "hint-" + id, who: "a hostile MCP server", gains: "a command in the shell of a user who types the hint that goes with an error",
			does: fmt.Sprintf("it asks for the scopes %q", scopes),
			play: func(t *testing.T) (bool, string) { return playHint(t, scopes, false) },
		})
	}
	slices.SortFunc(attacks, func(a, b attack) int { return strings.Compare(a.id, b.id) })
	return append(attacks, attack{
		id: "hint-honest", who: "nobody", gains: "nothing", does: "a server asks for the scopes `mcp:write offline_access`",
		play: func(t *testing.T) (bool, string) { return playHint(t, "mcp:write offline_access", true) },
	})
}()

func playHint(t *testing.T, scopes string, honest bool) (won bool, seen string) {
	r := newRogue(t)
	who := newPerson(t, r)
	if o := who.run("login"); o.status != 0 {
		t.Fatalf("no sign-in: %s", o.stderr)
	}
	r.answers("tools/call", func(rw http.ResponseWriter, req *http.Request, id string) {
		challenge(http.StatusForbidden, "insufficient_scope", strings.ReplaceAll(scopes, "\n", " "))(rw, req, id)
	})
	o := who.run("call", "tool")
	_, hint, ok := strings.Cut(o.stderr, "astravue-mcp login ")
	if !ok {
		return honest, "no hint with scopes is printed"
	}
	// A user types the hint. A program of that name shows its arguments; nothing else may happen.
	stub := filepath.Join(who.dir, "astravue-mcp")
	if err := os.WriteFile(stub, []byte("#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "astravue-mcp login "+hint)
	cmd.Dir, cmd.Env = who.dir, []string{"PATH=" + who.dir + ":" + strings.TrimPrefix(shellPath(), "PATH=")}
	out, err := cmd.CombinedOutput()
	got := strings.ReplaceAll(string(out), r.mcp(), "URL")
	_, pwned := os.Stat(filepath.Join(who.dir, "pwned"))
	won = pwned == nil || err != nil || got != "<login><--server><URL><--store><file><--scope><"+strings.Join(strings.Fields(scopes), " ")+">"
	return won, "the program gets " + got
}
