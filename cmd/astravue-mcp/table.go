package main

import (
	"bytes"
	"strings"

	"github.com/astravue/mcp-client-go/internal/text"
)

const (
	indent = "  " // before the rest of a broken line
	gap    = 2    // columns between cells
	// maxPadding bounds the spaces after a cell off a terminal, where nothing is broken: one very
	// long cell would otherwise make every row as long.
	maxPadding = 128
)

// A table prints rows of cells, in columns that line up. A cell may hold a stranger's words: it
// cannot end its row, look like another cell, or push other cells off the screen.
type table struct {
	p      *printer
	margin string // before each row
	rows   [][]string
}

func (p *printer) table(margin string) *table { return &table{p: p, margin: margin} }

// row adds a row. All rows of a table must have equally many cells.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = text.Line(c)
	}
	t.rows = append(t.rows, cells)
}

// field adds a row of two cells. The name is ours and may begin with spaces.
func (t *table) field(name, value string) { t.rows = append(t.rows, []string{name, text.Line(value)}) }

// print prints the rows. Off a terminal a row is one line. On a terminal a cell that does not fit
// is broken into lines; those of the first cell are indented, so that only rows begin at the margin.
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
	room := 0 // columns of the last cell on a terminal
	if w := t.p.width - len(t.margin); t.p.width > 0 {
		// The first cell gets at most half of the width, the second a quarter, and so on; the last
		// one gets what is left.
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
				parts[i] = wrap(c, room, room)
			case i == 0:
				parts[i] = wrap(c, widths[0], widths[0]-len(indent))
			default:
				parts[i] = wrap(c, widths[i], widths[i])
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
					line += strings.Repeat(" ", max(min(widths[i], maxPadding)-columns(part), 0)+gap)
				}
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	_, err := t.p.Write(out.Bytes())
	return err
}
