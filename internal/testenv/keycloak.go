package testenv

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
)

// KeycloakHome names the environment variable with the folder of a Keycloak distribution that was
// built for `start --optimized` (bin/kc.sh build --db=dev-mem). Features other than the
// preset ones are decided when it is built: for [Keycloak] with a feature F, the result of a
// build with --features=F, which is in lib/quarkus, lies in lib/quarkus-F beside it.
const KeycloakHome = "ASTRAVUE_MCP_KEYCLOAK"

//go:embed testdata/astravue-realm.json
var realm string

// KeycloakServer is a running Keycloak, with the realm of testdata/astravue-realm.json, and an MCP
// server in front of it as Astravue has it.
type KeycloakServer struct {
	Origin string // http://127.0.0.1:PORT; its administrator is admin, with the password admin
	Issuer string // Origin + /realms/astravue

	// MCP is the MCP server: the realm's tokens have it as their audience. Its host serves
	// the metadata of both at the root well-known addresses too.
	MCP *ResourceServer

	dist, quarkus string // folders
	feature       string
	process       *exec.Cmd
	stdin         io.Closer
}

// Keycloaks, by feature, that tests of this process share.
var keycloaks struct {
	sync.Mutex
	running map[string]*KeycloakServer
}

// Keycloak returns a Keycloak that all tests of the process share: tests that change its realm
// put it right again. It is started by the first test that asks for it, which takes some 15
// seconds, and ends with the process. feature is the name of one that is not preset, or "".
func Keycloak(t testing.TB, feature string) *KeycloakServer {
	t.Helper()
	keycloaks.Lock()
	defer keycloaks.Unlock()
	k := keycloaks.running[feature]
	if k == nil {
		k = newKeycloak(t, feature)
		if keycloaks.running == nil {
			keycloaks.running = map[string]*KeycloakServer{}
		}
		keycloaks.running[feature] = k
	}
	return k
}

func newKeycloak(t testing.TB, feature string) *KeycloakServer {
	t.Helper()
	dist := os.Getenv(KeycloakHome)
	Need(t, "Keycloak", dist != "", KeycloakHome+" names no distribution; .ci/parts makes one")
	quarkus := filepath.Join(dist, "lib", "quarkus")
	if feature != "" {
		quarkus += "-" + feature
	}
	Need(t, "Keycloak", exists(filepath.Join(quarkus, "build-system.properties")), quarkus+" is no build of Keycloak")
	for _, program := range []string{"java", "sh"} {
		_, err := exec.LookPath(program)
		Need(t, "Keycloak", err == nil, program+" is not installed")
	}

	mcp := &ResourceServer{mux: http.NewServeMux(), accepted: map[[sha256.Size]byte]bool{}}
	mcp.URL = httptest.NewServer(mcp.mux).URL + "/mcp" // ends with the process
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	k := &KeycloakServer{Origin: "http://127.0.0.1:" + port, MCP: mcp, dist: dist, quarkus: quarkus, feature: feature}
	k.Issuer = k.Origin + "/realms/astravue"
	k.Start(t)

	mcp.Trust(t, k.Issuer, "openid", "profile", "email")
	var metadata map[string]any
	getJSON(t, k.Issuer+"/.well-known/openid-configuration", &metadata)
	mcp.mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(metadata)
	})
	mcp.mux.Handle("GET /.well-known/oauth-protected-resource", auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource:             mcp.URL,
		AuthorizationServers: []string{k.Issuer},
		ScopesSupported:      []string{"openid", "profile", "email"},
	}))
	return k
}

// Start starts a Keycloak that was stopped, at the same address and with the realm as it was at
// first: its database is in memory.
func (k *KeycloakServer) Start(t testing.TB) {
	t.Helper()
	home, err := k.newHome()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(home, "keycloak.log")
	if dir := os.Getenv(Artefacts); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		log = filepath.Join(dir, strings.TrimSuffix("keycloak-"+k.feature, "-")+".log")
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(k.Origin, "http://"))
	java := []string{
		"java", "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", // it lives for a minute
		"-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8",
	}
	for _, pkg := range []string{"java.util", "java.util.concurrent", "java.security", "java.lang"} {
		java = append(java, "--add-opens=java.base/"+pkg+"=ALL-UNNAMED")
	}
	java = append(java,
		// What bin/kc.sh sets.
		"-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
		"-Djava.util.logging.manager=org.jboss.logmanager.LogManager", "-Dpicocli.disable.closures=true",
		"-Dkc.home.dir="+home, "-cp", filepath.Join(home, "lib", "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
		"start", "--optimized", "--import-realm", "--cache=local",
		"--http-enabled=true", "--http-host=127.0.0.1", "--http-port="+port, "--hostname="+k.Origin)

	// It goes when this process goes, however that ends: then the pipe closes.
	const script = `trap "" INT; "$@" </dev/null & read _; kill $!; wait $!; rm -rf "$0"`
	k.process = exec.Command("sh", slices.Concat([]string{"-c", script, home}, java)...)
	k.process.Env = append(os.Environ(), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin")
	k.process.Stdout, k.process.Stderr = out, out
	if k.stdin, err = k.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := k.process.Start(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		res, err := client.Get(k.Issuer + "/.well-known/openid-configuration")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK { // while it starts it is 503, then 404
				return
			}
			err = fmt.Errorf("it answers %s", res.Status)
		}
		printed, _ := os.ReadFile(log)
		if time.Now().After(deadline) || strings.Contains(string(printed), "Failed to start server") {
			k.stdin.Close()
			k.process.Wait()
			t.Fatalf("Keycloak does not start: %v\n%s", err, printed)
		}
	}
}

// Stop stops Keycloak, and returns when it is gone, with all that it knew. Other tests do not see it
// any more, whether it is started again or not.
func (k *KeycloakServer) Stop() {
	keycloaks.Lock()
	if keycloaks.running[k.feature] == k {
		delete(keycloaks.running, k.feature)
	}
	keycloaks.Unlock()
	k.stdin.Close()
	k.process.Wait()
}

// newHome makes a home of its own for a process: the distribution is shared and stays as it is.
func (k *KeycloakServer) newHome() (string, error) {
	home, err := os.MkdirTemp("", "keycloak")
	if err != nil {
		return "", err
	}
	for _, dir := range []string{"lib", "data/import"} {
		if err := os.MkdirAll(filepath.Join(home, filepath.FromSlash(dir)), 0o700); err != nil {
			return "", err
		}
	}
	links := map[string]string{"lib/quarkus": k.quarkus}
	for _, name := range []string{"conf", "providers", "themes", "version.txt", "lib/app", "lib/lib"} {
		links[name] = filepath.Join(k.dist, filepath.FromSlash(name))
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(home, filepath.FromSlash(name))); err != nil {
			return "", err
		}
	}
	// Java resolves the link that a class path names, and the rest is found beside it.
	const starter = "quarkus-run.jar"
	jar, err := os.ReadFile(filepath.Join(k.dist, "lib", starter))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(home, "lib", starter), jar, 0o600); err != nil {
		return "", err
	}
	imported := strings.ReplaceAll(realm, "${MCP_URL}", k.MCP.URL)
	return home, os.WriteFile(filepath.Join(home, "data", "import", "astravue-realm.json"), []byte(imported), 0o600)
}
