package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// library does the scenario with the library.
func library(ctx context.Context, server string, g given) (err error) {
	if extension, ok := extensions[g.Scenario]; ok {
		handler, err := extension(ctx, server, g)
		if err != nil {
			return err
		}
		return withHandler(ctx, server, g, handler)
	}
	client := &mcpclient.Client{
		Name:   "Conformance",
		Server: server,
		Store:  new(tokenstore.Memory),
		Registration: mcpclient.Registration{
			ClientID: g.ClientID, ClientSecret: tokenstore.NewSecret(g.ClientSecret),
			ClientMetadataURL: metadataURL,
		},
		OpenBrowser: open,
	}
	switch g.Scenario {
	case "elicitation-sep1034-client-defaults":
		client.MCP = eliciting(map[string]any{}) // the defaults are the SDK's to fill in
	case "sep-2322-client-request-state":
		client.MCP = eliciting(map[string]any{"confirmed": true})
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	session, err := client.Connect(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	return use(ctx, session, g)
}

// eliciting are the options of a client whose user accepts with answer.
func eliciting(answer map[string]any) *mcp.ClientOptions {
	return &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}}},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: answer}, nil
		},
	}
}

// use does with a session what the scenario wants to see.
func use(ctx context.Context, session *mcp.ClientSession, g given) error {
	var tools []*mcp.Tool
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		tools = append(tools, tool)
	}
	call := func(name string, arguments any) error {
		if !slices.ContainsFunc(tools, func(t *mcp.Tool) bool { return t.Name == name }) {
			return fmt.Errorf("the server has no tool %q", name)
		}
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: arguments})
		if err != nil {
			return fmt.Errorf("call %s: %w", name, err)
		}
		if result.IsError {
			return fmt.Errorf("call %s: the tool reported an error", name)
		}
		return nil
	}
	none := map[string]any{}

	switch g.Scenario {
	case "initialize", "request-metadata", "json-schema-ref-no-deref":
		return nil
	case "tools_call":
		return call("add_numbers", map[string]any{"a": 5, "b": 3})
	case "sse-retry":
		return call("test_reconnection", none)
	case "elicitation-sep1034-client-defaults":
		return call("test_client_elicitation_defaults", none)
	case "sep-2322-client-request-state":
		for _, tool := range tools {
			if err := call(tool.Name, none); err != nil {
				return err
			}
		}
		return nil
	case "json-schema-2020-12-preservation":
		for _, tool := range tools {
			if tool.Name == "json_schema_2020_12_tool" {
				return call("json_schema_echo", map[string]any{"schema": tool.InputSchema})
			}
		}
		return errors.New("the server has no tool to echo")
	case "http-standard-headers":
		return everyKind(ctx, session, call, tools)
	case "http-custom-headers":
		for _, c := range g.ToolCalls {
			if err := call(c.Name, c.Arguments); err != nil {
				return err
			}
		}
		return nil
	case "http-invalid-tool-headers":
		for _, tool := range tools {
			if err := call(tool.Name, map[string]any{"region": "us-west1"}); err != nil {
				return err
			}
		}
		return nil
	}
	return call("test-tool", none)
}

// everyKind uses one of each thing that the server has.
func everyKind(ctx context.Context, session *mcp.ClientSession, call func(string, any) error, tools []*mcp.Tool) error {
	for _, tool := range tools {
		if err := call(tool.Name, map[string]any{}); err != nil {
			return err
		}
	}
	for resource, err := range session.Resources(ctx, nil) {
		if err != nil {
			return err
		}
		if _, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: resource.URI}); err != nil {
			return err
		}
	}
	for prompt, err := range session.Prompts(ctx, nil) {
		if err != nil {
			return err
		}
		if _, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: prompt.Name, Arguments: map[string]string{}}); err != nil {
			return err
		}
	}
	return nil
}
