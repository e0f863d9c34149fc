package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/zalando/go-keyring"

	"github.com/astravue/mcp-client-go/internal/secret"
)

const (
	canary = "secret-of-the-record-0"

	grantData = `{"schema":1,"generation":"G","grant":{"server":"https://api.astravue.com/mcp","sign_in":"S","issuer":"https://api.astravue.com",
		"token_endpoint":"https://auth.astravue.com/realms/astravue/protocol/openid-connect/token","revocation_endpoint":"https://auth.astravue.com/realms/astravue/protocol/openid-connect/revoke",
		"client_id":"c","token_endpoint_auth_method":"none","registration_key":"\"registration\" \"i\" \"a\"","resource":"https://api.astravue.com/mcp","scopes_requested":["openid"],"scopes_granted":["openid","email"],
		"access_token":"` + canary + `","obtained_at":"2026-01-02T03:04:05.678Z","expires_at":"2026-01-02T03:34:05.678Z","refresh_token":"r","refresh_expires_at":"2026-01-03T03:04:05Z"}}`
	registrationData = `{"schema":1,"generation":"G","registration":{"issuer":"https://api.astravue.com","client_id":"c","client_secret":"` + canary + `","client_secret_expires_at":"2027-01-02T03:04:05Z",
		"token_endpoint_auth_method":"client_secret_basic","redirect_uris":["http://127.0.0.1/callback"],"redirect_uri":"http://127.0.0.1:20000/callback",
		"registration_client_uri":"https://auth.astravue.com/c","registration_access_token":"t","created_at":"2026-01-02T03:04:05Z"}}`
)

// fill sets every field of a record's part, each one differently, and all of
// them out of text and at.
func fill(v any, text string, at time.Time) {
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		word := fmt.Sprintf("%d %s", i, text)
		switch f := s.Field(i); f.Interface().(type) {
		case string:
			f.SetString(word)
		case Key:
			f.SetString(word)
		case bool:
			f.SetBool(len(text)%2 == 0)
		case []string:
			f.Set(reflect.ValueOf([]string{word, text, ""}))
		case time.Time:
			f.Set(reflect.ValueOf(at.Add(time.Duration(i))))
		case secret.Secret:
			f.Set(reflect.ValueOf(NewSecret(word)))
		default:
			panic("a field of a new type")
		}
	}
}

// utc is r as it is stored: one zone, and no difference between an empty list
// and none.
func utc(r Record) Record {
	one := func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); x := f.Interface().(type) {
			case time.Time:
				f.Set(reflect.ValueOf(x.UTC()))
			case []string:
				if len(x) == 0 {
					f.SetZero()
				}
			}
		}
	}
	if r.Grant != nil {
		g := *r.Grant
		one(reflect.ValueOf(&g).Elem())
		r.Grant = &g
	}
	if r.Registration != nil {
		g := *r.Registration
		one(reflect.ValueOf(&g).Elem())
		r.Registration = &g
	}
	return r
}

