package oauthhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/astravue/mcp-client-go/internal/text"
)

// maxDepth is how deep a document may nest. No known one is deeper than 5.
const maxDepth = 64

// ErrTooDeep is a JSON value that nests deeper than 64 levels.
var ErrTooDeep = errors.New("JSON nests too deep")

// A DuplicateError is a JSON object with two members of one name, or of names
// that differ in case only.
type DuplicateError struct{ Name string } // of the second one, as it is written

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("JSON has the member %s twice", text.Quote(e.Name))
}

// Unmarshal is [json.Unmarshal], but refuses an object, at any depth, with two
// members of one name. Names that differ in case only count as one, because
// encoding/json matches them and takes the last: "ISSUER" would overwrite
// "issuer". Errors are *DuplicateError, ErrTooDeep, and those of encoding/json.
func Unmarshal(data []byte, into any) error {
	if err := checkNames(data); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// checkNames looks for doubled names in data. It returns nil for malformed JSON
// and for trailing data, which json.Unmarshal reports.
func checkNames(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a float64 cannot hold 1e999, which may stand in a member that nobody reads
	type level struct {
		names  map[string]bool // of an object so far, folded; nil in an array
		atName bool            // the next token is a name, or the end of the object
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return nil
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if len(stack) == maxDepth {
				return ErrTooDeep
			}
			l := level{}
			if tok == json.Delim('{') {
				l = level{map[string]bool{}, true}
			}
			stack = append(stack, l)
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 {
			continue
		}
		top := &stack[len(stack)-1]
		if top.names == nil {
			continue
		}
		if name, ok := tok.(string); ok && top.atName {
			folded := fold(name)
			if top.names[folded] {
				return &DuplicateError{name}
			}
			top.names[folded] = true
			top.atName = false
		} else {
			top.atName = true // tok was the value of a member, or its end
		}
	}
}

// fold returns one string for all names that [strings.EqualFold] takes for equal: each character
// becomes the smallest of its cases.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// Object reads a JSON object as [Unmarshal] does, but keeps its names exactly as
// written. The answer may hold secrets, so its errors show no value, and of a
// doubled name not the strings to hide. They are *DuplicateError, ErrTooDeep and
// ErrNotJSON.
func Object(body []byte, hide ...string) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := Unmarshal(body, &m); err != nil {
		if dup := (*DuplicateError)(nil); errors.As(err, &dup) {
			return nil, &DuplicateError{text.Without(dup.Name, hide...)}
		}
		if errors.Is(err, ErrTooDeep) {
			return nil, err
		}
		return nil, ErrNotJSON
	}
	return m, nil
}

// str returns the string in raw, and false if it holds none.
func str(raw json.RawMessage) (string, bool) {
	var s *string
	if raw == nil || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}
