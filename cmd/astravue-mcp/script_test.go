package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

var update = flag.Bool("update", false, "write what the command prints into the scripts")

// TestMain makes this binary also the command and the browser that it opens.
func TestMain(m *testing.M) {
	if moved := os.Getenv(clock.EnvVar); moved != "" {
		d, err := time.ParseDuration(moved)
		if err != nil {
			panic(err)
		}
		clock.Advance(d)
	}
	testenv.SideBySide(6)
	testscript.Main(m, map[string]func(){"astravue-mcp": main, "browser": browserMain})
}

// most is the time that all scripts have together. Then a command that hangs is interrupted.
const most = slow * 2 * time.Minute

func TestScripts(t *testing.T) {
	testscript.Run(t, scripts("testdata/script"))
}

// TestKeychain writes to a keychain that no person uses.
func TestKeychain(t *testing.T) {
	testenv.SecretService(t)
	p := scripts("testdata/keychain")
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		e.Setenv("DBUS_SESSION_BUS_ADDRESS", os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
		return setup(e)
	}
	testscript.Run(t, p)
}

// scripts returns how the scripts of a folder run: each with an empty home, a file store with an
// identity, a browser that approves as olivia, and no server yet.
func scripts(dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		Deadline:            time.Now().Add(most),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			file := filepath.Join(e.WorkDir, "identity.txt")
			if err := writeIdentity(file); err != nil {
				return err
			}
			config := filepath.Join(e.WorkDir, "config")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", config)
			e.Setenv("AppData", config)
			e.Setenv("STORE", filepath.Join(config, "astravue-mcp"))
			e.Setenv("ASTRAVUE_MCP_STORE", "file")
			e.Setenv("ASTRAVUE_MCP_IDENTITY_FILE", file)
			e.Setenv("BROWSER", "browser approve olivia")
			if os.Getenv("GORACE") == "" {
				e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each of so many processes
			}
			host := &env{}
			e.Values[envKey{}] = host
			e.Defer(host.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sandbox":    cmdSandbox,
			"open-mcp":   cmdOpenMCP,
			"advance":    cmdAdvance,
			"fault":      cmdFault,
			"mend":       cmdMend,
			"requests":   cmdRequests,
			"change":     cmdChange,
			"status":     cmdStatus,
			"code":       cmdCode,
			"documented": cmdDocumented,
			"record":     cmdRecord,
			"spoil":      cmdSpoil,
			"identity":   cmdIdentity,
			"sealed":     cmdSealed,
			"large":      cmdLarge,
		},
	}
}

type envKey struct{}

// An env is what runs beside a script, in the process of the test.
type env struct {
	srv    *sandbox.Server
	undo   []func()
	closes []func()
	moved  time.Duration
}

func (e *env) close() {
	for _, f := range slices.Backward(e.closes) {
		f()
	}
}

func envOf(ts *testscript.TestScript) *env { return ts.Value(envKey{}).(*env) }

// options splits NAME=VALUE arguments; a bare NAME is NAME=true.
func options(args []string) map[string]string {
	m := make(map[string]string)
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			value = "true"
		}
		m[name] = value
	}
	return m
}

