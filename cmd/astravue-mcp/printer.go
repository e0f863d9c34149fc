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

// A printer is the way to standard output or standard error: nothing else in this program
// writes there. What it is given may be a stranger's, and is made harmless by what it is printed
// as: a part of a line, a cell of a table, lines, or JSON. What is written past these methods (by
// cobra, slog or a browser) meets the filter of [text.Writer] still.
//
// It also keeps what strangers write from looking like what this program says: on a terminal
// no line is left to be broken by its width, where the rest would begin at the margin.
//
// It is safe for concurrent use, a line at a time.
type printer struct {
	io.Writer
	width int // of the terminal in columns; 0: it is none
}

// newPrinter returns a printer to w.
func newPrinter(w io.Writer) *printer {
	p := &printer{Writer: text.NewWriter(w)}
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			p.width = max(width, 0)
		}
	}
	return p
}

// quiet is where nothing is printed.
func quiet() *printer { return &printer{Writer: io.Discard} }

// line prints a line. The format is ours, each argument a part of that line.
func (p *printer) line(format string, args ...any) {
	fmt.Fprintln(p, sprintf(format, args...))
}

// sentence prints a line in which a stranger may have a say, broken on a terminal so that no rest
// of it begins at the margin. It is not for what is copied into a shell.
func (p *printer) sentence(format string, args ...any) {
	lines := wrap(sprintf(format, args...), p.width, p.width-len(indent))
	fmt.Fprintln(p, strings.Join(lines, "\n"+indent))
}

// body prints lines, each behind the margin given: "" is for a result that programs read.
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

// json prints one JSON document, as one line or with lines for its members.
func (p *printer) json(v any, lines bool) error {
	doc, err := encodeJSON(v, lines)
	if err != nil {
		return err
	}
	_, err = p.Write(doc)
	return err
}

// encodeJSON returns v in JSON that can be printed.
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

// sprintf is fmt.Sprintf with arguments that are parts of a line.
func sprintf(format string, args ...any) string {
	safe := make([]any, len(args))
	for i, arg := range args {
		switch reflect.ValueOf(arg).Kind() {
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
			if _, words := arg.(fmt.Stringer); !words {
				safe[i] = arg // for verbs of numbers
				continue
			}
		}
		safe[i] = text.Line(fmt.Sprint(arg))
	}
	return fmt.Sprintf(format, safe...)
}
