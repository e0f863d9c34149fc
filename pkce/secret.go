package pkce

import "github.com/astravue/mcp-client-go/internal/secret"

// Secret is a string that no fmt verb, slog handler or JSON encoder shows. Its
// Reveal method returns the string.
type Secret = secret.Secret

// NewSecret returns s as a [Secret].
func NewSecret(s string) Secret { return secret.New(s) }
