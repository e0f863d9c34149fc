package mcpclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/astravue/mcp-client-go/internal/text"
)

// sentWith returns the token that the request of resp carried: an error in resp
// must not show it. A transport of the caller's may not say which request that was.
// Then the token is the one in use now. It returns none if there is no token.
func (a *authorizer) sentWith(resp *http.Response) (tokens []string) {
	if resp.Request != nil {
		if token, ok := strings.CutPrefix(resp.Request.Header.Get("Authorization"), "Bearer "); ok {
			return []string{token}
		}
	}
	if held := a.source.Held(); held != nil {
		tokens = append(tokens, held.Token.Reveal())
	}
	return tokens
}

// withoutToken returns r, a message in resp, or a copy of it whose error does not
// show the token that was sent for it. A result is the user's own data, and stays
// as it is.
func (a *authorizer) withoutToken(r *jsonrpc.Response, resp *http.Response) *jsonrpc.Response {
	wire := new(jsonrpc.Error)
	if r.Error == nil || !errors.As(r.Error, &wire) {
		return r
	}
	tokens := a.sentWith(resp)
	mine := &jsonrpc.Error{Code: wire.Code, Message: text.Redact(wire.Message, tokens...), Data: redactData(wire.Data, tokens)}
	if mine.Message == wire.Message && bytes.Equal(mine.Data, wire.Data) {
		return r
	}
	return &jsonrpc.Response{ID: r.ID, Result: r.Result, Error: mine}
}

// redactData returns data, the JSON of an error, without the tokens in its
// strings and names. It returns nil if that leaves a token there, one that is
// spread over several strings for example.
func redactData(data json.RawMessage, tokens []string) json.RawMessage {
	if whole := text.Redact(string(data), tokens...); whole == string(data) {
		return data
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	redacted, err := json.Marshal(redactValue(v, tokens))
	if err != nil || text.Redact(string(redacted), tokens...) != string(redacted) {
		return nil
	}
	return redacted
}

// redactValue returns v, a value that encoding/json has decoded, without the tokens
// in it. It may change v.
func redactValue(v any, tokens []string) any {
	switch v := v.(type) {
	case string:
		return text.Redact(v, tokens...)
	case []any:
		for i := range v {
			v[i] = redactValue(v[i], tokens)
		}
	case map[string]any:
		redacted := make(map[string]any, len(v))
		for name, member := range v {
			redacted[text.Redact(name, tokens...)] = redactValue(member, tokens)
		}
		return redacted
	}
	return v
}
