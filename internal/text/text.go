// Package text is the one place that makes a stranger's words harmless: what a server, a file or
// another process wrote, on its way to a terminal, a log, an error or a page.
//
// What it takes out cannot be seen and can do something: control characters of any width, which
// move the cursor, name the window and write the clipboard (CWE-150); what turns the direction of
// a line around; what is there and shows nothing. It takes out nothing that can be read, in
// whatever script. Letters that look alike it tells apart in the names of hosts only ([URL]).
//
// Order matters: [Redact] first, then what cuts, since a part of a secret is not known again.
package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// most is how many characters of a stranger's words fit into a sentence.
	most = 200
	// mostQuoted is how many of a stranger's words [Quotes] lists.
	mostQuoted = 20
	// mostMarks is how many combining marks a character may carry. More are no
	// language's, and stand on the lines above and below.
	mostMarks = 4
)

// Line returns s as a part of one line: without what cannot be seen, each run of white space, line
// ends and tabs included, as one space, none at either end. It is for a cell of a table and for
// a field, neither of which a stranger may end or make more of.
func Line(s string) string { return strings.Join(strings.Fields(visible(s)), " ") }

// Body returns s as lines: without what cannot be seen, but for the ends of its lines and its tabs.
func Body(s string) string {
	return keep(strings.ReplaceAll(s, "\r\n", "\n"), func(r rune) bool { return r == '\n' || r == '\t' })
}

// Short returns Line(s), cut to 200 characters, of which the last is "…" then.
func Short(s string) string {
	s = Line(s)
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// Quote returns Short(s) in double quotes, its own ones escaped.
func Quote(s string) string { return fmt.Sprintf("%q", Short(s)) }

// Quotes returns each string as [Quote] does, in brackets and separated by spaces; of more than 20,
// the first 20.
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

// visible returns s without what cannot be seen. White space stays, to be made one space.
func visible(s string) string { return keep(s, unicode.IsSpace) }

// keep returns what of s can be seen or is one of the others.
func keep(s string, other func(rune) bool) string {
	marks := marks(mostMarks)
	return strings.Map(func(r rune) rune {
		if !other(r) && !Visible(r) || !marks.allow(r) {
			return -1
		}
		return r
	}, s)
}

// marks counts the combining marks on the last character that was allowed. At the beginning
// of a line, and after white space, there is none for a mark to stand on: it would stand on what is
// printed before.
type marks int

// allow reports whether r may follow. What may not be seen is not to be asked about: it separates
// no mark from its character.
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

// Visible reports whether r can be seen, or is a space. What the Unicode standard lets a program
// not show at all (Default_Ignorable_Code_Point) is not, and nor is what has no meaning.
func Visible(r rune) bool {
	return unicode.IsGraphic(r) && r != utf8.RuneError &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) &&
		r != '\u2800' // the empty pattern of Braille
}
