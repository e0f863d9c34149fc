package attacks

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

var openedAttacks = openedRows()

func openedRows() (rows []attack) {
	const server = "a hostile MCP server"

	// The parts of an unquoted address that a shell runs.
	for _, r := range []struct{ id, does, query string }{
		{"substitution", "a command substitution in the query", "?x=$(reboot)"},
		{"backticks", "backticks in the query", "?x=`reboot`"},
		{"semicolon", "a semicolon and a command in the query", "?x=1;reboot"},
		{"pipe", "a pipe and a command in the query", "?x=1|reboot"},
		{"or", "|| and a command in the query", "?x=1||reboot"},
		{"newline", "a line end and a command in the query", "?x=1\nreboot"},
		{"carriage-return", "a carriage return and a command in the query", "?x=1\r\nreboot\r\n"},
		{"encoded-newline", "an encoded line end and a command in the query", "?x=1%0Areboot"},
		{"redirection", "a file to write to in the query", "?x=1>stolen"},
		{"quotes", "quotes that end the opener's own in the query", `?x='"'";reboot;"`},
		{"double-quotes", "double quotes and a substitution in the query", `?x="$(reboot)"`},
		{"subshell", "a subshell in the query", "?x=1&(reboot)"},
		{"braces", "braces in the query", "?x=1&{reboot,}"},
		{"process-substitution", "a process substitution in the query", "?x=<(reboot)"},
		{"arithmetic", "an arithmetic expansion with a command in it", "?x=$((a[$(reboot)]))"},
		{"parameter-expansion", "a parameter expansion with a command in it", "?x=${y:-$(reboot)}"},
		{"comment", "a comment sign that hides our parameters", "?x=1 #"},
		{"space", "a space, and a program as an argument of the opener", "?x=1 $(reboot)"},
		{"tab", "a tab and a command", "?x=1&\treboot"},
		{"backslash", "a backslash before what follows", `?x=1\&reboot`},
		{"no-value", "a parameter without a value, which is a command behind an &", "?x=1&reboot"},
		{"no-value-last", "parameters without values on both sides", "?calc&reboot&calc"},
		{"no-value-encoded", "a name that is the command's, encoded", "?x=1&%72eboot"},
		{"no-name", "a parameter without a name, whose value zsh looks up as a command", "?x=1&=reboot"},
		{"double-ampersand", "&& and a command", "?x=1&&reboot"},
		{"subscript", "a name with a subscript that is evaluated", "?x=1&a[$(reboot)]=1"},
		{"assignment-of-path", "a PATH of the attacker's, and a command", "?x=1&PATH=/tmp&reboot"},
		{"append", "an assignment that appends, and a command", "?x=1&PATH+=:/tmp&reboot&"},
		{"assignment-before-command", "an assignment with a command behind it", "?x=1&LD_PRELOAD=/x reboot"},
		{"tilde", "a tilde", "?x=1&~/reboot"},
		{"glob", "a pattern that finds the program", "?x=1&reboo*"},
		{"question-mark", "a pattern of question marks that finds the program", "?x=1&reboo?"},
		{"history", "a history expansion", "?x=1&!reboot"},
		{"here-document", "a here-document with a command in it", "?x=<<E\n$(reboot)\nE"},
		{"c1", "control characters of eight bits", "?x=\u009b31m\u0085reboot"},
		{"bidi", "characters that turn the line around", "?x=\u202etoober\u2066"},
		{"path", "a command substitution in the path", "/$(reboot)"},
		{"path-backticks", "backticks in the path", "/`reboot`/auth"},
		{"path-semicolon", "a semicolon in the path", "/;reboot;/auth"},
		{"path-ampersand", "an & in the path", "/a&reboot&/auth"},
		{"path-quotes", "quotes in the path", `/'"$(reboot)"'`},
		{"path-parentheses", "a pipe and parentheses in the path", "/a|(reboot)"},
	} {
		rows = append(rows, attack{
			id: "opened-shell-" + r.id, who: server, gains: "a program run on the user's computer, where $BROWSER ends in a shell",
			does: "states an authorization endpoint with " + r.does,
			play: func(t *testing.T) (bool, string) {
				srv := openedServer(t)
				srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": srv.AuthURL() + r.query}})
				return openedOrRun(t, srv.URL())
			},
		})
	}
	for _, r := range []struct{ id, who, does string }{
		{"scope", server, "names scopes with shell characters in them"},
		{"client-id", "a hostile authorization server", "registers the client under an ID with shell characters in it"},
		{"resource", server, "gives the user an address with shell characters in its query"},
	} {
		rows = append(rows, attack{
			id: "opened-shell-" + r.id, who: r.who, gains: "a program run on the user's computer, where $BROWSER ends in a shell", does: r.does,
			play: func(t *testing.T) (bool, string) {
				const evil = "x'\"`reboot`$(reboot);reboot|reboot&reboot\nreboot>stolen #"
				srv := openedServer(t)
				address := srv.URL()
				switch r.id {
				case "scope":
					srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Set: map[string]any{"scopes_supported": []string{evil, "$(reboot)"}}})
				case "client-id":
					srv.Fail(sandbox.StepRegister, sandbox.Fault{Set: map[string]any{"client_id": evil}})
				case "resource":
					address += "?x=$(reboot)&reboot&`reboot`;reboot"
					srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Set: map[string]any{"resource": address}})
				}
				return openedOrRun(t, address)
			},
		})
	}
	rows = append(rows, attack{
		id: "opened-command", who: server, gains: "a program run on the user's computer, where $BROWSER ends in a shell",
		does: "states an authorization endpoint with many shell characters; the command's BROWSER hands them to a shell, as ssh does",
		play: openedByTheCommand,
	})

	// Addresses that are none of a sign-in page.
	for _, r := range []struct{ id, gains, does, endpoint string }{
		{"javascript", "a script in the browser", "names javascript:", "javascript:alert(1)"},
		{"javascript-host", "a script in the browser", "names javascript: with what looks like a host", "javascript://127.0.0.1/%0Aalert(1)"},
		{"data", "a page of its own under no name", "names data:", "data:text/html,<script>alert(1)</script>"},
		{"vbscript", "a script in the browser", "names vbscript:", "vbscript:msgbox(1)"},
		{"file", "a file of the user's opened", "names file:", "file:///etc/passwd"},
		{"file-host", "a file of another computer opened", "names file: with a host", "file://127.0.0.1/share/x.exe"},
		{"custom-scheme", "a program that has registered a scheme", "names a scheme of an application's", "ms-msdt:/id%20PCWDiagnostic"},
		{"view-source", "what a browser does with the scheme", "puts a scheme in front of the address", "view-source:https://auth.example/"},
		{"userinfo", "an address that looks like another one", "puts a host's name before an @", "https://accounts.example@evil.example/"},
		{"empty-userinfo", "an address that looks like another one", "puts nothing before an @", "https://@evil.example/"},
		{"fragment", "a page that ignores our parameters", "ends the address in a fragment", "https://auth.example/#"},
		{"dash", "an option of the opener's", "begins with a dash", "--config=https://auth.example/"},
		{"leading-space", "an option of the opener's", "begins with a space", " https://auth.example/"},
		{"newline", "a second argument", "has a line end in it", "https://auth.example/\nhttps://evil.example/"},
		{"escape", "what the terminal does with it", "has an escape character in it", "https://auth.example/\x1b[2J"},
		{"scheme-relative", "whatever scheme the opener thinks of", "leaves the scheme out", "//auth.example/"},
		{"relative", "a file of the current folder", "names a path", "/authorize"},
		{"opaque", "a parser that disagrees", "leaves the slashes out", "https:auth.example/"},
		{"http", "the code, for whoever listens on the way", "names http", "http://auth.example/"},
		{"backslash-host", "a browser that takes the backslash for a slash", "names a host with a backslash", `https://auth.example\@evil.example/`},
		{"quote-host", "quotes in what the opener gets", "names a host with quotes", `https://auth"x.example/`},
		{"shell-host", "a program run", "names a host with a command in it", "https://$(reboot).example/"},
		{"zone", "an interface of the user's computer", "names an IPv6 address with a zone", "https://[fe80::1%25eth0]/"},
		{"number-host", "a private host under a number that browsers read as an address", "names a host by a decimal number", "https://3232235777/"},
		{"hex-host", "a private host", "names a host by a hexadecimal number", "https://0xc0a80101/"},
		{"octal-host", "a private host", "names a host by octal numbers", "https://0300.0250.01.01/"},
		{"short-host", "a private host", "names a host by two numbers", "https://192.168.257/"},
		{"port", "a parser that disagrees", "names a port that is no number", "https://auth.example:443@evil.example:x/"},
		{"bad-percent", "a parser that disagrees", "has a percent sign that encodes nothing", "https://auth.example/?x=%zz"},
	} {
		rows = append(rows, attack{
			id: "opened-address-" + r.id, who: server, gains: r.gains, does: "as authorization endpoint, " + r.does,
			play: func(t *testing.T) (bool, string) {
				srv := openedServer(t)
				srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": r.endpoint}})
				address, err := openedFor(t, srv.URL())
				if address != "" {
					return true, "it was opened"
				}
				return false, openedOutcome(err)
			},
		})
	}

	// Parameters of the endpoint's own.
	for _, r := range []struct{ id, gains, query string }{
		{"request", "a request of its own making in place of ours", "request=eyJhbGciOiJub25lIn0.e30."},
		{"request-uri", "a request of its own making in place of ours", "request_uri=https://evil.example/r"},
		{"response-mode", "the code, sent another way than to the callback", "response_mode=form_post"},
		{"request-case", "a request of its own making, at a server that takes no notice of case", "Request_Uri=https://evil.example/r"},
		{"request-dot", "a request of its own making, at a server in PHP", "request.uri=https://evil.example/r"},
		{"request-bracket", "a request of its own making, at a server in PHP", "request_uri[]=https://evil.example/r"},
		{"request-encoded", "a request of its own making in place of ours", "%72equest%5Furi=https://evil.example/r"},
		{"request-space", "a request of its own making, at a server in PHP", "+request_uri=https://evil.example/r"},
		{"request-folded", "a request of its own making, at a server that folds letters", "reque%C5%BFt=x"},
		{"state", "an answer that is taken for another sign-in's", "state=known"},
		{"redirect-uri", "the code, sent to itself", "redirect_uri=https://evil.example/"},
		{"redirect-uri-case", "the code, sent to itself", "REDIRECT_URI=https://evil.example/"},
		{"client-id", "consent to another client", "client_id=other"},
		{"code-challenge", "a code that it can redeem", "code_challenge=known"},
		{"scope", "more than was asked for", "scope=admin"},
		{"resource", "a token for another server", "resource=https://honest.example/"},
		{"response-type", "a token in the answer", "response_type=token"},
		{"prompt", "no page to be shown", "prompt=none"},
	} {
		rows = append(rows, attack{
			id: "opened-parameter-" + r.id, who: server, gains: r.gains, does: "states an authorization endpoint with `" + r.query + "`",
			play: func(t *testing.T) (bool, string) {
				srv := openedServer(t)
				srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": srv.AuthURL() + "/?" + r.query}})
				address, err := openedFor(t, srv.URL())
				if address != "" {
					return true, "it was opened"
				}
				return false, openedOutcome(err)
			},
		})
	}

	// Places of the user's own network, named by a server out of it.
	for _, r := range []struct{ id, member, address string }{
		{"router", "authorization_endpoint", "https://192.168.1.1/reboot?now=1"},
		{"localhost", "authorization_endpoint", "https://localhost:8443/"},
		{"localhost-dot", "authorization_endpoint", "https://LOCALHOST.:8443/"},
		{"below-localhost", "authorization_endpoint", "https://app.localhost/"},
		{"loopback", "authorization_endpoint", "https://127.9.9.9/"},
		{"loopback-http", "authorization_endpoint", "http://127.0.0.1:8080/"},
		{"loopback-v6", "authorization_endpoint", "https://[::1]/"},
		{"mapped", "authorization_endpoint", "https://[::ffff:192.168.1.1]/"},
		{"full-width", "authorization_endpoint", "https://１９２.168.1.1/"},
		{"metadata", "authorization_endpoint", "https://169.254.169.254/latest/meta-data/"},
		{"metadata-name", "authorization_endpoint", "https://metadata.google.internal/"},
		{"local-name", "authorization_endpoint", "https://router.local/reboot"},
		{"one-label", "authorization_endpoint", "https://intranet/delete?all"},
		{"token", "token_endpoint", "https://10.0.0.1/transfer?amount=1000"},
		{"registration", "registration_endpoint", "https://10.0.0.1/users"},
		{"revocation", "revocation_endpoint", "https://10.0.0.1/"},
		{"issuer", "issuer", "https://10.0.0.1/realms/x"},
	} {
		rows = append(rows, attack{
			id: "opened-private-" + r.id, who: "a hostile public MCP server", gains: "a request of its choice to a host of the user's own network",
			does: "names `" + r.address + "` as " + strings.ReplaceAll(r.member, "_", " "),
			play: func(t *testing.T) (bool, string) {
				net := newGuardNet(t)
				document := map[string]any{
					"issuer": "https://server.example", "authorization_endpoint": "https://server.example/auth", "token_endpoint": "https://server.example/token",
					"code_challenge_methods_supported": []string{"S256"}, r.member: r.address,
				}
				resource := map[string]any{"resource": "https://server.example/mcp", "authorization_servers": []any{document["issuer"]}}
				net.serve("server.example", map[string]any{
					"/.well-known/oauth-protected-resource":   resource,
					"/.well-known/oauth-authorization-server": document,
				})
				_, err := discovery.Discover(t.Context(), discovery.Request{Server: "https://server.example/mcp", HTTPClient: net.client("https://server.example/mcp")})
				if n := net.count("private"); err == nil || n > 0 {
					return true, "it was taken"
				}
				return false, openedOutcome(err)
			},
		})
	}
	return rows
}

