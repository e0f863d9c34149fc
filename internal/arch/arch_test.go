// Package arch holds the floors of this module: a test reads every import in the tree and allows
// only what the table below lists. Imports point down, the packages of the documented steps
// do not know each other, and every dependency has a reason. It holds nothing about what the
// code in the packages does.
package arch

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/astravue/mcp-client-go"

// A room is one package, or with the name "examples/" each package below that folder.
type room struct {
	floor  int
	own    []string // packages of this module that it may import
	others []string // import paths outside the standard library, or the beginnings of such
	tests  []string // what its test files may import besides, own or others
}

// apart is the floor of what is not part of the house: it imports nothing of it.
const apart = -1

const (
	sdk  = "github.com/modelcontextprotocol/go-sdk/"
	sync = "golang.org/x/sync/"
)

var rooms = map[string]room{
	"cmd/astravue-mcp": {
		floor: 4,
		own: []string{
			"mcpclient", "refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore",
			"internal/clock", "internal/secret", "internal/text", "sandbox",
		},
		others: []string{"github.com/spf13/cobra", "github.com/pkg/browser", "golang.org/x/term", "golang.org/x/sys/unix", "filippo.io/age", sdk + "mcp", sdk + "jsonrpc"},
		tests:  []string{"github.com/rogpeppe/go-internal", sdk + "auth"},
	},
	"examples/": {
		floor:  4,
		own:    []string{"mcpclient", "authcode", "tokenstore", "sandbox"},
		others: []string{sdk + "mcp"},
	},
	"examples/webapp": {
		floor:  4,
		own:    []string{"mcpclient", "authcode", "tokenstore", "tokenstore/postgres", "sandbox"},
		others: []string{sdk + "mcp", "github.com/jackc/pgx/v5"},
	},

	"internal/proofs/conformance": {floor: apart},
	"internal/proofs/conformance/client": {
		floor:  4,
		own:    []string{"mcpclient", "discovery", "authcode", "tokenstore"},
		others: []string{sdk, "filippo.io/age"},
	},

	"internal/proofs/oidcprovider": {floor: 4, own: []string{"mcpclient", "refresh", "authcode", "tokenstore"}},

	"internal/proofs/interop": {floor: 4, own: []string{"mcpclient", "tokenstore"}, tests: []string{sdk + "auth", sdk + "oauthex"}},

	"mcpclient": {
		floor: 3,
		own: []string{
			"refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore",
			"internal/oauthhttp", "internal/clock", "internal/secret", "internal/text", "internal/crashpoint",
		},
		others: []string{sdk + "mcp", sdk + "jsonrpc", "golang.org/x/oauth2", sync + "singleflight", "github.com/pkg/browser", "filippo.io/age"},
		tests:  []string{sdk + "auth", sdk + "oauthex"},
	},

	"refresh": {
		floor:  2,
		own:    []string{"tokenstore", "internal/oauthhttp", "internal/clock", "internal/secret", "internal/text", "internal/crashpoint"},
		others: []string{"golang.org/x/oauth2", sync + "singleflight"},
	},

	"discovery": {floor: 1, own: []string{"internal/oauthhttp", "internal/text"}},
	"pkce":      {floor: 1, own: []string{"internal/secret"}, others: []string{"golang.org/x/oauth2"}},
	"dcr":       {floor: 1, own: []string{"internal/oauthhttp", "internal/secret", "internal/text", "internal/clock"}},
	"authcode":  {floor: 1, own: []string{"internal/oauthhttp", "internal/secret", "internal/text"}},
	"callback":  {floor: 1},
	"tokenstore": {
		floor:  1,
		own:    []string{"internal/secret", "internal/text", "internal/clock", "internal/crashpoint", "internal/gate"},
		others: []string{"github.com/zalando/go-keyring", "github.com/godbus/dbus/v5", "github.com/gofrs/flock", "filippo.io/age", "golang.org/x/sys/"},
	},
	"tokenstore/postgres": {
		floor: 2, own: []string{"tokenstore", "internal/crashpoint", "internal/gate"}, others: []string{"github.com/jackc/pgx/v5"},
		tests: []string{"refresh", "mcpclient"},
	},
	"tokenstore/storetest": {floor: 2, own: []string{"tokenstore", "internal/secret", "internal/clock", "internal/crashpoint"}},

	"internal/oauthhttp":  {floor: 0, own: []string{"internal/clock", "internal/secret", "internal/text"}, others: []string{"golang.org/x/net/idna"}},
	"internal/text":       {floor: 0, own: []string{"internal/secret"}, others: []string{"golang.org/x/net/idna"}},
	"internal/secret":     {floor: 0},
	"internal/clock":      {floor: 0},
	"internal/crashpoint": {floor: 0},
	"internal/gate":       {floor: 0},

	"sandbox": {
		floor:  apart,
		own:    []string{"sandbox/internal/workspace"},
		others: []string{sdk, "github.com/golang-jwt/jwt/v5", "github.com/google/jsonschema-go/"},
	},
	"sandbox/internal/workspace": {floor: apart, others: []string{sdk + "mcp", "github.com/google/jsonschema-go/"}},
	"internal/testenv": {
		floor:  apart,
		others: []string{sdk, "github.com/golang-jwt/jwt/v5", "github.com/chromedp/", "github.com/godbus/dbus/v5"},
	},
	"internal/proofs/keycloak": {
		floor:  4,
		own:    []string{"mcpclient", "refresh", "discovery", "dcr", "authcode", "tokenstore"},
		others: []string{sdk + "mcp", "filippo.io/age"},
	},
	"internal/proofs/rotation": {
		floor: 4, own: []string{"mcpclient", "refresh", "tokenstore", "tokenstore/postgres"},
		others: []string{"filippo.io/age", "github.com/jackc/pgx/v5"},
	},
	"internal/proofs/gosdk": {floor: 4, own: []string{"mcpclient", "refresh", "authcode", "tokenstore"}, others: []string{sdk, "golang.org/x/oauth2"}},
	"internal/proofs/faults": {
		floor: 4, own: []string{"mcpclient", "refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore", "tokenstore/postgres"},
		others: []string{"filippo.io/age", "github.com/jackc/pgx/v5"},
	},
	"internal/proofs/leaks": {
		floor: 4, own: []string{"mcpclient", "refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore", "tokenstore/postgres"},
		others: []string{"filippo.io/age", "github.com/jackc/pgx/v5"},
	},
	"internal/proofs/attacks": {
		floor: 4, own: []string{"mcpclient", "refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore", "tokenstore/postgres"},
		others: []string{sdk, "filippo.io/age", "github.com/jackc/pgx/v5"},
	},
	"internal/arch": {floor: apart},
}

