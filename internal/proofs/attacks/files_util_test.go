package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// The attacks on files share a user of the command, whose session is in a file store, and another
// user of the machine.

const (
	filesStranger = "61002" // the number of another user, who needs no name
	filesAccess   = "access-token-of-the-victim-0123456789"
	filesRefresh  = "refresh-token-of-the-victim-0123456789"
	filesSecret   = "client-secret-of-the-victim-0123456789"
	filesPhrase   = "passphrase-of-the-victim-0123456789"
)

// A filesVictim has a session, in a folder that a shell has to quote.
type filesVictim struct {
	t       *testing.T
	program string
	base    string // D in scripts is the store's folder, C the one it is in, and so on
	server  string
	env     []string
}

func newFilesVictim(t *testing.T) *filesVictim {
	t.Helper()
	testenv.Need(t, "Linux", runtime.GOOS == "linux", "users, modes and links are another system's elsewhere")
	program, err := command()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.MkdirTemp("", "files")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	v := &filesVictim{t: t, program: program, base: base, server: "http://127.0.0.1:9/mcp"}
	v.sh(`chmod 0755 . && mkdir -m 0700 -p "$C" "$D"`)
	v.write("$I", v.seal())
	v.write("$P", filesPhrase+"\n")
	v.write("$S", filesSecret+"\n")
	v.env = []string{"ASTRAVUE_MCP_PASSPHRASE_FILE=" + v.path("$P")}
	v.signIn(filesAccess, time.Hour)
	return v
}

// seal writes an identity.age that the passphrase opens at once, and returns the identity. One that
// the library makes takes half a second of the processor each time that it is opened.
func (v *filesVictim) seal() string {
	v.t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		v.t.Fatal(err)
	}
	lock, err := age.NewScryptRecipient(filesPhrase)
	if err != nil {
		v.t.Fatal(err)
	}
	lock.SetWorkFactor(8)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, lock)
	if err != nil {
		v.t.Fatal(err)
	}
	_, err = w.Write([]byte(identity.String() + "\n"))
	if err = errors.Join(err, w.Close()); err != nil {
		v.t.Fatal(err)
	}
	v.write("$D/identity.age", sealed.String())
	return identity.String() + "\n"
}

func (v *filesVictim) store() *tokenstore.File {
	return &tokenstore.File{Dir: v.path("$D"), Passphrase: func(context.Context, bool) (tokenstore.Secret, error) {
		return tokenstore.NewSecret(filesPhrase), nil
	}}
}

func (v *filesVictim) key() tokenstore.Key { return tokenstore.GrantKey(v.server, "") }

// signIn stores a session whose access token lives for a while.
func (v *filesVictim) signIn(access string, lives time.Duration) {
	v.t.Helper()
	issuer := strings.TrimSuffix(v.server, "/mcp")
	if err := v.store().Update(v.t.Context(), v.key(), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: v.server, SignIn: "one", Issuer: issuer, TokenEndpoint: issuer + "/token",
			ClientID: "client", ClientSecret: tokenstore.NewSecret(filesSecret), AuthMethod: "client_secret_post", Resource: v.server,
			AccessToken: tokenstore.NewSecret(access), ObtainedAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(lives),
			RefreshToken: tokenstore.NewSecret(filesRefresh),
		}})
		return err
	}); err != nil {
		v.t.Fatal(err)
	}
}

// access is the token that the store yields.
func (v *filesVictim) access() string {
	r, err := v.store().Get(v.t.Context(), v.key())
	if err != nil || r.Grant == nil {
		return ""
	}
	return r.Grant.AccessToken.Reveal()
}

// path puts folders and files into s, by the names that scripts have for them.
func (v *filesVictim) path(s string) string {
	config := filepath.Join(v.base, "it's $HOME")
	dir := filepath.Join(config, "astravue-mcp")
	s = strings.NewReplacer("$D", dir, "$C", config, "$B", v.base, "$P", filepath.Join(v.base, "passphrase"),
		"$I", filepath.Join(v.base, "identity"), "$S", filepath.Join(v.base, "secret")).Replace(s)
	if strings.Contains(s, "$R") {
		found, _ := filepath.Glob(filepath.Join(dir, "*.record.age"))
		if len(found) != 1 {
			v.t.Fatalf("%d records, not one", len(found))
		}
		s = strings.ReplaceAll(s, "$R", found[0])
	}
	return s
}

