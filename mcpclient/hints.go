package mcpclient

import (
	"encoding/json"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// toolHints holds what the last list of tools says of each (MCP
// ToolAnnotations). They are hints of the server's own about its own tools: who
// trusts it with a call may trust it with the repetition.
type toolHints struct {
	mu         sync.Mutex      // guards repeatable
	repeatable map[string]bool // by [call.operation]
}

// safe reports whether a call of the tool may be carried out twice. Of a tool that is
// in no list, nothing is known.
func (h *toolHints) safe(operation string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repeatable[operation]
}

// forget forgets all hints, since the tools may have changed.
func (h *toolHints) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.repeatable = nil
}

// learn takes the hints from list, if that is what was asked for.
func (h *toolHints) learn(asked call, list *jsonrpc.Response) {
	var result struct {
		Tools []struct {
			Name        string `json:"name"`
			Annotations struct {
				ReadOnly   bool `json:"readOnlyHint"`
				Idempotent bool `json:"idempotentHint"`
			} `json:"annotations"`
		} `json:"tools"`
	}
	if asked.method != methodListTools || list.Error != nil || json.Unmarshal(list.Result, &result) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repeatable == nil || asked.cursor == "" { // a first page begins a list anew
		h.repeatable = make(map[string]bool)
	}
	for _, t := range result.Tools {
		h.repeatable[methodCallTool+" "+t.Name] = t.Annotations.ReadOnly || t.Annotations.Idempotent
	}
}
