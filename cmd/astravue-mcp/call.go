package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"
)

func (a *app) callCommand() *cobra.Command {
	var raw string
	cmd := &cobra.Command{
		Use:   "call TOOL [key=value …]",
		Short: "Call a tool",
		Long: `Call a tool.

The tool's schema says how a value is read: as text, as a number, as true or
false, or as JSON for a list or an object. A list may also be values with commas
between them. --args gives the arguments as one JSON object, and each key=value
adds to it.

The result is printed as the tool returns it, without characters that control a
terminal. If the tool itself reports an error, that goes to standard error,
indented, so that nobody takes it for words of astravue-mcp.

With --output json it prints the result, with the members of the Model Context
Protocol:
  {"content":[…], "structuredContent":{…}, "isError":false}
If the tool itself reports an error, isError is true and the exit status is 4.`,
		Example: `  astravue-mcp call list_spaces
  astravue-mcp call create_project_task project_id=project-1 title="Write the report"
  echo '{"limit":5}' | astravue-mcp call list_project_tasks --args -`,
		Args: takes(1, -1, "TOOL"),
		RunE: a.bounded(func(ctx context.Context, args []string) error {
			given, err := a.readArgs(raw)
			if err != nil {
				return err
			}
			return a.call(ctx, args[0], args[1:], given)
		}),
	}
	cmd.Flags().StringVar(&raw, "args", "", "arguments as a `JSON` object; @FILE for a file, - for standard input")
	return cmd
}

// call calls a tool with the arguments given and the pairs key=value. An error once the call
// may be on its way is a [calledError].
func (a *app) call(ctx context.Context, name string, pairs []string, given map[string]any) error {
	for _, pair := range pairs {
		if key, _, ok := strings.Cut(pair, "="); !ok || key == "" {
			return usagef("argument %q is not key=value", pair)
		}
	}
	var called atomic.Bool // withTools may return before the function that it was given
	err := a.withTools(ctx, func(ctx context.Context, session *mcp.ClientSession, tools []*mcp.Tool) error {
		tool, err := findTool(tools, name)
		if err != nil {
			return err
		}
		if err := setArguments(given, tool, pairs); err != nil {
			return err
		}
		called.Store(true)
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool.Name, Arguments: given})
		if err != nil {
			return err
		}
		return a.printResult(res)
	})
	if err != nil && called.Load() {
		return &calledError{err}
	}
	return err
}

// readArgs returns the object that --args gives: raw itself, a file or standard input.
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

// setArguments adds the pairs key=value to the arguments, read as the tool's schema says, and checks
// that no required argument is missing.
func setArguments(into map[string]any, tool *mcp.Tool, pairs []string) error {
	properties, required := toolArguments(tool)
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		p, known := properties[name]
		if !known && properties != nil {
			return &toolError{tool.Name, fmt.Errorf("%s has no argument %q", quoteName(tool.Name), name)}
		}
		v, err := p.parse(value)
		if err != nil {
			return &toolError{tool.Name, fmt.Errorf("argument %s of %s: %w", quoteName(name), quoteName(tool.Name), err)}
		}
		into[name] = v
	}
	for _, name := range required {
		if _, ok := into[name]; !ok {
			return &toolError{tool.Name, fmt.Errorf("%s needs the argument %s", quoteName(tool.Name), quoteName(name))}
		}
	}
	return nil
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
				out.sentence(margin+"[image, %s, %d bytes; --output json prints it]", c.MIMEType, len(c.Data))
			case *mcp.AudioContent:
				out.sentence(margin+"[audio, %s, %d bytes; --output json prints it]", c.MIMEType, len(c.Data))
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
			doc, err := encodeJSON(res.StructuredContent, false)
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
