package text

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/astravue/mcp-client-go/internal/secret"
)

const (
	// leastSecret is the length of the shortest secret that is looked for. A shorter one could be a
	// part of any word.
	leastSecret = 8
	// A secret of at least longSecret characters was made by a machine, and nothing else looks like
	// a part of it. Parts of leastPart characters are hidden too, since servers cut what they quote.
	longSecret = 24
	leastPart  = 16
	// gram is half of leastPart: every part of 16 characters holds one whole piece of 8, if the
	// secret is cut into such pieces.
	gram = leastPart / 2
)

// Redact returns s with the given secrets hidden. They are ours, and a server may have sent them
// back. A secret of fewer than 8 bytes is left alone. Each other one is hidden as it stands; if it
// has at least 8 letters and digits, it is also hidden
//   - in upper or lower case,
//   - with other characters between its letters and digits, such as spaces, quotes and line ends,
//   - with escaped characters, as in URLs (also escaped more than once), JSON, Go and HTML,
//   - in hexadecimal, and in base64 of either alphabet, also inside a longer encoded text,
//   - in parts of 16 letters and digits, if it has at least 24.
//
// Other encodings are not recognized. The time is linear in the lengths. Nothing is allocated for a
// short s or without secrets.
func Redact(s string, secrets ...string) string {
	if len(s) < leastSecret {
		return s
	}
	for _, hidden := range secrets {
		if len(hidden) < leastSecret {
			continue
		}
		s = strings.ReplaceAll(s, hidden, secret.Redacted) // also a secret of few letters and digits
		forms := forms(hidden)
		s = hide(s, forms, false)
		if strings.ContainsAny(s, `%\&`) { // with what escapes begin
			s = hide(s, forms, true)
		}
	}
	return s
}

// Without returns Short(Redact(s, secrets...)): a server's words, fit for a sentence of ours.
func Without(s string, secrets ...string) string { return Short(Redact(s, secrets...)) }

// forms returns the encodings of a secret, each as [fold] leaves it.
func forms(secret string) []string {
	all := []string{secret, hex.EncodeToString([]byte(secret))}
	// Base64 makes four characters of three bytes, so that a secret inside a longer text looks
	// different after 0, 1 and 2 bytes. The characters at its two ends also hold bits of its
	// neighbours and are left out.
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), secret...))
		all = append(all, encoded[(before*8+5)/6:(before+len(secret))*8/6])
	}
	var folded []string
	for _, form := range all {
		if letters, _ := fold(form, false); len(letters) >= leastSecret {
			folded = append(folded, string(letters))
		}
	}
	return folded
}

// hide returns s without the parts that fold to one of the forms. With unescape, escaped characters
// of s count as what they stand for.
func hide(s string, forms []string, unescape bool) string {
	folded, at := fold(s, unescape)
	if len(folded) < leastSecret {
		return s
	}
	letters := string(folded)
	covered := make([]bool, len(letters)) // those of a secret
	found := false
	for _, form := range forms {
		if len(form) < longSecret {
			found = coverWhole(covered, letters, form) || found
		} else {
			found = coverParts(covered, letters, form) || found
		}
	}
	if !found {
		return s
	}
	var b strings.Builder
	end := 0 // of what is written of s
	for i := 0; i < len(letters); i++ {
		if !covered[i] {
			continue
		}
		b.WriteString(s[end:at[i][0]])
		b.WriteString(secret.Redacted)
		for i+1 < len(letters) && covered[i+1] {
			i++
		}
		end = at[i][1]
	}
	return b.String() + s[end:]
}

// coverWhole marks each place of form in letters, and reports whether there is one.
func coverWhole(covered []bool, letters, form string) (found bool) {
	for i := 0; ; {
		n := strings.Index(letters[i:], form)
		if n < 0 {
			return found
		}
		found = true
		cover(covered, i+n, i+n+len(form))
		i += n + len(form)
	}
}

// coverParts marks each part of form in letters that has at least 16 characters, and reports whether
// there is one. It looks for the pieces of 8 that form is made of, and around each one for the rest
// of the part.
func coverParts(covered []bool, letters, form string) (found bool) {
	grams := make(map[string]int, len(form)/gram) // where in form each piece is
	for i := 0; i+gram <= len(form); i += gram {
		grams[form[i:i+gram]] = i
	}
	for i := 0; i+gram <= len(letters); i++ {
		j, ok := grams[letters[i:i+gram]]
		if !ok {
			continue
		}
		from, to := i, i+gram
		for k := j - 1; k >= 0 && from > 0 && letters[from-1] == form[k]; k-- {
			from--
		}
		for k := j + gram; k < len(form) && to < len(letters) && letters[to] == form[k]; k++ {
			to++
		}
		if to-from >= leastPart {
			found = true
			cover(covered, from, to)
			i = to - gram // another part may begin in what follows
		}
	}
	return found
}

func cover(covered []bool, from, to int) {
	for i := from; i < to; i++ {
		covered[i] = true
	}
}

// fold returns the ASCII letters and digits of s in lower case. letters[i] is written in s from
// at[i][0] to at[i][1].
func fold(s string, unescape bool) (letters []byte, at [][2]int) {
	for i := 0; i < len(s); {
		c, n := s[i], 1
		if unescape {
			c, n = unescaped(s[i:])
		}
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
			fallthrough
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			letters, at = append(letters, c), append(at, [2]int{i, i + n})
		}
		i += n
	}
	return letters, at
}

// unescaped returns the first character of s, and the number of bytes that it is written with. For
// an escaped line end, tab or character outside ASCII it returns 0, which is no letter and no digit.
func unescaped(s string) (c byte, n int) {
	switch {
	case strings.HasPrefix(s, "%"):
		c, n = number(s, 1, 16, 2, 2)
		for more := n; c == '%' && more > 0; { // %2541 is %41, which is A
			if c, more = number(s, n, 16, 2, 2); more > 0 {
				n = more
			}
		}
	case strings.HasPrefix(s, `\u`):
		c, n = number(s, 2, 16, 4, 4)
	case strings.HasPrefix(s, `\x`):
		c, n = number(s, 2, 16, 2, 2)
	case strings.HasPrefix(s, `\n`), strings.HasPrefix(s, `\r`), strings.HasPrefix(s, `\t`):
		return 0, 2
	case strings.HasPrefix(s, "&#x"), strings.HasPrefix(s, "&#X"):
		c, n = number(s, 3, 16, 1, 8)
	case strings.HasPrefix(s, "&#"):
		c, n = number(s, 2, 10, 1, 8)
	}
	if n == 0 {
		return s[0], 1
	}
	return c, n
}

// number reads a number of least to most digits that begins at s[from]. It returns the ASCII
// character of that number, 0 for any other, and the end of the number in s, 0 if there is none.
func number(s string, from, base, least, most int) (value byte, end int) {
	digits := "0123456789abcdefABCDEF"
	if base == 10 {
		digits = digits[:10]
	}
	end = from
	for end < len(s) && end-from < most && strings.IndexByte(digits, s[end]) >= 0 {
		end++
	}
	if end-from < least {
		return 0, 0
	}
	if v, err := strconv.ParseUint(s[from:end], base, 32); err == nil && v < 0x80 {
		value = byte(v)
	}
	return value, end
}