// FuzzDecodeRecord holds that whatever is read is a record that can be saved
// and is then read again as it was, or ErrCorrupt; that whatever is saved is read
// as it was; that a record which lost its end is damaged; and that no error
// shows a secret.
func FuzzDecodeRecord(f *testing.F) {
	for _, s := range []string{
		grantData, registrationData,
		"", "{", "null", `{"schema":1}`, `{"schema":1,"grant":{}}`, `{"schema":2,"generation":"G","grant":{}}`, `{"schema":1,"generation":"G","grant":{},"registration":{}}`,
		`{"schema":1,"generation":"G","grant":{"access_token":"` + canary + `","expires_at":"2026-01-02T03:04:05Z","scopes_granted":["read"]}}`,
		`{"schema":1,"generation":"G","grant":{"access_token":{"x":"` + canary + `"}}}`,
		`{"schema":1,"generation":"G","grant":{"expires_at":"` + canary + `"}}`,
		`{"schema":1,"generation":"G","grant":{"obtained_at":"2026-01-02T03:04:05.678+09:00"}}`,
		`{"schema":1,"generation":"G","grant":{"obtained_at":"0000-01-01T00:00:00+09:00"}}`,
		`{"schema":1,"generation":"G","grant":{"expires_at":"9999-12-31T23:59:59-09:00"}}`,
		`{"schema":1,"generation":"G","registration":{"created_at":"0001-01-01T00:00:00Z","redirect_uris":[]}}`,
		`{"schema":1,"generation":"G","registration":{"client_id":"c","redirect_uris":["http://127.0.0.1/callback"]}} `,
		`{"SCHEMA":1,"generation":"G","grant":{}}`, `{"schema":1,"generation":"\ud800","grant":{"server":"\udc00"}}`,
		`{"schema":1,"generation":"G","grant":{}}]`,
	} {
		f.Add([]byte(s), "tøken\x00\u2028<&>", int64(1_700_000_000), int64(678_000_000))
	}
	f.Add([]byte(nil), "", int64(-62135596800), int64(0))
	f.Add([]byte(nil), "\\\"'", int64(253402300799), int64(999_999_999))

	same := func(t *testing.T, r Record) {
		t.Helper()
		data, err := EncodeRecord(r)
		if err != nil {
			t.Fatalf("encode %+v: %v", r, err)
		}
		again, err := DecodeRecord(data)
		if err != nil || !reflect.DeepEqual(utc(again), utc(r)) {
			t.Fatalf("%v: not the same again: %+v, of %+v", err, again, r)
		}
		for _, n := range []int{len(data) - 1, len(data) / 2, 0} {
			if cut, err := DecodeRecord(data[:n]); !errors.Is(err, ErrCorrupt) || !reflect.DeepEqual(cut, Record{}) {
				t.Fatalf("%d bytes of %s are read as %+v, %v", n, data, cut, err)
			}
		}
		if s := fmt.Sprintf("%v %+v %#v", r, r, r.Grant); strings.Count(string(data), canary) == 1 && strings.Contains(string(data), `"access_token":"`+canary) && strings.Contains(s, canary) {
			t.Fatalf("prints as %s", s)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, text string, sec, nsec int64) {
		r, err := DecodeRecord(data)
		switch {
		case err == nil:
			if r.Generation == "" || (r.Grant == nil) == (r.Registration == nil) {
				t.Fatalf("%s is read as %+v", data, r)
			}
			same(t, r)
		case !errors.Is(err, ErrCorrupt) || !reflect.DeepEqual(r, Record{}):
			t.Fatalf("got %v, %v", r, err)
		case strings.Contains(err.Error(), canary):
			t.Fatalf("the error shows a secret: %v", err)
		}

		at := time.Unix(sec, nsec).UTC()
		if !utf8.ValidString(text) || at.Year() < 1 || at.Year() > 9999 || at.Add(time.Minute).Year() > 9999 {
			return // JSON has no room for these, and no server can send them
		}
		g, c := new(Grant), new(Registration)
		fill(g, text, at)
		fill(c, text, at)
		same(t, Record{Generation: "G" + text, Grant: g})
		same(t, Record{Generation: "G", Registration: c})
	})
}

