package text

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON returns doc, a JSON document, with its invisible characters escaped (RFC 8259 §7), and also
// combining marks that have no character to stand on. The meaning stays, since only strings hold
// such characters. Bytes that are not UTF-8 become U+FFFD, as encoding/json reads them. Line ends and
// spaces between the values stay.
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
			out = append(out, ' ') // it stands between values: strings cannot hold it
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
