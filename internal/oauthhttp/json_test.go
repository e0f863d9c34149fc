package oauthhttp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestUnmarshalRefusesDuplicates(t *testing.T) {
	for name, tc := range map[string]struct {
		data, duplicate string
	}{
		"same":                     {`{"a":1,"a":1}`, "a"},
		"by case":                  {`{"issuer":"x","ISSUER":"y"}`, "ISSUER"},
		"by an escape":             {`{"a":1,"\u0061":1}`, "a"},
		"by the Kelvin sign":       {`{"key":1,"\u212aey":1}`, "\u212aey"},
		"by the long s":            {`{"issuer":1,"i\u017f\u017fuer":1}`, "iſſuer"},
		"by invalid UTF-8":         {"{\"\xff\":1,\"\xfe\":1}", "\ufffd"},
		"empty name":               {`{"":1,"":1}`, ""},
		"after an object":          {`{"a":{"x":1},"a":1}`, "a"},
		"after an array":           {`{"a":[{"x":1},{"x":1}],"a":1}`, "a"},
		"after null":               {`{"a":null,"a":null}`, "a"},
		"in an object":             {`{"a":{"x":1,"X":2}}`, "X"},
		"in an array":              {`[[],[{"x":1},{"x":1,"y":[],"x":2}]]`, "x"},
		"value looks like a name":  {`{"a":"a","b":"a","a":"b"}`, "a"},
		"beside a huge number":     {`{"a":1e999,"b":0,"a":0}`, "a"},
		"none: value like a name":  {`{"a":"b","b":"a"}`, "-"},
		"none: siblings":           {`{"a":{"x":1},"b":{"x":1}}`, "-"},
		"none: parent and child":   {`{"a":{"a":{"a":1}}}`, "-"},
		"none: array of same":      {`["a","a",{"a":"a"}]`, "-"},
		"none: huge number unread": {`{"a":1e999}`, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			var got json.RawMessage
			err := Unmarshal([]byte(tc.data), &got)
			var dup *DuplicateError
			switch {
			case tc.duplicate == "-" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.duplicate != "-" && !errors.As(err, &dup):
				t.Errorf("error %v, want *DuplicateError", err)
			case dup != nil && dup.Name != tc.duplicate:
				t.Errorf("duplicate %q, want %q", dup.Name, tc.duplicate)
			}
			if err != nil && got != nil {
				t.Errorf("refused, and yet read: %s", got)
			}
		})
	}
}

func TestUnmarshalBounds(t *testing.T) {
	nest := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	var v any
	if err := Unmarshal(nest(maxDepth), &v); err != nil {
		t.Errorf("depth %d: %v", maxDepth, err)
	}
	if err := Unmarshal(nest(maxDepth+1), &v); !errors.Is(err, ErrTooDeep) {
		t.Errorf("depth %d: %v", maxDepth+1, err)
	}
	for _, data := range []string{"", " ", "{", "{}{}", "{} x", `{"a"}`, `{"a":1,}`, `{a:1}`, "nul"} {
		var syntax *json.SyntaxError
		if err := Unmarshal([]byte(data), &v); !errors.As(err, &syntax) {
			t.Errorf("%q: %v", data, err)
		}
	}
}
