package workspace

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const instructions = `The workspace of Brightwater, a fictitious design and engineering studio.
Start with list_projects and list_project_tasks; the resource astravue://workspace says who you are and who else is here.
Times are UTC, RFC 3339; dates are YYYY-MM-DD; durations are seconds. Lists come in pages: pass next_cursor as cursor.
Where a user is asked for, "me" is you. What each role may do is in the resource astravue://rules.`

// A server is an MCP server to which tools, resources and prompts are added, with
// the workspace that they work on.
type server struct {
	*mcp.Server
	w    *Workspace
	user func(context.Context, mcp.Request) (User, bool)
}

// MCPServer returns an MCP server over the workspace. It may serve all users at
// once. For each tool call, resource and prompt it asks user which account makes the
// request, for instance from the TokenInfo of req.GetExtra(). Both GetExtra and
// TokenInfo may be nil. If user returns false the request is refused.
func (w *Workspace) MCPServer(user func(ctx context.Context, req mcp.Request) (User, bool)) *mcp.Server {
	s := server{mcp.NewServer(
		&mcp.Implementation{Name: "astravue-sandbox", Title: "Astravue (sandbox)", Version: "1.0.0"},
		&mcp.ServerOptions{Instructions: instructions, Capabilities: &mcp.ServerCapabilities{}, SchemaCache: resolved},
	), w, user}
	s.addWork()
	s.addTimers()
	s.addDetails()
	s.addResources()
	s.addPrompts()
	return s.Server
}

// as runs f for the user who made the request.
func (s server) as(ctx context.Context, req mcp.Request, f func(*call) error) error {
	u, ok := s.user(ctx, req)
	if !ok {
		return errNobody
	}
	return s.w.as(u, f)
}

// The kinds of effect that a tool has on the workspace.
var (
	reads = mcp.ToolAnnotations{ReadOnlyHint: true}
	adds  = mcp.ToolAnnotations{DestructiveHint: ptr(false)}
	marks = mcp.ToolAnnotations{DestructiveHint: ptr(false), IdempotentHint: true}
	edits = mcp.ToolAnnotations{DestructiveHint: ptr(true), IdempotentHint: true} // an update or deletion overwrites data
)

func ptr[T any](v T) *T { return &v }

// add adds a tool whose title is its name in words. An error of do is answered as a
// tool error, so that a model can read it.
func add[In any, Out fmt.Stringer](s server, does mcp.ToolAnnotations, name, description string, do func(*call, In) (Out, error)) {
	words := strings.ReplaceAll(name, "_", " ")
	does.OpenWorldHint = ptr(false)
	mcp.AddTool(s.Server, &mcp.Tool{
		Name: name, Title: strings.ToUpper(words[:1]) + words[1:], Description: description, Annotations: &does,
		InputSchema: schema[In](), OutputSchema: schema[Out](),
	}, func(ctx context.Context, req *mcp.CallToolRequest, in In) (res *mcp.CallToolResult, out Out, err error) {
		if err = s.as(ctx, req, func(c *call) (err error) { out, err = do(c, in); return err }); err != nil {
			return nil, out, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: out.String()}}}, out, nil
	})
}

// addList adds a tool that lists rows of t in pages. For each call choose returns a
// function that says whether a row is listed.
func addList[T row, In interface{ page() paging }](s server, name, description string, t *table[T], newestFirst bool,
	choose func(*call, In) (func(T) bool, error)) {
	add(s, reads, name, description, func(c *call, in In) (list[T], error) {
		match, err := choose(c, in)
		if err != nil {
			return list[T]{}, err
		}
		return paginate(t, in.page(), newestFirst, match)
	})
}

type deleted struct {
	ident
}

func (d deleted) String() string { return "deleted " + d.ID }

// addDelete adds a tool that deletes a row of t unless allowed returns an error.
func addDelete[T row](s server, name, description string, t *table[T], allowed func(c *call, id string) error) {
	add(s, edits, name, description, func(c *call, in ident) (deleted, error) {
		err := allowed(c, in.ID)
		if err == nil {
			t.drop(func(r T) bool { return r.id() == in.ID })
		}
		return deleted{in}, err
	})
}

// A family is a kind of row with the five verbs: list (arguments L), get, create
// (C), update (U) and delete.
type family[T row, L interface{ page() paging }, C any, U interface{ id() string }] struct {
	noun   string
	table  *table[T]
	sees   func(*call, T) bool
	owns   func(*call, T) bool // nil: no user owns a row; see needs
	filter func(*call, L) (func(T) bool, error)
	create func(*call, C) (T, error)
	update func(*call, T, U) (T, error)
	remove func(*call, T) error // deletes dependent rows, or returns an error that stops the deletion
	hints  [3]string            // sentences for the descriptions of list, create and delete
}

