package text

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON returns a JSON document whose every character can be seen: what cannot, or may not follow
// what stands before it, is escaped (RFC 8259 §7). The document says what doc does, since it has
// such characters in its strings only; bytes that are not UTF-8 say U+FFFD, as encoding/json
// reads them. Line ends and spaces between its values stay.
func JSON(doc []byte) []byte {
	marks := marks(mostMarks)
	out := make([]byte, 0, len(doc))
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case r == '\n' || r == ' ' || r == '"':
			marks = mostMarks
			out = append(out, doc[:n]...)
		case r == '\t' || r == '\r':
			out = append(out, ' ') // between values: a string cannot hold them
		case Visible(r) && marks.allow(r):
			out = append(out, doc[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		doc = doc[n:]
	}
	return out
}
