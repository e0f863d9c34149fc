package mcpclient_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// TestEverything lists and calls tools of the MCP project's own server, which
// asks for no sign-in, with and without a stream of its own.
func TestEverything(t *testing.T) {
	url := testenv.Everything(t)
	for name, options := range map[string]*mcp.ClientOptions{"quiet": nil, "with a stream": {}} {
		t.Run(name, func(t *testing.T) {
			c := &mcpclient.Client{Name: "Acme Notes", Server: url, Store: &tokenstore.Memory{}, OpenBrowser: new(nobody).open, MCP: options}
			defer c.Close()
			session := connect(t, c)
			t.Logf("protocol version %s", session.InitializeResult().ProtocolVersion)
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(tools.Tools, func(tool *mcp.Tool) bool { return tool.Name == "echo" }) {
				t.Errorf("no tool echo among %d", len(tools.Tools))
			}
			res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"message": "hello"}})
			if err != nil {
				t.Fatal(err)
			}
			if text, ok := res.Content[0].(*mcp.TextContent); !ok || !strings.Contains(text.Text, "hello") {
				t.Errorf("echo: %+v", res.Content[0])
			}
			if st, err := c.Status(t.Context()); err != nil || st.SignedIn {
				t.Errorf("Status: %+v, %v", st, err)
			}
			if err := session.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}