// openedOrRun signs in, and has a shell open the sign-in's address.
func openedOrRun(t *testing.T, server string) (bool, string) {
	address, err := openedFor(t, server)
	switch {
	case address == "":
		return false, openedOutcome(err)
	case openedBy(t, address):
		return true, "it was run"
	}
	u, err := url.Parse(address)
	if err != nil || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'<>\\^`{|}$();*!#", r) }) || u.Query().Get("state") == "" {
		return true, "it was opened as no address of RFC 3986, or without our parameters"
	}
	return false, "opened, percent-encoded; no shell ran anything of it"
}

// openedByTheCommand runs the command itself.
func openedByTheCommand(t *testing.T) (bool, string) {
	shell := openedShells(t)[0][0]
	program, err := command()
	testenv.Need(t, "the command", err == nil, "it cannot be built")
	srv := openedServer(t)
	srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": srv.AuthURL() + "/a`touch ran`/?x=$(touch ran)&y='\"|touch ran&touch&{touch,ran}&(touch ran)>ran"}})
	dir := t.TempDir()
	for name, script := range map[string]string{
		"ssh":     "#!" + shell + "\nshift\n" + shell + " -c \"$*\"\nexit\n",
		"firefox": "#!" + shell + "\nprintf '%s' \"$1\" >opened\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.txt"), []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "login", "--server", srv.URL(), "--store", "file")
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "XDG_CONFIG_HOME=" + filepath.Join(dir, "config"),
		"ASTRAVUE_MCP_IDENTITY_FILE=" + filepath.Join(dir, "identity.txt"), "BROWSER=ssh host firefox",
	}
	var printed testenv.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	opened := ""
	for opened == "" && ctx.Err() == nil {
		data, _ := os.ReadFile(filepath.Join(dir, "opened"))
		opened = string(data)
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // for what the shell left in the background
	cancel()
	_ = cmd.Wait()
	if opened == "" {
		t.Fatalf("nothing was opened: %s", printed.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		return true, "it was run"
	}
	if bytes.ContainsAny([]byte(printed.String()), "`$|>{") {
		return true, "it was printed as it stood"
	}
	return false, "the browser got an address up to the first &, as any browser behind such an opener does; nothing else was run"
}
