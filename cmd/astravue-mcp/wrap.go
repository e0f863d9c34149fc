package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// wrap breaks a line into parts, at spaces if it can. The first part has at most first columns, the
// others at most rest. If first is 0 or less, the line is not broken. The line is valid UTF-8.
func wrap(line string, first, rest int) []string {
	var parts []string
	width := first
	for width > 0 && columns(line) > width {
		end, space, used := 0, 0, 0 // of the characters that fit: their end, the last space, their columns
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
				space = end // a word ends just where the part does
			}
			end = space
		}
		parts = append(parts, strings.TrimRight(line[:end], " "))
		line = strings.TrimLeft(line[end:], " ")
		width = max(rest, 1)
	}
	return append(parts, line)
}

// columns returns how many columns s takes at most: a character that some terminals show in two
// columns counts as two, and a tab as eight.
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
