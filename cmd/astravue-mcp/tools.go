package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
)

func (a *app) toolsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tools [TOOL]",
		Short: "List the server's tools, or show what one of them takes",
		Long: `List the server's tools, or show what one of them takes.

With --output json the list is an array of tools, and TOOL one of them, as the
Model Context Protocol describes them:
  {"name":"…", "title":"…", "description":"…", "inputSchema":{…},
   "outputSchema":{…}, "annotations":{…}, "icons":[…], "_meta":{…}}
What the server does not state is left out.`,
		Args: a.arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTools(cmd, func(_ context.Context, _ *mcp.ClientSession, tools []*mcp.Tool) error {
				if len(args) == 1 {
					tool, err := find(tools, args[0])
					if err != nil {
						return err
					}
					return a.printTool(tool)
				}
				if a.output == "json" {
					return a.printJSON(tools)
				}
				list := a.stdout.table("")
				for _, t := range tools {
					list.row(t.Name, kind(t), firstLine(cmp.Or(t.Description, t.Title)))
				}
				return list.print()
			})
		},
	}
}

// withTools connects and hands the session and the server's tools to f.
func (a *app) withTools(cmd *cobra.Command, f func(context.Context, *mcp.ClientSession, []*mcp.Tool) error) error {
	ctx := a.bound(cmd)
	done := make(chan error, 1)
	go func() { done <- a.useTools(ctx, f) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The SDK tells the server that a call is cancelled and waits for that, for
	// seconds. Who interrupts, or set a limit, does not.
	select {
	case err := <-done:
		return err
	case <-time.After(200 * time.Millisecond):
		return &mcpclient.StepError{Step: mcpclient.StepConnect, Err: context.Cause(ctx)}
	}
}

func (a *app) useTools(ctx context.Context, f func(context.Context, *mcp.ClientSession, []*mcp.Tool) error) error {
	session, err := a.open().Connect(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	tools := []*mcp.Tool{}
	for t, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		tools = append(tools, t)
	}
	return f(ctx, session, tools)
}

func find(tools []*mcp.Tool, name string) (*mcp.Tool, error) {
	var like []string
	most := 0
	for _, t := range tools {
		if t.Name == name {
			return t, nil
		}
		shared := 0
		for word := range strings.SplitSeq(strings.ToLower(name), "_") {
			if len(word) > 2 && strings.Contains(strings.ToLower(t.Name), word) {
				shared++
			}
		}
		if shared > most {
			like, most = nil, shared
		}
		if shared == most && most > 0 && len(like) < 5 {
			like = append(like, word(t.Name))
		}
	}
	if len(like) > 0 {
		return nil, &toolError{"", fmt.Errorf("the server has no tool %q; like it are %s", name, strings.Join(like, ", "))}
	}
	return nil, &toolError{"", fmt.Errorf("the server has no tool %q", name)}
}

// kind says what a tool may do, as far as it says so itself.
func kind(t *mcp.Tool) string {
	switch h := t.Annotations; {
	case h == nil:
		return ""
	case h.ReadOnlyHint:
		return "read-only"
	case h.DestructiveHint == nil || *h.DestructiveHint:
		return "destructive"
	}
	return "changes"
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(text.Body(s), "\n")
	return s
}

// word returns a server's name for something as it stands in a sentence: by itself, or quoted.
func word(s string) string {
	if arg, harmless := typed(s); harmless && arg == s {
		return s
	}
	return text.Quote(s)
}

// A property is what a tool's schema says about one argument.
type property struct {
	Type        any    `json:"type"` // a name or a list of names
	Description string `json:"description"`
	Enum        []any  `json:"enum"`
}

// is reports whether an argument may be of this type.
func (p property) is(name string) bool {
	switch t := p.Type.(type) {
	case string:
		return t == name
	case []any:
		return slices.Contains(t, any(name))
	}
	return false
}

func (p property) typeName() string {
	switch t := p.Type.(type) {
	case string:
		return t
	case []any:
		var names []string
		for _, n := range t {
			if s, _ := n.(string); s != "null" {
				names = append(names, fmt.Sprint(n))
			}
		}
		return strings.Join(names, " or ")
	}
	return "value"
}

// arguments returns what a tool takes, by name, and which it must be given.
func arguments(t *mcp.Tool) (properties map[string]property, required []string) {
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	data, err := json.Marshal(t.InputSchema)
	if err != nil || json.Unmarshal(data, &schema) != nil {
		return nil, nil
	}
	properties = make(map[string]property)
	for name, raw := range schema.Properties {
		var p property
		_ = json.Unmarshal(raw, &p) // a schema may be a boolean; then nothing is known
		properties[name] = p
	}
	return properties, schema.Required
}

func (a *app) printTool(t *mcp.Tool) error {
	if a.output == "json" {
		return a.printJSON(t)
	}
	a.stdout.sentence("%s", t.Name)
	if d := cmp.Or(t.Description, t.Title); d != "" {
		a.stdout.body(indent, d)
	}
	if k := kind(t); k != "" {
		a.stdout.line("It calls itself %s.", map[string]string{
			"read-only": "read-only", "destructive": "destructive", "changes": "one that changes things and destroys none",
		}[k])
	}
	properties, required := arguments(t)
	if len(properties) == 0 {
		a.stdout.line("\nIt takes no arguments.")
		return nil
	}
	a.stdout.line("\nArguments:")
	list := a.stdout.table(indent)
	names := slices.SortedFunc(maps.Keys(properties), func(x, y string) int {
		if rx, ry := slices.Contains(required, x), slices.Contains(required, y); rx != ry {
			return map[bool]int{true: -1, false: 1}[rx]
		}
		return strings.Compare(x, y)
	})
	for _, name := range names {
		p := properties[name]
		must := ""
		if slices.Contains(required, name) {
			must = ", required"
		}
		about := firstLine(p.Description)
		if len(p.Enum) > 0 {
			about += " " + fmt.Sprint(p.Enum)
		}
		list.row(name, p.typeName()+must, about)
	}
	return list.print()
}

func (a *app) callCommand() *cobra.Command {
	var raw string
	cmd := &cobra.Command{
		Use:   "call TOOL [key=value …]",
		Short: "Call a tool",
		Long: `Call a tool.

A value is read as the type that the tool's schema names: text as it stands,
numbers, true and false, and for lists and objects JSON. For a list, a value
that is no JSON is split at commas. With --args the arguments are one JSON
object; key=value then adds to it.

What a tool returns is printed as it stands, without what a terminal could act
on. If the tool itself reports an error that goes to standard error, indented:
there only what astravue-mcp says begins at the margin.

With --output json it prints the result, its members as the Model Context
Protocol describes them:
  {"content":[…], "structuredContent":{…}, "isError":false}
If the tool itself reports an error isError is true and the exit status 4.`,
		Example: `  astravue-mcp call list_spaces
  astravue-mcp call create_project_task project_id=project-1 title="Write the report"
  echo '{"limit":5}' | astravue-mcp call list_project_tasks --args -`,
		Args: a.arguments(1, -1, "TOOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			given, err := a.readArgs(raw)
			if err != nil {
				return err
			}
			for _, pair := range args[1:] {
				if name, _, ok := strings.Cut(pair, "="); !ok || name == "" {
					return usagef("argument %q is not key=value", pair)
				}
			}
			return a.withTools(cmd, func(ctx context.Context, session *mcp.ClientSession, tools []*mcp.Tool) error {
				tool, err := find(tools, args[0])
				if err != nil {
					return err
				}
				if err := setArguments(given, tool, args[1:]); err != nil {
					return err
				}
				a.called.Store(true)
				res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool.Name, Arguments: given})
				if err != nil {
					return err
				}
				return a.printResult(res)
			})
		},
	}
	cmd.Flags().StringVar(&raw, "args", "", "arguments as a `JSON` object, @file or - for standard input")
	return cmd
}

