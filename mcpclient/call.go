package mcpclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

const (
	sessionHeader     = "Mcp-Session-Id"
	versionHeader     = "Mcp-Protocol-Version"
	lastEventIDHeader = "Last-Event-Id"
)

const (
	methodListTools = "tools/list"
	methodCallTool  = "tools/call"
	methodElicit    = "elicitation/create"
	methodSubscribe = "subscriptions/listen" // its answer is a stream that never ends
)

// A call is what a request asks for.
type call struct {
	mcp       bool       // it belongs to the MCP transport
	method    string     // of JSON-RPC
	wanted    bool       // it is a JSON-RPC call, to be answered
	id        jsonrpc.ID // of the JSON-RPC message, if it has one
	operation string     // that step-ups and tool hints are kept for, such as "tools/call echo"
	cancels   jsonrpc.ID // the call that is cancelled, if this is a notice of that
	cursor    string     // of a list: the page that is asked for, "" for the first

	sdkID       jsonrpc.ID // as the SDK knows it; a repetition has another id
	repetitions int        // of the call so far
}

// awaited reports whether somebody waits for the answer.
func (c call) awaited(ctx context.Context) bool { return c.wanted && ctx.Err() == nil }

// mayAsk says for which refused requests a sign-in may be started. A notice, an
// event stream or the end of a session are no reason to open a browser.
type mayAsk int

const (
	askNever       mayAsk = iota
	askForCalls           // for a JSON-RPC call that somebody waits for
	askForRequests        // also for a request that does not belong to MCP
	askAlways             // somebody waits for a call that this request is part of
)

// allows reports whether a sign-in may be started for c.
func (m mayAsk) allows(ctx context.Context, c call) bool {
	switch m {
	case askForCalls:
		return c.awaited(ctx)
	case askForRequests:
		return !c.mcp || c.awaited(ctx)
	case askAlways:
		return true
	}
	return false
}

// parseCall looks into req. A body that cannot be read twice is left alone, and
// nothing is known of the call then.
func parseCall(req *http.Request) call {
	c := call{operation: req.Method + " " + req.URL.Path}
	if req.Method != http.MethodPost {
		c.mcp = req.Header.Get("Accept") == "text/event-stream" || req.Header.Get(sessionHeader) != ""
		return c
	}
	body, err := newBody(req)
	if err != nil || body == nil {
		return c
	}
	defer body.Close()
	var msg struct {
		Version string `json:"jsonrpc"`
		ID      any    `json:"id"`
		Method  string `json:"method"`
		Params  struct {
			Name    string `json:"name"`
			URI     string `json:"uri"`
			Cursor  string `json:"cursor"`
			Cancels any    `json:"requestId"`
		} `json:"params"`
	}
	// A method that is unknown here may have params of other types: the rest is read
	// all the same.
	var fault *json.UnmarshalTypeError
	if err := json.NewDecoder(body).Decode(&msg); err != nil && !errors.As(err, &fault) || msg.Version == "" {
		return c
	}
	c.mcp, c.method = true, msg.Method
	c.wanted = msg.Method != "" && msg.ID != nil
	c.id, _ = jsonrpc.MakeID(msg.ID)
	c.sdkID, c.cursor = c.id, msg.Params.Cursor
	c.cancels, _ = jsonrpc.MakeID(msg.Params.Cancels)
	c.operation = msg.Method + " " + msg.Params.Name + msg.Params.URI
	return c
}