// cmdSandbox starts a sandbox: sandbox [MEMBER-OF-OPTIONS=VALUE …]. It sets
// ASTRAVUE_MCP_SERVER, API, AUTH, ISSUER, CLIENT_ID and the file secret.txt.
func cmdSandbox(ts *testscript.TestScript, neg bool, args []string) {
	var o sandbox.Options
	for name, v := range options(args) {
		switch name {
		case "AccessTTL", "RefreshTTL":
			d, err := time.ParseDuration(v)
			ts.Check(err)
			*map[string]*time.Duration{"AccessTTL": &o.AccessTTL, "RefreshTTL": &o.RefreshTTL}[name] = d
		case "AutoApprove":
			o.AutoApprove = true
		case "ChallengeScopes":
			o.ChallengeScopes = strings.Split(v, ",")
		case "ToolScope":
			tool, scope, _ := strings.Cut(v, ":")
			o.ToolScopes = map[string]string{tool: scope}
		default:
			field := map[string]*string{
				"IssuerHost": &o.IssuerHost, "Resource": &o.Resource, "Registration": &o.Registration,
				"Protocol": &o.Protocol, "ResourceMetadata": &o.ResourceMetadata,
			}[name]
			if field == nil {
				ts.Fatalf("unknown option %s", name)
			}
			*field = v
		}
	}
	e := envOf(ts)
	srv, err := sandbox.Start(o)
	ts.Check(err)
	e.srv = srv
	e.closes = append(e.closes, func() { _ = srv.Close() })
	ts.Setenv("ASTRAVUE_MCP_SERVER", srv.URL())
	ts.Setenv("API", srv.APIURL())
	ts.Setenv("HOSTPORT", strings.TrimPrefix(srv.APIURL(), "http://"))
	ts.Setenv("AUTH", srv.AuthURL())
	ts.Setenv("ISSUER", srv.Issuer())
	id, secret := srv.App()
	ts.Setenv("CLIENT_ID", id)
	ts.Setenv("PUBLIC_CLIENT", srv.PublicClient())
	ts.Check(os.WriteFile(ts.MkAbs("secret.txt"), []byte(secret+"\n"), 0o600))
}

