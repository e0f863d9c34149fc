package testenv

import (
	"os/exec"
	"testing"
)

// The servers that [SDKServer] starts.
const (
	SDK1       = "1"        // the v1 SDK: sessions, up to 2025-11-25
	SDK2Legacy = "2-legacy" // the v2 SDK, the same
	SDK2Modern = "2-modern" // the v2 SDK: 2026-07-28 alone
)

// SDKServer starts a server made with the MCP project's TypeScript SDK and returns its URL. It asks
// for no sign-in, and has a tool add, a resource memo://one and a prompt greet.
func SDKServer(t testing.TB, which string) string {
	t.Helper()
	return node(t, "typescript-sdk-"+which, "sdk-server.mjs", "MCP_SDK="+which) + "/"
}

// SDKClient returns the command that signs in to server and lists its tools with the MCP project's
// TypeScript SDK of the given major version. It prints {"tools": […], "refreshable": true}.
func SDKClient(t testing.TB, major, server string) *exec.Cmd {
	t.Helper()
	cmd := Node(t, "typescript-sdk-"+major, "sdk-client.mjs")
	cmd.Env = append(cmd.Environ(), "MCP_SDK="+major, "MCP_SERVER="+server)
	return cmd
}

// MCPRemote returns the command that bridges standard input and output to server by mcp-remote.
func MCPRemote(t testing.TB, server string) *exec.Cmd {
	t.Helper()
	return Node(t, "mcp-remote", "mcp-remote/dist/proxy.js", server, "--transport", "http-only")
}
