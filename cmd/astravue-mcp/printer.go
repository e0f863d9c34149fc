package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"golang.org/x/term"

	"github.com/astravue/mcp-client-go/internal/text"
)

// A printer writes to standard output or standard error, and nothing else does.
//
// Its methods take words of servers and other strangers, which may hold control characters and line
// ends. Each method makes them harmless for their place: a part of a line, a cell of a table, whole
// lines, or JSON. Cobra, slog and a browser write to the printer directly, and there the filter of
// [text.Writer] removes control characters.
//
// A terminal breaks a line that is too long, and the rest begins at the margin, where it could
// pass for a line of this program. So methods that print a stranger's words break lines themselves,
// and indent the rest.
//
// Safe for concurrent use; lines of two goroutines do not mix.
type printer struct {
	io.Writer
	width int // columns of the terminal; 0: not a terminal
}

// newPrinter returns a printer to w, which is a terminal or not.
func newPrinter(w io.Writer) *printer {
	p := &printer{Writer: text.NewWriter(w)}
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			p.width = max(width, 0)
		}
	}
	return p
}

// quiet returns a printer that prints nothing.
func quiet() *printer { return &printer{Writer: io.Discard} }

// line prints a line. The format is ours and may hold line ends; the arguments may be a
// stranger's and cannot end the line. It does not break lines: addresses and commands are copied.
func (p *printer) line(format string, args ...any) {
	fmt.Fprintln(p, sprintf(format, args...))
}

// sentence prints a line and breaks it at the width of a terminal. It is for lines that hold a
// stranger's words, and not for commands to copy.
func (p *printer) sentence(format string, args ...any) {
	lines := wrap(sprintf(format, args...), p.width, p.width-len(indent))
	fmt.Fprintln(p, strings.Join(lines, "\n"+indent))
}

// body prints lines of a stranger, each behind the margin. With the margin "" nothing is broken: it
// is a result, which a program may read.
func (p *printer) body(margin, s string) {
	s = text.Body(s)
	if margin == "" {
		fmt.Fprintln(p, s)
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		for _, part := range wrap(line, p.width-len(margin), p.width-len(margin)) {
			fmt.Fprintln(p, strings.TrimRight(margin+part, " "))
		}
	}
}

// json prints one JSON document on one line, or with lines on a line for each member.
func (p *printer) json(v any, lines bool) error {
	doc, err := encodeJSON(v, lines)
	if err != nil {
		return err
	}
	_, err = p.Write(doc)
	return err
}

// encodeJSON returns v in JSON, with control characters escaped and <, > and & as they are.
func encodeJSON(v any, lines bool) ([]byte, error) {
	var doc bytes.Buffer
	e := json.NewEncoder(&doc)
	e.SetEscapeHTML(false)
	if lines {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return text.JSON(doc.Bytes()), nil
}

// sprintf is fmt.Sprintf for a line: all arguments but numbers and booleans become harmless text.
func sprintf(format string, args ...any) string {
	safe := make([]any, len(args))
	for i, arg := range args {
		switch reflect.ValueOf(arg).Kind() {
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
			if _, words := arg.(fmt.Stringer); !words {
				safe[i] = arg // for verbs such as %d
				continue
			}
		}
		safe[i] = text.Line(fmt.Sprint(arg))
	}
	return fmt.Sprintf(format, safe...)
}
