package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/text"
)

// A property is what a tool's schema (JSON Schema) says about one argument.
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

// typeName returns the type's name for people.
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

// toolArguments returns a tool's arguments by name, and the names of the required ones. It returns
// nil if the schema cannot be read; then every argument is allowed, and the server decides.
func toolArguments(t *mcp.Tool) (properties map[string]property, required []string) {
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
		_ = json.Unmarshal(raw, &p) // a schema may also be true, which says nothing
		properties[name] = p
	}
	return properties, schema.Required
}

// parse reads a value as the property's type. Without a type it is text.
func (p property) parse(given string) (any, error) {
	if len(p.Enum) > 0 && !slices.ContainsFunc(p.Enum, func(e any) bool { return fmt.Sprint(e) == given }) {
		return nil, fmt.Errorf("%q is not one of %s", given, text.Short(fmt.Sprint(p.Enum)))
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
	return nil, fmt.Errorf("%q is not of type %s", given, text.Short(p.typeName()))
}
