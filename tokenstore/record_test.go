package tokenstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestKeysAreUnambiguous(t *testing.T) {
	seen := make(map[tokenstore.Key]string)
	for name, key := range map[string]tokenstore.Key{
		"server and account":        tokenstore.GrantKey("a", "b"),
		"server with a space":       tokenstore.GrantKey("a b", ""),
		"server with quotes":        tokenstore.GrantKey(`a" "b`, ""),
		"no account":                tokenstore.GrantKey("a", ""),
		"no server":                 tokenstore.GrantKey("", "a"),
		"sign-in":                   tokenstore.GrantKey("a", "b").SignIn(),
		"account like a sign-in":    tokenstore.GrantKey("a", "b#sign-in"),
		"registration":              tokenstore.RegistrationKey("a", "b", "o"),
		"registration, no origin":   tokenstore.RegistrationKey("a", "b", ""),
		"registration with address": tokenstore.RegistrationKey("a", "b", "o", "c"),
		"registration elsewhere":    tokenstore.RegistrationKey("a", "b", "p", "c"),
		"registration with two":     tokenstore.RegistrationKey("a", "b", "o", "c", "d"),
		"registration with one":     tokenstore.RegistrationKey("a", "b", "o", "c d"),
		"registration of before":    `"registration" "a" "b" "o" "c"`, // with two addresses, of which one looks like an origin
	} {
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s have the same key %q", name, other, key)
		}
		seen[key] = name
		if key.IsSignIn() != (name == "sign-in") {
			t.Errorf("%s: IsSignIn is %v", name, key.IsSignIn())
		}
	}
	if tokenstore.RegistrationKey("a", "b", "o", "c", "d") != tokenstore.RegistrationKey("a", "b", "o", "d", "c") {
		t.Error("the order of redirect addresses matters")
	}
}

func TestEncodeRecordIsOneOfTwo(t *testing.T) {
	for _, r := range []tokenstore.Record{{}, {Grant: new(tokenstore.Grant), Registration: new(tokenstore.Registration)}} {
		if data, err := tokenstore.EncodeRecord(r); err == nil {
			t.Errorf("%+v: got %s", r, data)
		}
	}
}

func TestEncodeRecordKeepsTheWallClockOnly(t *testing.T) {
	now := time.Now()
	data, err := tokenstore.EncodeRecord(tokenstore.Record{Generation: "G", Grant: &tokenstore.Grant{ObtainedAt: now}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tokenstore.DecodeRecord(data)
	if err != nil || r.Grant.ObtainedAt != now.UTC().Round(0) || !r.Grant.ExpiresAt.IsZero() {
		t.Errorf("got %v and %v, %v", r.Grant.ObtainedAt, r.Grant.ExpiresAt, err)
	}
}

func TestRecordsAreNotPrinted(t *testing.T) {
	r := tokenstore.Record{
		Grant:        &tokenstore.Grant{AccessToken: tokenstore.NewSecret("s3cret"), RefreshToken: tokenstore.NewSecret("s3cret"), ClientSecret: tokenstore.NewSecret("s3cret")},
		Registration: &tokenstore.Registration{ClientSecret: tokenstore.NewSecret("s3cret"), ManagementToken: tokenstore.NewSecret("s3cret")},
	}
	for _, v := range []any{r, *r.Grant, *r.Registration, r.Grant, tokenstore.File{Identity: tokenstore.NewSecret("s3cret")}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, "s3cret") || strings.Contains(s, "733363726574") {
				t.Errorf("%s of %T shows a secret", verb, v)
			}
		}
	}
}

func TestDecodeRecordErrors(t *testing.T) {
	for _, data := range []string{"", "null", "{}", `{"schema":1,"generation":"","grant":{}}`, `{"schema":0,"generation":"G","grant":{}}`,
		`{"schema":2,"generation":"G","grant":{}}`, `{"schema":1,"generation":"G","grant":{}} {}`, `{"schema":1,"generation":"G","grant":{"access_token":7,"x":"s3cret"}}`} {
		_, err := tokenstore.DecodeRecord([]byte(data))
		if !errors.Is(err, tokenstore.ErrCorrupt) || strings.Contains(fmt.Sprint(err), "s3cret") {
			t.Errorf("%s: got %v", data, err)
		}
	}
}
