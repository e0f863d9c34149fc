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

// A room is one package, or with a name that ends in a slash each package below that folder which
// has no entry of its own.
type room struct {
	floor  int
	own    []string // packages of this module that it may import
	others []string // import paths outside the standard library, or the beginnings of such
	tests  []string // what its test files may import besides, of both kinds
}

// apart is the floor of what is not part of the house: it imports nothing of it.
const apart = -1

const sdk = "github.com/modelcontextprotocol/go-sdk/"

var rooms = map[string]room{
	"cmd/astravue-mcp": {
		floor: 4,
		own: []string{
			"mcpclient", "refresh", "discovery", "dcr", "authcode", "callback", "tokenstore",
			"internal/clock", "internal/openbrowser", "internal/text", "sandbox",
		},
		others: []string{"github.com/spf13/cobra", "golang.org/x/term", "golang.org/x/sys/unix", sdk + "mcp"},
		tests:  []string{"github.com/rogpeppe/go-internal", "filippo.io/age"},
	},
	"examples/": {
		floor:  4,
		own:    []string{"examples/internal/browser", "mcpclient", "tokenstore", "sandbox"},
		others: []string{sdk + "mcp"},
	},
	"examples/webapp": {
		floor:  4,
		own:    []string{"mcpclient", "authcode", "tokenstore", "tokenstore/postgres", "sandbox"},
		others: []string{sdk + "mcp", "github.com/jackc/pgx/v5"},
	},

	"examples/internal/browser": {floor: 0},

	// A proof runs the whole house against something real, so it may see all of it.
	"internal/proofs/": {
		floor: 4,
		tests: []string{
			"mcpclient", "refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore", "tokenstore/postgres",
			sdk, "golang.org/x/oauth2", "filippo.io/age", "github.com/jackc/pgx/v5",
		},
	},
	"internal/proofs/conformance/client": {
		floor:  4,
		own:    []string{"mcpclient", "discovery", "authcode", "tokenstore"},
		others: []string{sdk, "filippo.io/age"},
	},

	"mcpclient": {
		floor: 3,
		own: []string{
			"refresh", "discovery", "pkce", "dcr", "authcode", "callback", "tokenstore",
			"internal/oauthhttp", "internal/clock", "internal/openbrowser", "internal/text", "internal/retry",
		},
		others: []string{sdk + "mcp", sdk + "jsonrpc"},
		tests:  []string{"internal/secret", "filippo.io/age"},
	},

	"refresh": {
		floor:  2,
		own:    []string{"tokenstore", "internal/oauthhttp", "internal/clock", "internal/text", "internal/crashpoint", "internal/retry"},
		others: []string{"golang.org/x/oauth2", "golang.org/x/sync/singleflight"},
	},
	"tokenstore/postgres": {
		floor: 2, own: []string{"tokenstore", "internal/crashpoint", "internal/gate"}, others: []string{"github.com/jackc/pgx/v5"},
	},
	"tokenstore/storetest": {floor: 2, own: []string{"tokenstore", "internal/crashpoint"}},

	"discovery": {floor: 1, own: []string{"internal/oauthhttp", "internal/text"}},
	"pkce":      {floor: 1, own: []string{"internal/secret"}, others: []string{"golang.org/x/oauth2"}},
	"dcr":       {floor: 1, own: []string{"internal/oauthhttp", "internal/secret", "internal/text"}},
	"authcode":  {floor: 1, own: []string{"internal/oauthhttp", "internal/secret", "internal/text"}},
	"callback":  {floor: 1},
	"tokenstore": {
		floor:  1,
		own:    []string{"internal/secret", "internal/text", "internal/crashpoint", "internal/gate"},
		others: []string{"github.com/zalando/go-keyring", "github.com/godbus/dbus/v5", "github.com/gofrs/flock", "filippo.io/age", "golang.org/x/sys/"},
	},

	"internal/oauthhttp":   {floor: 0, own: []string{"internal/clock", "internal/secret", "internal/text"}, others: []string{"golang.org/x/net/idna"}},
	"internal/text":        {floor: 0, own: []string{"internal/secret"}, others: []string{"golang.org/x/net/idna"}},
	"internal/secret":      {floor: 0},
	"internal/clock":       {floor: 0},
	"internal/crashpoint":  {floor: 0},
	"internal/gate":        {floor: 0},
	"internal/openbrowser": {floor: 0, others: []string{"github.com/pkg/browser"}},
	"internal/retry":       {floor: 0},

	"sandbox": {
		floor:  apart,
		own:    []string{"sandbox/internal/workspace"},
		others: []string{sdk, "github.com/golang-jwt/jwt/v5"},
	},
	"sandbox/internal/workspace": {floor: apart, others: []string{sdk + "mcp", "github.com/google/jsonschema-go/"}},
	"internal/testenv": {
		floor:  apart,
		own:    []string{"sandbox"},
		others: []string{sdk, "github.com/golang-jwt/jwt/v5", "github.com/chromedp/", "github.com/godbus/dbus/v5"},
	},
	"internal/arch": {floor: apart},
}

