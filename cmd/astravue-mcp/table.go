package main

import (
	"bytes"
	"strings"

	"github.com/astravue/mcp-client-go/internal/text"
)

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
					line += strings.Repeat(" ", max(min(widths[i], mostPadded)-columns(part), 0)+gap)
				}
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	_, err := t.p.Write(out.Bytes())
	return err
}
