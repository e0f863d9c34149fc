// Package secret holds strings that must not reach an error, a log or a page.
//
// It does not encrypt: a Secret is readable by whoever calls Reveal, and its
// bytes stay in memory until the garbage collector takes them.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what every printed Secret looks like.
const Redacted = "[redacted]"

// A Secret is a string that no fmt verb, slog handler or JSON encoder shows.
// The zero value is the empty secret. A Secret is immutable and safe for
// concurrent use. Compare with Equal, not with ==.
type Secret struct {
	// A pointer, since fmt reaches unexported string fields without asking
	// any method, but prints a pointer below the top level as an address.
	s *string
}

// New returns s as a Secret.
func New(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Reveal returns the string. Every call is a place where a secret may escape.
func (s Secret) Reveal() string {
	if s.s == nil {
		return ""
	}
	return *s.s
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.s == nil }

// Equal reports whether both hold the same string, in time that depends on
// their lengths only.
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

// MarshalText implements [encoding.TextMarshaler], and so JSON: it never
// yields the secret. Code that stores one calls Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