// FuzzDecodeMark holds that a mark is read as it was written, and that one which
// lost its end counts as a refresh token that may be spent.
func FuzzDecodeMark(f *testing.F) {
	f.Add([]byte(`{"pending":true,"generation":"G","at":"2026-01-02T03:04:05Z","tries":1}`))
	f.Add([]byte(`{"generation":"G","not_before":"2026-01-02T03:04:05.6+09:00","failures":3}`))
	f.Add([]byte(`{"at":"9999-12-31T23:59:59-09:00","tries":-1}`))
	f.Add([]byte(`{"new_issuer_at":"2026-01-02T03:04:05+09:00"}`))
	f.Add([]byte(`{"at":1}`))
	f.Add([]byte(`{"Pending":true,"generation":"\ud800"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := decodeMark(data)
		encoded := encodeMark(m)
		if again := decodeMark(encoded); !again.At.Equal(m.At) || !again.NewIssuerAt.Equal(m.NewIssuerAt) || !again.NotBefore.Equal(m.NotBefore) ||
			again.Pending != m.Pending || again.Generation != m.Generation || again.Tries != m.Tries || again.Failures != m.Failures {
			t.Fatalf("got %+v, want %+v", again, m)
		}
		for n := range encoded {
			if cut := decodeMark(encoded[:n]); cut != (Mark{Pending: true}) {
				t.Fatalf("%s is read as %+v", encoded[:n], cut)
			}
		}
	})
}

// FuzzKeychainParts holds that what is split into parts of a size that fits
// everywhere is joined to the same, under its own key only; and that parts and
// head, with anything at all put in place of a piece of them, are the same
// record or none, and never another one.
func FuzzKeychainParts(f *testing.F) {
	f.Add("key", []byte(nil), 0, "x")
	f.Add("", []byte(grantData), 17, "")
	f.Add("\xff", []byte(strings.Repeat("0123456789", 500)), 2000, "4")
	f.Add("日本", []byte(strings.Repeat("é\x00", 1500)), 2001, "\r\n")
	f.Add("\ufffd", []byte(strings.Repeat("x", 2*partSize)), 3999, "y")
	f.Add("key", []byte(strings.Repeat("x", partSize+1)), 6, `"parts":1`)
	f.Add("key", []byte(strings.Repeat("é", partSize)), 60, `"ENC":""`)
	f.Fuzz(func(t *testing.T, key string, data []byte, at int, piece string) {
		if len(data) > 3*partSize || at < 0 || at > 1<<20 {
			return // slow, and nothing new
		}
		set, parts, err := split(Key(key), data)
		if err != nil {
			t.Fatal(err)
		}
		joins := func(set *partSet, key Key, parts []string) bool {
			got, ok := set.join(key, parts)
			if ok && string(got) != string(data) {
				t.Fatalf("joined to %q of %q", got, parts)
			}
			return ok
		}
		if !joins(set, Key(key), parts) || len(parts) != set.Parts {
			t.Fatalf("%d parts of %d do not fit together", len(parts), set.Parts)
		}
		for i, p := range parts {
			if len(p) > partSize || !plain(p) || p == "" && len(parts) > 1 {
				t.Fatalf("part %d: %q", i, p)
			}
		}
		if joins(set, Key(key+"'"), parts) || joins(set, Key("'"+key), parts) || piece != "" && joins(set, Key(key+piece), parts) {
			t.Fatal("joined under another key")
		}
		if joins(set, Key(key), append(slices.Clone(parts), "")) || joins(set, Key(key), parts[1:]) {
			t.Fatal("joined with one part more or less")
		}
		reversed := slices.Clone(parts)
		slices.Reverse(reversed)
		joins(set, Key(key), reversed)

		// altered returns s with piece in place of as many of its bytes.
		altered := func(s string) string {
			i := at % (len(s) + 1)
			return s[:i] + piece + s[min(i+len(piece), len(s)):]
		}
		for i := range parts {
			other := slices.Clone(parts)
			other[i] = altered(parts[i])
			// Base64 has more than one text for the same bytes.
			if joins(set, Key(key), other) && other[i] != parts[i] && set.Encoding == "" {
				t.Fatalf("joined with part %d altered", i)
			}
		}

		h := head{Set: set, Other: &partSet{ID: "OTHER", Parts: 7}}
		read, err := decodeHead(h.encode())
		if err != nil || !reflect.DeepEqual(*read.Set, *set) || *read.Other != *h.Other || len(h.encode()) > partSize || !plain(h.encode()) {
			t.Fatalf("%s is read as %+v, %v", h.encode(), read, err)
		}
		read, err = decodeHead(altered(h.encode()))
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatal(err)
		case err == nil && (!read.Set.valid() || !read.Other.valid() || read.Set == nil && read.Other == nil):
			t.Fatalf("%s is read as %+v", altered(h.encode()), read)
		case err == nil && read.Set != nil:
			joins(read.Set, Key(key), parts)
		}
	})
}

// fuzzRing holds a head and nothing but the same part.
type fuzzRing struct {
	head, part string
	asked      int
}

func (r *fuzzRing) Get(_, item string) (string, error) {
	r.asked++
	if !strings.Contains(item, ".") {
		return r.head, nil
	}
	if r.part == "" {
		return "", keyring.ErrNotFound
	}
	return r.part, nil
}
func (*fuzzRing) Set(string, string, string) error { return nil }
func (*fuzzRing) Delete(string, string) error      { return keyring.ErrNotFound }

// FuzzKeychainRead holds that any head and part is a record, none, or
// ErrCorrupt, after a bounded number of reads; and that a record is what its
// parts hold, and as they were summed up.
func FuzzKeychainRead(f *testing.F) {
	set, parts, _ := split("key", []byte(registrationData[:200]+strings.Repeat("x", 100)))
	f.Add(head{Set: set}.encode(), parts[0])
	for _, data := range []string{`{"schema":1,"generation":"G","grant":{}}`, registrationData, `{"schema":1,"generation":"é","grant":{}}`, strings.Repeat("x", partSize)} {
		set, parts, _ := split("key", []byte(data))
		f.Add(head{Set: set}.encode(), parts[0])
		f.Add(head{Set: set, Other: set}.encode(), parts[0])
		f.Add(head{Other: set}.encode(), "")
		f.Add(head{Set: set}.encode(), "")
		set.Sum = sum("other", []byte(data))
		f.Add(head{Set: set}.encode(), parts[0])
	}
	f.Add(`{"v":1,"set":{"id":"A","parts":500,"enc":"base64"}}`, "AAAA")
	f.Add(`{"v":1,"set":{"id":"A","parts":501}}`, "AAAA")
	f.Add(`{"v":1,"set":{"id":"A","parts":1,"enc":"utf-16"}}`, "AAAA")
	f.Add(`{"v":1,"set":{"id":"A","parts":1},"other":{"id":"a b","parts":1}}`, "AAAA")
	f.Add(`{"v":2}`, "")
	f.Add(`{"v":1}`, "")
	f.Add(`{"v":1,"set":{"id":"../A","parts":-1}}`, "x")
	f.Fuzz(func(t *testing.T, text, part string) {
		ring := &fuzzRing{head: text, part: part}
		k := Keychain{items: ring}
		r, err := k.Get(context.Background(), "key")
		if ring.asked > 2+maxParts {
			t.Fatalf("%s asks for %d items", text, ring.asked)
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotFound) || !reflect.DeepEqual(r, Record{}) {
				t.Fatalf("%+v, %v", r, err)
			}
			if strings.Contains(part, canary) && strings.Contains(err.Error(), canary) {
				t.Fatalf("the error shows a secret: %v", err)
			}
			return
		}
		h, err := decodeHead(text)
		if err != nil || !h.Set.valid() || h.Set == nil {
			t.Fatalf("a record out of the head %s", text)
		}
		data, ok := h.Set.join("key", slices.Repeat([]string{part}, h.Set.Parts))
		want, err := DecodeRecord(data)
		if !ok || err != nil || !reflect.DeepEqual(r, want) || !strings.Contains(text, sum("key", data)) {
			t.Fatalf("%+v out of %s, %v", r, data, err)
		}
	})
}

// errKilled is what a process sees of its keychain after its death.
var errKilled = errors.New("killed")

// A mapRing is a keychain in memory, for a process that is killed after so many
// changes of it.
type mapRing struct {
	items map[string]string
	left  int // changes; negative: no end
}

func (r *mapRing) change(f func() error) error {
	if r.left == 0 {
		return errKilled
	}
	r.left--
	return f()
}

func (r *mapRing) Get(_, item string) (string, error) {
	data, ok := r.items[item]
	if !ok {
		return "", keyring.ErrNotFound
	}
	return data, nil
}

func (r *mapRing) Set(_, item, data string) error {
	return r.change(func() error { r.items[item] = data; return nil })
}

func (r *mapRing) Delete(_, item string) error {
	return r.change(func() error {
		if _, ok := r.items[item]; !ok {
			return keyring.ErrNotFound
		}
		delete(r.items, item)
		return nil
	})
}

// FuzzKeychainItems plays a life of one record in a keychain: saves and
// deletions, some of them killed after any number of writes, and damage to any
// item. Each byte pair of life is one event. What can be read is always the old
// record or the new one; damage is ErrCorrupt, none, or the same record, and is
// healed by the next save; and after a save that was not killed nothing is left
// that no head names.
func FuzzKeychainItems(f *testing.F) {
	f.Add([]byte("\x00\x10\x01\x03\x00\x80"))
	f.Add([]byte("\x00\xff\x01\x02\x01\x04\x01\x07\x00\x10\x02\x01\x02\x09"))
	f.Add([]byte("\x00\xff\x03\x00\x00\xff\x03\x01\x00\x10\x04\x41\x05\x02\x06\x03"))
	f.Add([]byte("\x00\x10\x04\x20\x00\x11\x03\x20\x00\x10\x05\x10\x00\x10\x06\x20\x00\x11\x01\x03\x06\x00"))
	f.Add([]byte("\x01\x00\x01\x01\x01\x02\x01\x03\x01\x04\x01\x05\x02\x00\x02\x01\x02\x02\x02\x03"))
	f.Fuzz(func(t *testing.T, life []byte) {
		if len(life) > 60 {
			return // slow, and nothing new
		}
		ctx := context.Background()
		ring := &mapRing{items: map[string]string{}, left: -1}
		k := &Keychain{items: ring}
		name := hashName("key")
		may := []string{""} // what a reader may find: none, at first
		orphaned := false   // a head was damaged, and nobody knows its parts any more
		read := func() (string, error) {
			data, _, err := k.entries("key").readRecord(ctx)
			if errors.Is(err, ErrNotFound) {
				return "", nil
			}
			return string(data), err
		}
		for i := 0; i+1 < len(life); i += 2 {
			event, n := life[i]%7, int(life[i+1])
			var err error
			next := ""
			switch event {
			case 0, 1: // a save, killed at 1
				next = strings.Repeat(fmt.Sprintf("%d %s", i, []string{"plain ", "bytés "}[n%2]), n*2) + "."
				if event == 1 {
					ring.left = n % 16
				}
				err = k.entries("key").Write(ctx, EntryRecord, []byte(next))
			case 2: // a deletion, killed
				ring.left = n % 16
				err = k.entries("key").Remove(ctx, EntryRecord)
			default: // damage
				items := slices.Sorted(maps.Keys(ring.items))
				if len(items) == 0 {
					continue
				}
				item, other := items[n%len(items)], items[n/16%len(items)]
				was := ring.items[item]
				switch event {
				case 3:
					delete(ring.items, item)
				case 4:
					ring.items[item] = was[:n*31%(len(was)+1)]
				case 5:
					ring.items[item] = ring.items[other]
				case 6:
					at := n * 31 % (len(was) + 1)
					ring.items[item] = was[:at] + "A" + was[min(at+1, len(was)):]
				}
				orphaned = orphaned || item == name && ring.items[item] != was
				got, err := read()
				if err == nil && got != "" && !slices.Contains(may, got) || err != nil && !errors.Is(err, ErrCorrupt) {
					t.Fatalf("event %d: after damage to %s: %.100q, %v", i, item, got, err)
				}
				// The next save heals it.
				if err := k.entries("key").Write(ctx, EntryRecord, []byte("healed")); err != nil {
					t.Fatalf("event %d: save over damage: %v", i, err)
				}
				may, next = nil, "healed"
			}
			killed := ring.left == 0
			ring.left = -1
			switch {
			case err == nil:
				may = []string{next}
			case !killed:
				t.Fatalf("event %d: %v", i, err)
			default:
				may = append(may, next)
			}
			got, err := read()
			if err != nil || !slices.Contains(may, got) {
				t.Fatalf("event %d: %.100q, %v, of %.100q", i, got, err, may)
			}
			may = []string{got}
			if killed || orphaned {
				continue
			}
			want := 0
			if h, err := decodeHead(ring.items[name]); err == nil {
				want = 1 + h.Set.Parts
				if h.Other != nil {
					t.Errorf("event %d: the head still names %+v", i, h.Other)
				}
			}
			if len(ring.items) != want {
				t.Fatalf("event %d: %d items, want %d: %q", i, len(ring.items), want, slices.Sorted(maps.Keys(ring.items)))
			}
		}
	})
}
