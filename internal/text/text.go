// Package text makes the words of strangers harmless. A server, a file or another process wrote
// them; a terminal, a log, an error or a page will show them.
//
// It removes invisible characters, since they can act: control characters move the cursor, name the
// window and write the clipboard (CWE-150), and others turn the direction of a line around. It
// removes nothing that can be read, in any script. Letters that look alike are told apart in the
// names of hosts only ([URL]).
//
// Order matters: [Redact] comes first, then anything that cuts. Few parts of a secret are
// recognized.
package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// most is how many characters of a stranger fit into a sentence.
	most = 200
	// mostQuoted is how many strings [Quotes] lists.
	mostQuoted = 20
	// mostMarks is how many combining marks a character may carry. No language needs more, and
	// they would cover the lines above and below.
	mostMarks = 4
)

// Line returns s as a part of one line, without invisible characters. Each run of white space, line
// ends and tabs included, becomes one space; there is none at either end. It is for a field and for
// a cell of a table: a stranger cannot end them or add another one.
func Line(s string) string { return strings.Join(strings.Fields(visible(s)), " ") }

// Body returns s as lines, without invisible characters except line ends and tabs.
func Body(s string) string {
	return keep(strings.ReplaceAll(s, "\r\n", "\n"), func(r rune) bool { return r == '\n' || r == '\t' })
}

// Short returns Line(s), cut to 200 characters. The last one of a cut text is "…".
func Short(s string) string {
	s = Line(s)
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// Quote returns Short(s) in double quotes, as a Go string.
func Quote(s string) string { return fmt.Sprintf("%q", Short(s)) }

// Quotes returns each string as [Quote] does, in brackets and separated by spaces. After the first
// 20 comes "…".
func Quotes(list []string) string {
	var b strings.Builder
	for i, s := range list {
		if i == mostQuoted {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(Quote(s))
	}
	return "[" + b.String() + "]"
}

// visible returns s without invisible characters. White space stays.
func visible(s string) string { return keep(s, unicode.IsSpace) }

// keep returns the characters of s that are visible or that other accepts.
func keep(s string, other func(rune) bool) string {
	marks := marks(mostMarks)
	return strings.Map(func(r rune) rune {
		if !other(r) && !Visible(r) || !marks.allow(r) {
			return -1
		}
		return r
	}, s)
}

// marks counts the combining marks on the last character that was allowed. It is full at the
// beginning of a text and after white space, where a mark has no character to stand on: it would
// stand on whatever was printed before.
type marks int

// allow reports whether r may follow. It must not be asked about characters that are left out, since
// they do not separate a mark from its character.
func (m *marks) allow(r rune) bool {
	switch {
	case !unicode.Is(unicode.M, r):
		*m = 0
		if unicode.IsSpace(r) {
			*m = mostMarks
		}
	case *m == mostMarks:
		return false
	default:
		*m++
	}
	return true
}

// Visible reports whether r is a space or can be seen. Not visible are control and format
// characters, code points without a character, characters that a program need not show
// (Default_Ignorable_Code_Point of the Unicode standard), and U+FFFD, which bytes that are not UTF-8
// decode to.
func Visible(r rune) bool {
	return unicode.IsGraphic(r) && r != utf8.RuneError &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) &&
		r != '\u2800' // the empty pattern of Braille
}