// allTests is what every test file may import besides. The test files of what is apart see
// nothing of the house either.
var (
	allTests      = []string{"internal/testenv", "github.com/chromedp/", "github.com/godbus/dbus/v5", "github.com/google/go-cmp/", sdk + "mcp", "github.com/golang-jwt/jwt/v5"}
	houseAllTests = []string{"sandbox", "tokenstore/storetest", "internal/oauthhttp", "internal/clock", "internal/crashpoint", "internal/text"}
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

// TestImports fails for an import that the table does not allow, and for an allowance that no file
// uses: it would let a package in without anybody's decision.
func TestImports(t *testing.T) {
	// The lists of allowances by their names, with each entry that some file has used.
	used := map[string]map[string]bool{}
	use := func(list string, allowed []string, imported string) bool {
		i := slices.IndexFunc(allowed, func(p string) bool { return covers(p, imported) })
		if used[list] == nil {
			used[list] = map[string]bool{}
		}
		if i >= 0 {
			used[list][allowed[i]] = true
		}
		return i >= 0
	}

	for _, file := range files(t) {
		if path.Ext(file) != ".go" {
			continue
		}
		dir := path.Dir(file)
		name, allowed, known := find(dir)
		if !known {
			t.Errorf("%s: package %s has no place in the table", file, dir)
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), onDisk(file), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, spec := range syntax.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(imported, "/")
			local, ours := strings.CutPrefix(imported, module+"/")
			if !ours && !strings.Contains(first, ".") {
				continue // the standard library
			}
			list, kind := allowed.others, " others"
			if ours {
				imported, list, kind = local, allowed.own, " own"
			}
			var ok bool
			if strings.HasSuffix(file, "_test.go") {
				ok = imported == dir || slices.ContainsFunc(list, func(p string) bool { return covers(p, imported) }) ||
					use("allTests", allTests, imported) ||
					allowed.floor != apart && use("houseAllTests", houseAllTests, imported) ||
					use(name+" tests", allowed.tests, imported)
			} else {
				ok = use(name+kind, list, imported)
			}
			if !ok {
				t.Errorf("%s imports %s, which is not allowed in %s", file, imported, name)
			}
		}
	}

	lists := map[string][]string{"allTests": allTests, "houseAllTests": houseAllTests}
	for name, r := range rooms {
		lists[name+" own"], lists[name+" others"], lists[name+" tests"] = r.own, r.others, r.tests
	}
	for list, allowed := range lists {
		for _, entry := range allowed {
			if !used[list][entry] {
				t.Errorf("the list of %s has %s, which no file needs", list, entry)
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
	direct := map[string]bool{}
	for _, match := range required {
		direct[string(match[1])] = true
		if reasons[string(match[1])] == "" {
			t.Errorf("go.mod requires %s, for no listed reason", match[1])
		}
	}
	for name := range reasons {
		if !direct[name] {
			t.Errorf("there is a reason for %s, which go.mod does not require", name)
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

// covers tells whether an entry of a list allows what is imported: a package of this module by its
// name alone; of another module, the packages below the entry too.
func covers(entry, imported string) bool {
	first, _, _ := strings.Cut(entry, "/")
	if !strings.Contains(first, ".") {
		return imported == entry
	}
	return imported == entry || strings.HasPrefix(imported, strings.TrimSuffix(entry, "/")+"/")
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
