package text

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/astravue/mcp-client-go/internal/secret"
)

const (
	// leastSecret is the length of the shortest secret that is looked for: a shorter one could be
	// a part of any word.
	leastSecret = 8
	// A secret of at least longSecret characters was made by a machine. Of such a one a part of
	// leastPart characters is hidden too, since servers cut what they quote.
	longSecret = 24
	leastPart  = 16
	gram       = leastPart / 2
)

// Redact returns s without the secrets of ours that a server sends back. One of at least 8 bytes is
// hidden as it stands; one of at least 8 letters and digits, which alone are compared then, also
//   - in letters of another case,
//   - with anything else between them, such as spaces, quotes and line ends,
//   - with characters escaped, as in URLs (also more than once), JSON, Go and HTML,
//   - in base64, of either alphabet and wherever it stands in what is encoded, and in hexadecimal,
//   - where it has at least 24 of them: a part of 16.
//
// What is encoded in yet another way stays. The time is linear in the lengths. Without secrets, and
// where s is short, nothing is allocated.
func Redact(s string, secrets ...string) string {
	if len(s) < leastSecret {
		return s
	}
	for _, hidden := range secrets {
		if len(hidden) < leastSecret {
			continue
		}
		s = strings.ReplaceAll(s, hidden, secret.Redacted) // also one of few letters
		forms := forms(hidden)
		s = hide(s, forms, false)
		if strings.ContainsAny(s, `%\&`) {
			s = hide(s, forms, true)
		}
	}
	return s
}

// Without returns what of a server's words fits into a sentence: Short(Redact(s, secrets...)).
func Without(s string, secrets ...string) string { return Short(Redact(s, secrets...)) }

// forms returns what a secret is encoded to, as [fold] leaves it.
func forms(secret string) []string {
	all := []string{secret, hex.EncodeToString([]byte(secret))}
	for before := range 3 {
		// What stands before it moves it by so many bytes. The first and the last character also
		// hold bits of what stands beside it.
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

// hide replaces in s what folds to one of the forms.
func hide(s string, forms []string, unescape bool) string {
	folded, at := fold(s, unescape)
	if len(folded) < leastSecret {
		return s
	}
	letters := string(folded)
	covered := make([]bool, len(letters))
	found := false
	cover := func(from, to int) {
		found = true
		for i := from; i < to; i++ {
			covered[i] = true
		}
	}
	for _, form := range forms {
		if len(form) < longSecret {
			for i := 0; ; {
				n := strings.Index(letters[i:], form)
				if n < 0 {
					break
				}
				cover(i+n, i+n+len(form))
				i += n + len(form)
			}
			continue
		}
		// A common part of 16 holds one of these whole, wherever it begins.
		grams := make(map[string]int, len(form)/gram)
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
				cover(from, to)
				i = to - gram // what follows may be another part
			}
		}
	}
	if !found {
		return s
	}
	var b strings.Builder
	end := 0
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

// fold returns the letters and digits of s, in lower case, and from where to where in s each is
// written.
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

// unescaped returns the byte that s begins with, and of how many bytes it is written. One that is
// escaped and is not ASCII is 0, as is an escaped end of a line.
func unescaped(s string) (c byte, n int) {
	switch {
	case strings.HasPrefix(s, "%"):
		c, n = number(s, 1, 16, 2, 2)
		for more := n; c == '%' && more > 0; { // escaped more than once
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

// number reads a number of so many digits at from, and returns where it ends, or 0 if there is none.
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
