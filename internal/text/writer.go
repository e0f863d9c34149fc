package text

import (
	"io"
	"sync"
	"unicode/utf8"
)

// A Writer passes on visible characters, line ends and tabs, and drops everything else, bytes that
// are not UTF-8 included. A character that comes in two Writes is passed on whole. A Writer stands
// before a terminal and catches text that should have gone through [Line] or [Body].
//
// It is safe for concurrent use. Each Write makes at most one Write below.
type Writer struct {
	mu    sync.Mutex
	below io.Writer
	part  []byte // the beginning of a character
	marks marks
}

// NewWriter returns a Writer to below.
func NewWriter(below io.Writer) *Writer { return &Writer{below: below, marks: mostMarks} }

// Write passes p on. It returns len(p), even if it dropped something, or 0 and the error of the writer
// below.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data := append(w.part, p...)
	out := make([]byte, 0, len(data))
	for len(data) > 0 && utf8.FullRune(data) {
		r, n := utf8.DecodeRune(data)
		if (r == '\n' || r == '\t' || Visible(r)) && w.marks.allow(r) {
			out = append(out, data[:n]...)
		}
		data = data[n:]
	}
	w.part = append([]byte(nil), data...)
	if len(out) > 0 {
		if _, err := w.below.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