// readArgs returns the object that --args gives.
func (a *app) readArgs(raw string) (map[string]any, error) {
	var data []byte
	var err error
	switch name, isFile := strings.CutPrefix(raw, "@"); {
	case raw == "":
		return map[string]any{}, nil
	case raw == "-":
		data, err = io.ReadAll(a.stdin)
	case isFile:
		data, err = os.ReadFile(name)
	default:
		data = []byte(raw)
	}
	if err != nil {
		return nil, &usageError{fmt.Errorf("--args: %w", err)}
	}
	var v map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil || d.More() || v == nil {
		return nil, usagef("--args is not one JSON object")
	}
	return v, nil
}

// setArguments adds key=value pairs, read as the tool's schema says.
func setArguments(into map[string]any, tool *mcp.Tool, pairs []string) error {
	properties, required := arguments(tool)
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		p, known := properties[name]
		if !known && properties != nil {
			return &toolError{tool.Name, fmt.Errorf("%s has no argument %q", word(tool.Name), name)}
		}
		v, err := p.parse(value)
		if err != nil {
			return &toolError{tool.Name, fmt.Errorf("argument %s of %s: %w", word(name), word(tool.Name), err)}
		}
		into[name] = v
	}
	for _, name := range required {
		if _, ok := into[name]; !ok {
			return &toolError{tool.Name, fmt.Errorf("%s needs the argument %s", word(tool.Name), word(name))}
		}
	}
	return nil
}

