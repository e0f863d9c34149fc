package tokenstore

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/zalando/go-keyring"
)

// Whatever is read is a record that can be saved and read again, or ErrCorrupt.
func FuzzDecodeRecord(f *testing.F) {
	for _, s := range []string{
		"", "{", "null", `{"schema":1}`, `{"schema":2,"generation":"G","grant":{}}`, `{"schema":1,"generation":"G","grant":{},"registration":{}}`,
		`{"schema":1,"generation":"G","grant":{"access_token":"a","expires_at":"2026-01-02T03:04:05Z","scopes_granted":["read"]}}`,
		`{"schema":1,"generation":"G","grant":{"obtained_at":"2026-01-02T03:04:05.678+09:00"}}`,
		`{"schema":1,"generation":"G","registration":{"client_id":"c","redirect_uris":["http://127.0.0.1/callback"]}} `,
		`{"schema":1,"generation":"G","grant":{}}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRecord(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || !reflect.DeepEqual(r, Record{}) {
				t.Fatalf("got %v, %v", r, err)
			}
			return
		}
		first, err := EncodeRecord(r)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		again, err := DecodeRecord(first)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		second, err := EncodeRecord(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("%v: not the same again:\n%s\n%s", err, first, second)
		}
		if r.Generation != again.Generation || (r.Grant == nil) != (again.Grant == nil) {
			t.Fatalf("got %+v, want %+v", again, r)
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	f.Add([]byte(`{"pending":true,"generation":"G","at":"2026-01-02T03:04:05Z","tries":1}`))
	f.Add([]byte(`{"at":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := decodeMark(data)
		if again := decodeMark(encodeMark(m)); !again.At.Equal(m.At) || !again.NotBefore.Equal(m.NotBefore) ||
			again.Pending != m.Pending || again.Generation != m.Generation || again.Tries != m.Tries || again.Failures != m.Failures {
			t.Fatalf("got %+v, want %+v", again, m)
		}
	})
}

// What is split into parts is joined to the same, under its own key only.
func FuzzKeychainParts(f *testing.F) {
	f.Add("key", []byte(nil))
	f.Add("", []byte(`{"schema":1}`))
	f.Add("\xff", []byte(strings.Repeat("0123456789", 1000)))
	f.Add("日本", []byte(strings.Repeat("é\x00", 2000)))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		if len(data) > 10*partSize {
			return // slow, and nothing new
		}
		set, parts, err := split(Key(key), data)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range parts {
			if len(p) > partSize || !plain(p) {
				t.Fatalf("part %d: %q", i, p)
			}
		}
		h, err := decodeHead(head{Set: set, Other: set}.encode())
		if err != nil || *h.Set != *set || *h.Other != *set {
			t.Fatalf("got head %+v, %v", h, err)
		}
		if len(h.encode()) > partSize {
			t.Fatalf("head of %d bytes", len(h.encode()))
		}
		if got, ok := set.join(Key(key), parts); !ok || string(got) != string(data) {
			t.Fatalf("joined to %q, %v", got, ok)
		}
		if _, ok := set.join(Key(key+"'"), parts); ok {
			t.Fatal("joined under another key")
		}
		if _, ok := set.join(Key(key), append(parts, "")); ok {
			t.Fatal("joined with one part more")
		}
		for i := range parts {
			kept := parts[i]
			parts[i] += "A"
			if _, ok := set.join(Key(key), parts); ok {
				t.Fatalf("joined with part %d altered", i)
			}
			parts[i] = kept
		}
	})
}

// fuzzRing holds a head and nothing but the same part.
type fuzzRing struct{ head, part string }

func (r fuzzRing) Get(_, item string) (string, error) {
	if !strings.Contains(item, ".") {
		return r.head, nil
	}
	if r.part == "" {
		return "", keyring.ErrNotFound
	}
	return r.part, nil
}
func (fuzzRing) Set(string, string, string) error { return nil }
func (fuzzRing) Delete(string, string) error      { return keyring.ErrNotFound }

// Any head and part is a record, none, or ErrCorrupt.
func FuzzKeychainRead(f *testing.F) {
	const data = `{"schema":1,"generation":"G","grant":{}}`
	set, parts, _ := split("key", []byte(data))
	f.Add(head{Set: set}.encode(), parts[0])
	f.Add(head{Other: set}.encode(), "")
	f.Add(head{Set: set}.encode(), "")
	f.Add(`{"v":1,"set":{"id":"A","parts":500,"enc":"base64"}}`, "AAAA")
	f.Add(`{"v":2}`, "")
	f.Add(`{"v":1,"set":{"id":"../A","parts":-1}}`, "x")
	f.Fuzz(func(t *testing.T, head, part string) {
		k := Keychain{ring: fuzzRing{head, part}}
		r, err := k.Get(context.Background(), "key")
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if err == nil && !strings.Contains(part, r.Generation) {
			t.Fatalf("got %+v out of %q", r, part)
		}
	})
}
