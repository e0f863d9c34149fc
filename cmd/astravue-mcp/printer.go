package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

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
	lines := broken(sprintf(format, args...), p.width, p.width-len(indent))
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
		for _, part := range broken(line, p.width-len(margin), p.width-len(margin)) {
			fmt.Fprintln(p, strings.TrimRight(margin+part, " "))
		}
	}
}

// json prints one JSON document, as one line or with lines for its members.
func (p *printer) json(v any, lines bool) error {
	doc, err := document(v, lines)
	if err != nil {
		return err
	}
	_, err = p.Write(doc)
	return err
}

// document returns v in JSON that can be printed.
func document(v any, lines bool) ([]byte, error) {
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

const (
	indent = "  " // of what goes on with a line
	gap    = 2    // columns between cells
	// mostPadded is how wide a column is at most where nothing is broken: one long cell
	// would make every line as long.
	mostPadded = 128
)

// A table is rows of cells. No cell can end its row, fill another cell, or move those of other
// rows off the screen.
type table struct {
	p      *printer
	margin string // before each row
	rows   [][]string
}

func (p *printer) table(margin string) *table { return &table{p: p, margin: margin} }

// row adds a row. All rows of a table have the same number of cells.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = text.Line(c)
	}
	t.rows = append(t.rows, cells)
}

// field adds a row of a name that is ours and a value.
func (t *table) field(name, value string) { t.rows = append(t.rows, []string{name, text.Line(value)}) }

// print prints the rows, on a terminal with cells that do not fit broken into lines, of which the
// first cell's are indented.
func (t *table) print() error {
	if len(t.rows) == 0 {
		return nil
	}
	widths := make([]int, len(t.rows[0]))
	for _, cells := range t.rows {
		for i, c := range cells {
			widths[i] = max(widths[i], columns(c))
		}
	}
	last := len(widths) - 1
	room := 0 // for the last cell; 0: as much as it takes
	if w := t.p.width - len(t.margin); t.p.width > 0 {
		used := 0
		for i := range last {
			widths[i] = min(widths[i], max(w/(2<<i)-gap, len(indent)+2))
			used += widths[i] + gap
		}
		room = max(w-used, 2)
	}
	var out bytes.Buffer
	for _, cells := range t.rows {
		parts := make([][]string, len(cells))
		height := 1
		for i, c := range cells {
			switch {
			case t.p.width == 0:
				parts[i] = []string{c}
			case i == last:
				parts[i] = broken(c, room, room)
			case i == 0:
				parts[i] = broken(c, widths[0], widths[0]-len(indent))
			default:
				parts[i] = broken(c, widths[i], widths[i])
			}
			height = max(height, len(parts[i]))
		}
		for n := range height {
			line := t.margin
			for i := range parts {
				part := ""
				if n < len(parts[i]) {
					part = parts[i][n]
				}
				if i == 0 && n > 0 {
					part = indent + part
				}
				line += part
				if i < last {
					line += strings.Repeat(" ", max(min(widths[i], mostPadded)-columns(part), 0)+gap)
				}
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	_, err := t.p.Write(out.Bytes())
	return err
}

// broken breaks a line into parts of at most so many columns, the first of which may have
// another width, at spaces where there are any. With no width it does not.
func broken(line string, first, rest int) []string {
	var parts []string
	width := first
	for width > 0 && columns(line) > width {
		end, space, used := 0, 0, 0
		for i, r := range line {
			if used += runeColumns(r); used > width && i > 0 {
				break
			}
			if r == ' ' && i > 0 {
				space = i
			}
			end = i + utf8.RuneLen(r)
		}
		if space > 0 && end < len(line) {
			if line[end] == ' ' {
				space = end
			}
			end = space
		}
		parts = append(parts, strings.TrimRight(line[:end], " "))
		line = strings.TrimLeft(line[end:], " ")
		width = max(rest, 1)
	}
	return append(parts, line)
}

// columns is how much of a line s takes, or more: what some terminals show twice as wide counts
// so, and a tab as much as it can take.
func columns(s string) (n int) {
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	switch {
	case r == '\t':
		return 8
	case r < 0x300:
		return 1
	case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
		return 0
	case r >= 0x2e80, r >= 0x1100 && r < 0x1160, r >= 0x2300 && r < 0x2800: // East Asian, and pictures
		return 2
	}
	return 1
}