// parse reads what is given as the property's type. Without one, it is text.
func (p property) parse(given string) (any, error) {
	if len(p.Enum) > 0 && !slices.ContainsFunc(p.Enum, func(e any) bool { return fmt.Sprint(e) == given }) {
		return nil, fmt.Errorf("%q is none of %s", given, text.Short(fmt.Sprint(p.Enum)))
	}
	if p.is("integer") {
		if n, err := strconv.ParseInt(given, 10, 64); err == nil {
			return n, nil
		}
	}
	if p.is("number") {
		if _, err := strconv.ParseFloat(given, 64); err == nil && json.Valid([]byte(given)) {
			return json.Number(given), nil
		}
	}
	if p.is("boolean") && (given == "true" || given == "false") {
		return given == "true", nil
	}
	if p.is("null") && given == "null" {
		return nil, nil
	}
	if p.is("array") || p.is("object") {
		var v any
		if err := json.Unmarshal([]byte(given), &v); err == nil {
			if _, list := v.([]any); list && p.is("array") {
				return v, nil
			}
			if _, object := v.(map[string]any); object && p.is("object") {
				return v, nil
			}
		}
		if p.is("array") && !strings.HasPrefix(given, "[") {
			return strings.Split(given, ","), nil
		}
	}
	if p.is("string") || p.Type == nil {
		return given, nil
	}
	return nil, fmt.Errorf("%q is no %s", given, text.Short(p.typeName()))
}

func (a *app) printResult(res *mcp.CallToolResult) error {
	if a.output == "json" {
		err := a.printJSON(struct {
			Content           []mcp.Content `json:"content"`
			StructuredContent any           `json:"structuredContent,omitempty"`
			IsError           bool          `json:"isError"`
		}{res.Content, res.StructuredContent, res.IsError})
		if err != nil {
			return err
		}
	} else {
		out, margin := a.stdout, ""
		if res.IsError {
			out, margin = a.stderr, indent
			out.line("The tool reports an error:")
		}
		for _, c := range res.Content {
			switch c := c.(type) {
			case *mcp.TextContent:
				out.body(margin, c.Text)
			case *mcp.ImageContent:
				out.sentence(margin+"[image, %s, %d bytes; --output json has it]", c.MIMEType, len(c.Data))
			case *mcp.AudioContent:
				out.sentence(margin+"[audio, %s, %d bytes; --output json has it]", c.MIMEType, len(c.Data))
			case *mcp.ResourceLink:
				out.sentence(margin+"[%s: %s]", c.Name, c.URI)
			case *mcp.EmbeddedResource:
				if c.Resource != nil && c.Resource.Text != "" {
					out.body(margin, c.Resource.Text)
				} else if c.Resource != nil {
					out.sentence(margin+"[%s]", c.Resource.URI)
				}
			}
		}
		if len(res.Content) == 0 && res.StructuredContent != nil {
			doc, err := document(res.StructuredContent, false)
			if err != nil {
				return err
			}
			out.body(margin, strings.TrimSuffix(string(doc), "\n"))
		}
	}
	if res.IsError {
		return errTool
	}
	return nil
}
