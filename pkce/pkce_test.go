package pkce_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/pkce"
)

func TestVectorOfRFC7636AppendixB(t *testing.T) {
	v := pkce.FromSecret(secret.New("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"))
	if got, want := v.Challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"; got != want {
		t.Errorf("Challenge() = %s, want %s", got, want)
	}
}

func TestNewIs32FreshBytes(t *testing.T) {
	const n = 1000
	seen := map[string]bool{}
	var ones [256]int // how often each of the 256 bits is set
	for range n {
		s := pkce.New().Secret().Reveal()
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil || len(b) != 32 {
			t.Fatalf("verifier of %d bytes, error %v", len(b), err)
		}
		if seen[s] {
			t.Fatal("the same verifier twice")
		}
		seen[s] = true
		for i := range ones {
			ones[i] += int(b[i/8] >> (i % 8) & 1)
		}
	}
	for i, k := range ones {
		if k < n/2-130 || k > n/2+130 { // more than 8 standard deviations
			t.Errorf("bit %d is set in %d of %d verifiers", i, k, n)
		}
	}
}

func TestVerifierIsNotPrinted(t *testing.T) {
	v := pkce.New()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, x := range []any{v, &v, struct{ V, v pkce.Verifier }{v, v}, []pkce.Verifier{v}} {
			fmt.Fprintf(&out, verb, x)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
	if err := json.NewEncoder(&out).Encode([]any{v}); err != nil {
		t.Fatal(err)
	}
	s := v.Secret().Reveal()
	for _, leak := range []string{s, fmt.Sprintf("%x", s), base64.StdEncoding.EncodeToString([]byte(s))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed: %s", out.String())
		}
	}
	if !strings.Contains(out.String(), secret.Redacted) {
		t.Errorf("%s is missing in %s", secret.Redacted, out.String())
	}
}

func Example() {
	v := pkce.New()
	fmt.Println(pkce.Method, len(v.Challenge()))
	fmt.Println(v) // its text only goes into the code exchange
	// Output:
	// S256 43
	// [redacted]
}