// cmdOpenMCP starts an MCP server that asks for no sign-in. It sets
// ASTRAVUE_MCP_SERVER.
func cmdOpenMCP(ts *testscript.TestScript, neg bool, args []string) {
	server := mcp.NewServer(&mcp.Implementation{Name: "open", Version: "1"}, nil)
	type in struct {
		Text  string   `json:"text"`
		Count int      `json:"count,omitempty"`
		Loud  bool     `json:"loud,omitempty"`
		Tags  []string `json:"tags,omitempty"`
		Rate  *float64 `json:"rate,omitempty"`
		More  any      `json:"more,omitempty"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "echo", Description: "Says it again."}, func(_ context.Context, _ *mcp.CallToolRequest, v in) (*mcp.CallToolResult, any, error) {
		data, err := json.Marshal(v)
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(data)}}}, nil, err
	})
	mcp.AddTool(server, &mcp.Tool{Name: "hostile\x1b[31m", Description: "Paints\x1b[2J the terminal."}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{
			&mcp.TextContent{Text: "red \x1b[31m and \u009b31m"},
			&mcp.ImageContent{MIMEType: "image/png", Data: []byte("12345")},
			&mcp.ResourceLink{URI: "file:///x", Name: "x"},
		}}, nil, nil
	})
	hs := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	e := envOf(ts)
	e.closes = append(e.closes, func() { hs.CloseClientConnections(); hs.Close() })
	ts.Setenv("ASTRAVUE_MCP_SERVER", hs.URL+"/mcp")
}

// cmdAdvance moves the clock of the sandbox and of processes that start later: advance DURATION.
func cmdAdvance(ts *testscript.TestScript, neg bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	e := envOf(ts)
	e.srv.Advance(d)
	e.moved += d
	ts.Setenv(clock.EnvVar, e.moved.String())
}

// cmdFault makes a step go wrong: fault STEP [status=N] [body=TEXT|@FILE]
// [type=MEDIATYPE] [header.NAME=VALUE] [set.MEMBER=JSON] [times=N] [skip=N]
// [delay=D] [cut=N] [path=PART] [drop] [carryout].
func cmdFault(ts *testscript.TestScript, neg bool, args []string) {
	f := sandbox.Fault{}
	for name, v := range options(args[1:]) {
		var err error
		kind, member, _ := strings.Cut(name, ".")
		switch kind {
		case "status":
			f.Status, err = strconv.Atoi(v)
		case "times":
			f.Times, err = strconv.Atoi(v)
		case "skip":
			f.Skip, err = strconv.Atoi(v)
		case "cut":
			f.Drop = true
			f.Cut, err = strconv.Atoi(v)
		case "delay":
			f.Delay, err = time.ParseDuration(v)
		case "drop":
			f.Drop = true
		case "carryout":
			f.CarryOut = true
		case "path":
			f.Match = func(r *http.Request) bool { return strings.Contains(r.URL.Path, v) }
		case "body":
			f.Body = v
			if file, ok := strings.CutPrefix(v, "@"); ok {
				f.Body = ts.ReadFile(file)
			}
			if n, ok := strings.CutPrefix(v, "huge:"); ok {
				var size int
				size, err = strconv.Atoi(n)
				f.Body = `{"x":"` + strings.Repeat("x", size) + `"}`
			}
		case "type", "header":
			if kind == "type" {
				member = "Content-Type"
			}
			if f.Header == nil {
				f.Header = make(http.Header)
			}
			f.Header.Set(member, v)
		case "set":
			if f.Set == nil {
				f.Set = make(map[string]any)
			}
			var value any
			err = json.Unmarshal([]byte(v), &value)
			f.Set[member] = value
		default:
			ts.Fatalf("unknown fault %s", name)
		}
		ts.Check(err)
	}
	e := envOf(ts)
	e.undo = append(e.undo, e.srv.Fail(sandbox.Step(args[0]), f))
}

// cmdMend undoes all faults: mend.
func cmdMend(ts *testscript.TestScript, neg bool, args []string) {
	e := envOf(ts)
	for _, undo := range e.undo {
		undo()
	}
	e.undo = nil
}

// cmdRequests checks how many requests of each step the sandbox has had since the last check:
// requests [STEP N …].
func cmdRequests(ts *testscript.TestScript, neg bool, args []string) {
	srv := envOf(ts).srv
	got := srv.Counts().Requests
	for i := 0; i+1 < len(args); i += 2 {
		want, err := strconv.Atoi(args[i+1])
		ts.Check(err)
		if n := got[sandbox.Step(args[i])]; n != want {
			ts.Fatalf("%d requests of step %s, want %d; all: %v", n, args[i], want, got)
		}
	}
	srv.ClearRequests()
}

// cmdChange does what an administrator could: change revoke|end|expire|disable|forget WHO.
func cmdChange(ts *testscript.TestScript, neg bool, args []string) {
	srv := envOf(ts).srv
	ts.Check(map[string]func(string) error{
		"revoke": srv.RevokeUser, "end": srv.EndSession, "expire": srv.ExpireAccess, "disable": srv.DisableUser, "forget": srv.DeleteClient,
	}[args[0]](args[1]))
}

// cmdStatus runs a command and checks that it ends with an exit status, in time and without a panic:
// status N COMMAND ….
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	start := time.Now()
	err = ts.Exec(args[1], args[2:]...)
	if took := time.Since(start); took > slow*15*time.Second {
		ts.Fatalf("it took %s", took)
	}
	got := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	if strings.Contains(ts.ReadFile("stderr"), "goroutine ") {
		ts.Fatalf("it panicked")
	}
}

// cmdCode checks the code, and the step if it is given, of the JSON error on the last line of standard
// error: code CODE [STEP].
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	var doc struct {
		Error struct{ Code, Step, Message string }
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stderr")), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &doc); err != nil {
		ts.Fatalf("last line on stderr is no error in JSON: %v", err)
	}
	if doc.Error.Code != args[0] || len(args) > 1 && doc.Error.Step != args[1] || doc.Error.Message == "" {
		ts.Fatalf("error is %+v, want %q", doc.Error, args)
	}
}

// cmdDocumented compares a document with the one in a command's help:
// documented COMMAND stdout|stderr|FILE [all]. The help must have all members of the document, and with
// all the document must have those of the help. The COMMAND "" is the program itself.
func cmdDocumented(ts *testscript.TestScript, neg bool, args []string) {
	help := helpOf(ts, args[0])
	want, err := documentIn(help)
	ts.Check(err)
	text := strings.TrimSpace(ts.ReadFile(args[1]))
	if args[1] == "stderr" {
		text = text[strings.LastIndex(text, "\n")+1:]
	}
	var got any
	ts.Check(json.Unmarshal([]byte(text), &got))
	if _, list := got.([]any); list && args[0] == "tools" {
		want = []any{want} // in words
	}
	if err := like(got, want, len(args) > 2, args[0]); err != nil {
		ts.Fatalf("%v", err)
	}
}

func helpOf(ts *testscript.TestScript, command string) string {
	var out strings.Builder
	if code := run(context.Background(), append(strings.Fields(command), "--help"), strings.NewReader(""), &out, io.Discard); code != 0 {
		ts.Fatalf("%s --help: exit status %d", command, code)
	}
	return out.String()
}

// documentIn reads the JSON in a help text, in which … stands for anything.
func documentIn(help string) (doc any, err error) {
	help = strings.NewReplacer("{…}", "{}", "[…]", "[]").Replace(help)
	i := strings.Index(help, "\n  {")
	if j := strings.Index(help, "\n  ["); i < 0 || j >= 0 && j < i {
		i = j
	}
	if i < 0 {
		return nil, errors.New("no document in the help")
	}
	err = json.NewDecoder(strings.NewReader(help[i:])).Decode(&doc)
	return doc, err
}

// like reports how a document differs from the one that help shows.
func like(got, want any, all bool, at string) error {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %T, documented is an object", at, got)
		}
		if len(want) == 0 {
			return nil // {…}
		}
		for name, v := range object {
			if _, ok := want[name]; !ok {
				return fmt.Errorf("%s.%s is not documented, only %v", at, name, slices.Sorted(maps.Keys(want)))
			}
			if err := like(v, want[name], all, at+"."+name); err != nil {
				return err
			}
		}
		for name := range want {
			if _, ok := object[name]; !ok && all {
				return fmt.Errorf("%s.%s is documented and missing", at, name)
			}
		}
	case []any:
		list, ok := got.([]any)
		if !ok {
			return fmt.Errorf("%s: %T, documented is an array", at, got)
		}
		for _, v := range list {
			if len(want) == 0 {
				break // […]
			}
			if err := like(v, want[0], all, at+"[]"); err != nil {
				return err
			}
		}
	case string:
		text, ok := got.(string)
		if values := strings.Split(want, "|"); !ok || len(values) > 1 && !slices.Contains(values, text) {
			return fmt.Errorf("%s: %v, documented is %q", at, got, want)
		}
	default:
		if fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) {
			return fmt.Errorf("%s: %T, documented is %T", at, got, want)
		}
	}
	return nil
}

// cmdIdentity writes an age identity: identity FILE.
func cmdIdentity(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(writeIdentity(ts.MkAbs(args[0])))
}

func writeIdentity(file string) error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(identity.String()+"\n"), 0o600)
}

// cmdSealed gives the store an identity that a passphrase opens at once: sealed PASSPHRASE. One that the
// command makes takes half a second of the processor each time that it is opened.
func cmdSealed(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(seal(ts.Getenv("STORE"), args[0]))
}

// seal makes the folder of a file store, and in it an identity that the passphrase opens fast.
func seal(store, passphrase string) error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	lock, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	lock.SetWorkFactor(10)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, lock)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, identity.String()+"\n")
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(store, "identity.age"), sealed.Bytes(), 0o600)
}

// cmdLarge writes a megabyte: large FILE.
func cmdLarge(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte("x"), 1<<20), 0o600))
}

// cmdRecord sets RECORD to the file that a store wrote last: record [FOLDER].
func cmdRecord(ts *testscript.TestScript, neg bool, args []string) {
	folder := ts.Getenv("STORE")
	if len(args) > 0 {
		folder = args[0]
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.record.age"))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("nothing is stored")
	}
	written := func(name string) time.Time {
		info, err := os.Stat(name)
		ts.Check(err)
		return info.ModTime()
	}
	ts.Setenv("RECORD", slices.MaxFunc(files, func(a, b string) int { return written(a).Compare(written(b)) }))
}

// cmdSpoil replaces the contents of a file: spoil FILE cut N|bytes TEXT|flip N.
func cmdSpoil(ts *testscript.TestScript, neg bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	n, _ := strconv.Atoi(args[2])
	switch args[1] {
	case "cut":
		data = data[:n]
	case "flip":
		data[(n+len(data))%len(data)] ^= 1
	case "bytes":
		data = []byte(args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}
