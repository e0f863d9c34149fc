// Package secret holds strings that must not reach an error, a log or a page.
//
// It does not encrypt: everybody who calls Reveal can read a Secret, and its bytes
// stay in memory until the garbage collector frees them.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted stands for every Secret that is printed.
const Redacted = "[redacted]"

// A Secret is a string that no fmt verb, slog handler or JSON encoder shows.
// The zero value is the empty secret. A Secret is immutable and safe for
// concurrent use. Compare with Equal, not with ==.
type Secret struct {
	// A pointer: fmt prints unexported string fields without calling any method,
	// but below the top level it prints a pointer as an address.
	s *string
}

// New returns s as a Secret.
func New(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Reveal returns the string. A secret can escape only where this is called.
func (s Secret) Reveal() string {
	if s.s == nil {
		return ""
	}
	return *s.s
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.s == nil }

// Equal reports whether s and t hold equal strings. Its time depends only on their
// lengths.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// Format writes [Redacted], or nothing for the empty secret, for every verb.
func (s Secret) Format(f fmt.State, _ rune) {
	if s.s != nil {
		_, _ = io.WriteString(f, Redacted)
	}
}

// String returns [Redacted], or "" for the empty secret.
func (s Secret) String() string { return fmt.Sprint(s) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler], which JSON uses too. It yields
// what String does, never the secret. Code that stores a secret calls Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
