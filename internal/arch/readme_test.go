package arch

import (
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// block returns the lines of the README's first code block in a language.
func block(t *testing.T, readme, language string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(readme, "```"+language+"\n")
	text, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatalf("README.md has no block in %s", language)
	}
	return strings.Split(text, "\n")
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(onDisk(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReadmeGoBlockIsTheQuickstart(t *testing.T) {
	program := read(t, "examples/quickstart/main.go")
	for _, line := range block(t, read(t, "README.md"), "go") {
		_, after, ok := strings.Cut(program, line+"\n")
		if !ok {
			t.Fatalf("examples/quickstart does not have, in this order, the line:\n%s", line)
		}
		program = after
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	for page, least := range map[string]int{"README.md": 20, "CONTRIBUTING.md": 5, "internal/proofs/README.md": 10} {
		links := regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(read(t, page), -1)
		if len(links) < least {
			t.Errorf("%s: only %d links found", page, len(links))
		}
		for _, link := range links {
			if strings.HasPrefix(link[1], "https://") {
				continue
			}
			if _, err := os.Stat(onDisk(path.Join(path.Dir(page), link[1]))); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// The page of the proof packages has a line for each, with its table if it keeps one.
func TestReadmeOfProofsListsEachPackage(t *testing.T) {
	page := read(t, "internal/proofs/README.md")
	packages, err := os.ReadDir(onDisk("internal/proofs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if !p.IsDir() {
			continue
		}
		row := regexp.MustCompile("(?m)^\\| \\[`" + p.Name() + "`\\]\\(" + p.Name() + "\\) \\|.*$").FindString(page)
		if row == "" {
			t.Errorf("internal/proofs/README.md does not list %s", p.Name())
		}
		results := p.Name() + "/results.md"
		if _, err := os.Stat(onDisk("internal/proofs/" + results)); err == nil && !strings.Contains(row, "("+results+")") {
			t.Errorf("internal/proofs/README.md does not link %s", results)
		}
	}
}

// A row of the README's table of steps names the package that takes the step,
// and the package says so itself.
func TestReadmeStepsAreThePackages(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\| (\d) \|.*$`).FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(rows) != 8 {
		t.Fatalf("README.md has %d steps", len(rows))
	}
	for _, row := range rows {
		name := regexp.MustCompile("\\[`([a-z]+)`\\]").FindStringSubmatch(row[0])[1]
		var text string
		for _, file := range files(t) {
			if path.Dir(file) != name || path.Ext(file) != ".go" {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), onDisk(file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			text += f.Doc.Text()
		}
		first, _, _ := strings.Cut(text, "\n\n")
		if !regexp.MustCompile(`(?i)steps?\b[^.]*\b` + row[1] + `\b`).MatchString(first) {
			t.Errorf("package %s does not begin by saying that it is step %s:\n%s", name, row[1], first)
		}
	}
}

// The picture under "Architecture" has every package of the table, on its floor. "examples/*" stands
// for the packages below examples.
func TestReadmePictureHasEveryRoom(t *testing.T) {
	shown := map[string]int{}
	floor := 0
	for _, line := range block(t, read(t, "README.md"), "text") {
		if first, rest, _ := strings.Cut(strings.TrimSpace(line), " "); first == "apart" {
			floor, line = apart, rest
		} else if n, err := strconv.Atoi(first); err == nil {
			floor, line = n, rest
		}
		names, _, _ := strings.Cut(strings.TrimSpace(line), "   ") // what follows is prose
		for _, name := range strings.Fields(names) {
			shown[name] = floor
		}
	}
	for name := range shown {
		if _, _, ok := find(strings.Replace(name, "/*", "/any", 1)); !ok {
			t.Errorf("README.md shows %s, which has no place in the table", name)
		}
	}
	for name, room := range rooms {
		floor, ok := shown[name]
		for dir := path.Dir(name); !ok && dir != "."; dir = path.Dir(dir) {
			floor, ok = shown[dir+"/*"]
		}
		if !ok || floor != room.floor {
			t.Errorf("README.md does not show %s on floor %d", name, room.floor)
		}
	}
}

func TestReadmeStatesTheConformanceRun(t *testing.T) {
	results, _, _ := strings.Cut(read(t, "internal/proofs/conformance/results.md"), "\n\n\"command\" is")
	if !strings.Contains(read(t, "README.md"), results) {
		t.Error("README.md does not have the head of internal/proofs/conformance/results.md")
	}
}