// inTests is what every test file may import, besides its own package and what that may.
// Those apart may not see the house in their tests either.
var (
	inTests      = []string{"github.com/chromedp/", "github.com/godbus/dbus/v5", "github.com/google/go-cmp/", sdk + "mcp", "github.com/golang-jwt/jwt/v5"}
	ownInTests   = []string{"internal/testenv"}
	houseInTests = []string{"sandbox", "tokenstore/storetest", "internal/oauthhttp", "internal/secret", "internal/clock", "internal/crashpoint", "internal/text"}
)

// reasons are for the modules that go.mod requires directly.
var reasons = map[string]string{
	"filippo.io/age":                         "seals the file store",
	"github.com/godbus/dbus/v5":              "names the errors that go-keyring passes on from D-Bus; tests lock and stop the Secret Service",
	"github.com/gofrs/flock":                 "the lock across processes, on every platform",
	"github.com/jackc/pgx/v5":                "PostgreSQL and its pool, for the token store of many users",
	"github.com/golang-jwt/jwt/v5":           "the sandbox signs access tokens, and test servers check them; a client never reads one",
	"github.com/google/jsonschema-go":        "schemas of the sandbox's tools",
	"github.com/modelcontextprotocol/go-sdk": "MCP itself, client and sandbox",
	"github.com/pkg/browser":                 "opens the browser, without a shell, on every platform",
	"github.com/spf13/cobra":                 "commands and flags",
	"github.com/zalando/go-keyring":          "the keychain of every platform, without cgo",
	"golang.org/x/net":                       "idna: the one spelling of a host, as net/http has it, for guards and for people",
	"golang.org/x/oauth2":                    "PKCE, and the token type of the ecosystem",
	"golang.org/x/sync":                      "singleflight: one refresh for all who wait",
	"golang.org/x/sys":                       "what the systems have no common word for: a user's folder on Windows, read-only mounts, processes of which no core is dumped",
	"golang.org/x/term":                      "asks for a passphrase without showing it",

	"github.com/chromedp/cdproto":     "tests: Chromium's protocol, where chromedp has no word for it",
	"github.com/chromedp/chromedp":    "tests: drives Chromium",
	"github.com/google/go-cmp":        "tests: differences that can be read",
	"github.com/rogpeppe/go-internal": "tests: testscript, for the command",
}