func (f family[T, L, C, U]) add(s server) {
	one := f.noun
	name := strings.ReplaceAll(one, " ", "_")
	allowed := func(c *call, verb, id string) (T, error) {
		r, err := find(f.table, one, id, func(r T) bool { return f.sees(c, r) })
		if err == nil && verb != "" {
			err = c.may(verb, one, f.owns != nil && f.owns(c, r))
		}
		return r, err
	}
	addList(s, "list_"+name+"s", "Lists the "+one+"s that you can see, oldest first"+f.hints[0]+".", f.table, false,
		func(c *call, in L) (func(T) bool, error) {
			match, err := f.filter(c, in)
			return func(r T) bool { return f.sees(c, r) && match(r) }, err
		})
	add(s, reads, "get_"+name, "Returns one "+one+".", func(c *call, in ident) (T, error) {
		return allowed(c, "", in.ID)
	})
	add(s, adds, "create_"+name, "Creates a "+one+f.hints[1]+".", func(c *call, in C) (r T, err error) {
		if err := c.may(create, one, true); err != nil {
			return r, err
		}
		if r, err = f.create(c, in); err != nil {
			return r, err
		}
		return f.table.put(r), nil
	})
	add(s, edits, "update_"+name, "Changes the given members of a "+one+" and leaves the others.", func(c *call, in U) (T, error) {
		r, err := allowed(c, update, in.id())
		if err == nil {
			r, err = f.update(c, r, in)
		}
		if err != nil {
			return r, err
		}
		return f.table.put(r), nil
	})
	addDelete(s, "delete_"+name, "Deletes a "+one+f.hints[2]+".", f.table, func(c *call, id string) error {
		r, err := allowed(c, remove, id)
		if err == nil {
			err = f.remove(c, r)
		}
		return err
	})
}

// Types of arguments with limits in their schemas; see kinds.
type (
	name     string
	prose    string
	day      string // YYYY-MM-DD, or empty
	instant  string // RFC 3339
	seconds  int    // of time spent, a day at most
	effort   int    // seconds of estimated work
	limit    int
	progress string // of a task
	phase    string // of a project
	priority string
)

const (
	defaultLimit = 20
	maxLimit     = 100
)

var kinds = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[name]():      {Type: "string", MinLength: ptr(1), MaxLength: ptr(200)},
	reflect.TypeFor[prose]():     {Type: "string", MaxLength: ptr(4000)},
	reflect.TypeFor[day]():       {Type: "string", Pattern: `^(\d{4}-\d{2}-\d{2})?$`},
	reflect.TypeFor[instant]():   {Type: "string", Format: "date-time"},
	reflect.TypeFor[time.Time](): {Type: "string", Format: "date-time"},
	reflect.TypeFor[seconds]():   {Type: "integer", Minimum: ptr(1.0), Maximum: ptr(86400.0)},
	reflect.TypeFor[effort]():    {Type: "integer", Minimum: ptr(0.0), Maximum: ptr(1e7)},
	reflect.TypeFor[limit]():     {Type: "integer", Minimum: ptr(1.0), Maximum: ptr(float64(maxLimit)), Default: []byte("20")},
	reflect.TypeFor[progress]():  {Type: "string", Enum: []any{"todo", "in_progress", "in_review", "done"}},
	reflect.TypeFor[phase]():     {Type: "string", Enum: []any{"active", "on_hold", "completed"}},
	reflect.TypeFor[priority]():  {Type: "string", Enum: []any{"low", "medium", "high", "urgent"}},
}

// A schema depends on its type alone, so a process infers and resolves it once. That
// work is most of a start's, and tests start hundreds of sandboxes.
var (
	inferred sync.Map // of reflect.Type to *jsonschema.Schema
	resolved = mcp.NewSchemaCache()
)

// schema returns T's schema, which nobody may change.
func schema[T any]() *jsonschema.Schema {
	of := reflect.TypeFor[T]()
	s, ok := inferred.Load(of)
	if !ok {
		s, _ = inferred.LoadOrStore(of, infer[T]())
	}
	return s.(*jsonschema.Schema)
}

// infer infers T's schema. jsonschema allows null for pointers and slices; the
// schema does not, since no argument and no result is null.
func infer[T any]() *jsonschema.Schema {
	s, err := jsonschema.For[T](&jsonschema.ForOptions{TypeSchemas: kinds})
	if err != nil {
		panic(err) // T cannot be put in JSON Schema; every test would fail
	}
	var tidy func(*jsonschema.Schema)
	tidy = func(s *jsonschema.Schema) {
		if i := slices.Index(s.Types, "null"); i >= 0 {
			s.Type, s.Types = s.Types[1-i], nil
		}
		for _, p := range s.Properties {
			tidy(p)
		}
		if s.Items != nil {
			tidy(s.Items)
		}
	}
	tidy(s)
	return s
}
