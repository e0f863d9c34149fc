package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/secret"
)

const hidden = "hunter2-but-long"

type holder struct {
	Public  secret.Secret
	private secret.Secret
	Nested  struct{ inner *secret.Secret }
	Map     map[string]secret.Secret
	List    []secret.Secret
}

func TestNoVerbShowsIt(t *testing.T) {
	s := secret.New(hidden)
	h := holder{Public: s, private: s, Map: map[string]secret.Secret{"k": s}, List: []secret.Secret{s}}
	h.Nested.inner = &s
	for _, v := range []any{s, &s, h, &h, []any{h}, errors.Join(fmt.Errorf("%v %+v", s, h))} {
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flags := range []string{"", "+", "#", "-5", "05", " ", "+#"} {
				format := "%" + flags + string(verb)
				if out := fmt.Sprintf(format, v); leaks(out) {
					t.Errorf("%s of a %T shows it: %s", format, v, out)
				}
			}
		}
	}
}

func TestNoEncoderShowsIt(t *testing.T) {
	s := secret.New(hidden)
	h := holder{Public: s, private: s, Map: map[string]secret.Secret{"k": s}, List: []secret.Secret{s}}
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "s", s, "p", &s, "h", h, "g", slog.GroupValue(slog.Any("s", s)))
	}
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	if leaks(out.String()) {
		t.Errorf("an encoder shows it:\n%s", &out)
	}
	if !strings.Contains(out.String(), secret.Redacted) {
		t.Errorf("nothing says that it was redacted:\n%s", &out)
	}
}

// leaks also finds the secret in hexadecimal.
func leaks(s string) bool {
	return strings.Contains(s, hidden) || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", hidden))
}

func TestEmptyIsZero(t *testing.T) {
	for _, s := range []secret.Secret{{}, secret.New("")} {
		if !s.IsZero() || s.Reveal() != "" || s.String() != "" || !s.Equal(secret.Secret{}) {
			t.Errorf("%#v is not the empty secret", s)
		}
	}
	if s := secret.New("a"); s.IsZero() || s.Reveal() != "a" || s.Equal(secret.New("b")) || !s.Equal(secret.New("a")) {
		t.Error("a secret is not what it was made from")
	}
}