func (v *filesVictim) write(path, text string) {
	v.t.Helper()
	if err := os.WriteFile(v.path(path), []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func (v *filesVictim) variables() (env []string) {
	for _, name := range []string{"D", "C", "B", "P", "I", "S"} {
		env = append(env, name+"="+v.path("$"+name))
	}
	if found, _ := filepath.Glob(filepath.Join(v.path("$D"), "*.record.age")); len(found) == 1 {
		env = append(env, "R="+found[0], "N="+strings.TrimSuffix(found[0], ".record.age"))
	}
	return env
}

// sh runs a shell script that prepares the attack.
func (v *filesVictim) sh(script string) {
	v.t.Helper()
	if out, err := v.shell(script).CombinedOutput(); err != nil {
		v.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

func (v *filesVictim) shell(script string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = v.base
	cmd.Env = append(append(os.Environ(), shellPath()), v.variables()...)
	return cmd
}

// stranger has another user of the machine do something.
func (v *filesVictim) stranger(script string) {
	v.t.Helper()
	filesRoot(v.t)
	cmd := v.shell(`exec setpriv --reuid=` + filesStranger + ` --regid=` + filesStranger + ` --clear-groups sh -c "$SCRIPT"`)
	cmd.Env = append(cmd.Env, "SCRIPT="+script)
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// filesRoot asks for the right to be several users.
func filesRoot(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("setpriv")
	testenv.Need(t, "root", os.Getuid() == 0 && err == nil, "a second user of the machine attacks")
}

// The outcome of a run of the command.
type filesRun struct {
	exit   int
	took   time.Duration
	stdout string
	stderr string
	code   string
	hint   string
}

// filesPatience is when a command is taken to hang. It is long, since a command may open a sealed
// identity several times, on a machine that does much else.
const filesPatience = 30 * time.Second

func (v *filesVictim) command(args ...string) *exec.Cmd {
	cmd := exec.Command(v.program, args...)
	cmd.Dir = v.base
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + v.base, "XDG_CONFIG_HOME=" + v.path("$C"), "ASTRAVUE_MCP_STORE=file",
		"ASTRAVUE_MCP_SERVER=" + v.server, "BROWSER=false",
	}, v.env...)
	return cmd
}

// run runs the command, with errors in JSON, and ends one that hangs.
func (v *filesVictim) run(args ...string) filesRun {
	v.t.Helper()
	return v.wait(v.command(append(args, "-o", "json")...))
}

func (v *filesVictim) wait(cmd *exec.Cmd) (r filesRun) {
	v.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	late := time.AfterFunc(filesPatience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
	r = filesRun{exit: cmd.ProcessState.ExitCode(), took: time.Since(start), stdout: stdout.String(), stderr: stderr.String()}
	var doc struct{ Error struct{ Code, Hint string } }
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &doc)
	r.code, r.hint = doc.Error.Code, doc.Error.Hint
	return r
}

func (r filesRun) hangs() bool { return r.took >= filesPatience }

// mend types the command of a hint, and says which one it is.
func (v *filesVictim) mend(hint string) (command string, err error) {
	for _, before := range []string{"To put that right: ", "begin anew: "} {
		if _, line, ok := strings.Cut(hint, before); ok {
			out, err := v.shell(line).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%s: %w: %s", line, err, out)
			}
			return strings.TrimSpace(line[:strings.IndexAny(line, "/'")]), err
		}
	}
	return "", fmt.Errorf("no command in the hint %q", hint)
}

// A filesServer keeps whoever comes with a token, or for one, waiting.
func (v *filesVictim) serve() (came <-chan struct{}) {
	arrived, over := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(arrived) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.Path == "/token" {
			once()
			<-over
		}
		http.NotFound(w, r)
	}))
	v.t.Cleanup(srv.Close)
	v.t.Cleanup(srv.CloseClientConnections)
	v.t.Cleanup(func() { close(over) })
	v.server = srv.URL + "/mcp"
	return arrived
}
