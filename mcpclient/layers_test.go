package mcpclient_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// layers are the files of the package in the order of what knows of what: no
// file uses anything of a layer above its own, and the methods of a type are in
// one layer. Two files of one layer may know each other.
var layers = [][]string{
	{"client.go", "login.go", "weblogin.go", "logout.go", "status.go", "discover.go", "browser.go", "doc.go"},
	{"conn.go", "attempt.go", "answer.go", "session.go", "feed.go", "stream.go", "repeat.go", "hints.go", "owed.go", "pages.go", "bounds.go", "sse.go"},
	{"authorizer.go", "refused.go", "moved.go", "stepups.go", "latch.go", "call.go", "redact.go"},
	{"signins.go"},
	{"flow.go", "exchange.go", "register.go", "limit.go", "consent.go", "issuer.go", "pending.go"},
	{"settings.go", "metadata.go", "agent.go", "body.go", "errors.go"},
}

// noImports has no package: what others export is of no interest here.
type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

func TestKnowledgePointsOneWay(t *testing.T) {
	layer := make(map[string]int)
	for i, names := range layers {
		for _, name := range names {
			layer[name] = i
		}
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	found := make(map[string]int)
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		found[name] = layer[name]
	}
	if !maps.Equal(found, layer) {
		t.Fatalf("the files are %v, and layers has %v", slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(layer)))
	}

	info := &types.Info{Defs: make(map[*ast.Ident]types.Object), Uses: make(map[*ast.Ident]types.Object)}
	check := types.Config{Importer: noImports{}, Error: func(error) {}} // all that is imported is unknown
	pkg, _ := check.Check("mcpclient", fset, files, info)
	upward := make(map[string]bool)
	uses := 0
	for id, o := range info.Uses {
		if o.Pkg() != pkg {
			continue
		}
		uses++
		from, to := fset.Position(id.Pos()).Filename, fset.Position(o.Pos()).Filename
		if layer[to] < layer[from] {
			upward[from+" uses "+o.Name()+" of "+to] = true
		}
	}
	for id, o := range info.Defs {
		f, ok := o.(*types.Func)
		if !ok {
			continue
		}
		uses++
		recv := f.Type().(*types.Signature).Recv()
		if recv == nil {
			continue
		}
		of := recv.Type()
		if p, ok := of.(*types.Pointer); ok {
			of = p.Elem()
		}
		named, ok := of.(*types.Named)
		if !ok {
			continue // of an interface without a name
		}
		from, to := fset.Position(id.Pos()).Filename, fset.Position(named.Obj().Pos()).Filename
		if layer[to] != layer[from] {
			upward[from+" has the method "+o.Name()+" of a type of "+to] = true
		}
	}
	for _, s := range slices.Sorted(maps.Keys(upward)) {
		t.Error(s)
	}
	if uses < 1000 {
		t.Errorf("only %d uses were found: the package was not looked through", uses)
	}
}
