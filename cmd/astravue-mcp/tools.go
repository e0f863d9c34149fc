package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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

With --output json it prints an array of tools, or with TOOL that tool, with the
members of the Model Context Protocol:
  {"name":"…", "title":"…", "description":"…", "inputSchema":{…},
   "outputSchema":{…}, "annotations":{…}, "icons":[…], "_meta":{…}}
Members that the server does not state are left out.`,
		Args: takes(0, 1),
		RunE: a.bounded(func(ctx context.Context, args []string) error {
			return a.withTools(ctx, func(_ context.Context, _ *mcp.ClientSession, tools []*mcp.Tool) error {
				if len(args) == 1 {
					tool, err := findTool(tools, args[0])
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
					list.row(t.Name, toolKind(t), firstLine(cmp.Or(t.Description, t.Title)))
				}
				return list.print()
			})
		}),
	}
}

// withTools connects and hands the session and the server's tools to f. When ctx is done it
// returns at once, and f may still run.
func (a *app) withTools(ctx context.Context, f func(context.Context, *mcp.ClientSession, []*mcp.Tool) error) error {
	done := make(chan error, 1)
	go func() { done <- a.useTools(ctx, f) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The SDK tells the server that the call is cancelled, and waits seconds for its answer. A
	// person who interrupts does not want to wait.
	select {
	case err := <-done:
		return err
	case <-time.After(200 * time.Millisecond):
		return &mcpclient.StepError{Step: mcpclient.StepConnect, Err: context.Cause(ctx)}
	}
}

func (a *app) useTools(ctx context.Context, f func(context.Context, *mcp.ClientSession, []*mcp.Tool) error) error {
	session, err := a.newClient().Connect(ctx)
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

func findTool(tools []*mcp.Tool, name string) (*mcp.Tool, error) {
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
			like = append(like, quoteName(t.Name))
		}
	}
	if len(like) > 0 {
		return nil, &toolError{"", fmt.Errorf("the server has no tool %q; did you mean %s?", name, strings.Join(like, " or "))}
	}
	return nil, &toolError{"", fmt.Errorf("the server has no tool %q", name)}
}

// toolKind says what a tool may do, by the hints that the server gives, which may be wrong.
func toolKind(t *mcp.Tool) string {
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

// quoteName returns a server's name for something, to stand in a sentence: quoted if it could be
// taken for more than a name.
func quoteName(s string) string {
	if arg, harmless := shellSafe(s); harmless && arg == s {
		return s
	}
	return text.Quote(s)
}

func (a *app) printTool(t *mcp.Tool) error {
	if a.output == "json" {
		return a.printJSON(t)
	}
	a.stdout.sentence("%s", t.Name)
	if d := cmp.Or(t.Description, t.Title); d != "" {
		a.stdout.body(indent, d)
	}
	if k := toolKind(t); k != "" {
		a.stdout.line("By its own description it %s.", map[string]string{
			"read-only": "only reads", "destructive": "may destroy things", "changes": "changes things and destroys none",
		}[k])
	}
	properties, required := toolArguments(t)
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