func TestImports(t *testing.T) {
	for _, file := range files(t) {
		if path.Ext(file) != ".go" {
			continue
		}
		name, allowed, known := find(path.Dir(file))
		if !known {
			t.Errorf("%s: package %s has no place in the table", file, path.Dir(file))
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), onDisk(file), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		own, others := slices.Clone(allowed.own), slices.Clone(allowed.others)
		if strings.HasSuffix(file, "_test.go") {
			own = slices.Concat(own, ownInTests, allowed.tests, []string{path.Dir(file)})
			others = slices.Concat(others, inTests, allowed.tests)
			if allowed.floor != apart {
				own = append(own, houseInTests...)
			}
		}
		for _, spec := range syntax.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(imported, "/")
			if local, ours := strings.CutPrefix(imported, module+"/"); ours {
				if !slices.Contains(own, local) {
					t.Errorf("%s imports %s, which is not allowed in %s", file, local, name)
				}
			} else if strings.Contains(first, ".") && !slices.ContainsFunc(others, func(p string) bool { return within(imported, p) }) {
				t.Errorf("%s imports %s, which is not allowed in %s", file, imported, name)
			}
		}
	}
}

// TestFloors holds the table itself to the picture: what is imported lies lower, or both lie on
// the ground, or both are apart. The command and the examples show the sandbox, nothing else does.
func TestFloors(t *testing.T) {
	for name, importer := range rooms {
		for _, own := range importer.own {
			imported, ok := rooms[own]
			switch {
			case !ok:
				t.Errorf("%s may import %s, which has no place in the table", name, own)
			case own == "sandbox" && importer.floor == 4:
			case imported.floor == apart || importer.floor == apart:
				if imported.floor != importer.floor {
					t.Errorf("%s may import %s, but one of them is apart", name, own)
				}
			case imported.floor >= importer.floor && importer.floor != 0:
				t.Errorf("%s (floor %d) may import %s (floor %d)", name, importer.floor, own, imported.floor)
			}
		}
	}
}

func TestEveryDependencyHasAReason(t *testing.T) {
	data, err := os.ReadFile(onDisk("go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`(?m)^(?:require )?\s*(\S+\.\S+) v\S+$`).FindAllSubmatch(data, -1)
	if len(required) == 0 {
		t.Fatal("go.mod seems to require nothing")
	}
	for _, match := range required {
		if reasons[string(match[1])] == "" {
			t.Errorf("go.mod requires %s, for no listed reason", match[1])
		}
	}
}

// TestText looks for what belongs to the machine, or to the day, on which a file was written.
func TestText(t *testing.T) {
	// Brackets keep a pattern from finding itself.
	patterns := map[string]*regexp.Regexp{
		"a path of a developer's machine": regexp.MustCompile(`(^|[^\w.$}])/(wor[k]|farm|roo[t]|tm[p]|home/\w+)/`),
		"the host of a package registry":  regexp.MustCompile(`"resolved": *"http|registry\.npm[j]s|proxy\.gol[a]ng\.org|repo1?\.mave[n]|(deb|security)\.debia[n]\.org|pypi\.or[g]`),
		"work that is left":               regexp.MustCompile(`\b(TO[D]O|FIXM[E]|XX[X])\b`),
	}
	for _, file := range files(t) {
		data, err := os.ReadFile(onDisk(file))
		if err != nil {
			t.Error(err)
			continue
		}
		if bytes.IndexByte(data, 0) >= 0 {
			continue // not text
		}
		for n, line := range bytes.Split(data, []byte("\n")) {
			for what, pattern := range patterns {
				if found := pattern.Find(line); found != nil {
					t.Errorf("%s:%d: %q is %s", file, n+1, found, what)
				}
			}
		}
	}
}

// find returns the room of the package in dir.
func find(dir string) (name string, r room, ok bool) {
	if r, ok := rooms[dir]; ok {
		return dir, r, true
	}
	for name, r := range rooms {
		if strings.HasSuffix(name, "/") && strings.HasPrefix(dir, name) {
			return name, r, true
		}
	}
	return "", room{}, false
}

// within tells whether imported is the package or module p, or, where p ends with a slash, is
// below it.
func within(imported, p string) bool {
	return imported == p || strings.HasPrefix(imported, strings.TrimSuffix(p, "/")+"/")
}

// files lists the module's files by slash-separated path, without what only tools look at.
func files(t *testing.T) (names []string) {
	t.Helper()
	root := os.DirFS(onDisk("."))
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			names = append(names, name)
		}
		return nil
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("the module's files: %d, %v", len(names), err)
	}
	return names
}

func onDisk(name string) string {
	return filepath.Join("..", "..", filepath.FromSlash(name))
}
