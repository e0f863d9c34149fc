package tokenstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

func (s *keychainEntries) markName() string { return s.name + ".mark" }

// partSize fits every keychain. On macOS go-keyring encodes a part in base64, and
// it has to fit, with its names, into a command of 4,096 bytes. Windows takes
// 2,560 bytes.
const partSize = 2000

// maxParts bounds how many items a damaged head can make a reader ask for. A
// record of all these parts has a million bytes, far more than any that is saved.
const maxParts = 500

// A head says which parts are the record. A save writes it three times. A crash
// between any two steps leaves a head that names all parts there are, so that
// none is left behind for ever:
//
//  1. {Set: old, Other: new}  and then the new parts
//  2. {Set: new, Other: old}  and now the new record counts; the old parts are dropped
//  3. {Set: new}
//
// Without 1 a crash while the parts are written would leave parts that no head
// names, and a keychain cannot be asked what items it has.
type head struct {
	Version int      `json:"v"`
	Set     *partSet `json:"set,omitempty"`   // the record; nil: there is none
	Other   *partSet `json:"other,omitempty"` // perhaps half written or half dropped; nil: there is none
}

// A partSet is one saved record. Its ID is random and never used again, so that
// a write that arrives late, from a process that was killed, changes no other
// set.
type partSet struct {
	ID       string `json:"id"`
	Parts    int    `json:"parts"`         // how many
	Sum      string `json:"sum"`           // of key and data
	Encoding string `json:"enc,omitempty"` // "base64", or "" for data as it is
}

// id returns the ID, or "" for no set.
func (p *partSet) id() string {
	if p == nil {
		return ""
	}
	return p.ID
}

// valid reports whether p may have been written by split. It keeps the strings
// of a damaged head out of item names. The alphabet is that of rand.Text, which
// may return longer texts in later versions of Go.
func (p *partSet) valid() bool {
	return p == nil || p.ID != "" && len(p.ID) <= 64 && strings.Trim(p.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == "" &&
		p.Parts > 0 && p.Parts <= maxParts && (p.Encoding == "" || p.Encoding == "base64")
}

const headVersion = 1

func (h head) encode() string {
	h.Version = headVersion
	data, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(data)
}

func decodeHead(data string) (head, error) {
	var h head
	err := json.Unmarshal([]byte(data), &h)
	switch {
	// Asked first, since a newer form may pass none of the checks below.
	case err == nil && h.Version > headVersion:
		return head{}, fmt.Errorf("%w: written by a newer version (layout %d, this one knows %d)", ErrCorrupt, h.Version, headVersion)
	// A head without any set is never written: the removal deletes the head instead.
	case err != nil, h.Version < 1, h.Set == nil && h.Other == nil, !h.Set.valid(), !h.Other.valid():
		return head{}, fmt.Errorf("%w: the keychain item is not a head", ErrCorrupt)
	}
	return h, nil
}

// split makes a set of parts that hold data, to be saved under key.
func split(key Key, data []byte) (set *partSet, parts []string, err error) {
	set = &partSet{ID: rand.Text(), Sum: sum(key, data)}
	// Mostly records are plain, and base64 would add a third to their size.
	text := string(data)
	if !plain(text) {
		text, set.Encoding = base64.StdEncoding.EncodeToString(data), "base64"
	}
	for len(text) > partSize {
		parts, text = append(parts, text[:partSize]), text[partSize:]
	}
	parts = append(parts, text)
	set.Parts = len(parts)
	if set.Parts > maxParts {
		return nil, nil, fmt.Errorf("%w: a record of %d bytes is too large for the keychain", ErrUnavailable, len(data))
	}
	return set, parts, nil
}

// join is the inverse of split. It returns false if the parts are not all of this
// set, or the set is of another key.
func (p *partSet) join(key Key, parts []string) (data []byte, ok bool) {
	data = []byte(strings.Join(parts, ""))
	if p.Encoding == "base64" {
		var err error
		if data, err = base64.StdEncoding.DecodeString(string(data)); err != nil {
			return nil, false
		}
	}
	// The sum also notices a part that a keychain or a person has changed.
	return data, len(parts) == p.Parts && sum(key, data) == p.Sum
}

// sum is a hash of key and data. Since the key is in it, a head that was copied to
// another key's name is damaged there and yields nobody else's record.
func sum(key Key, data []byte) string {
	// %q marks where the key ends, so that no other key and data have this sum.
	sum := sha256.Sum256(append(fmt.Appendf(nil, "%q ", key), data...))
	return hex.EncodeToString(sum[:])
}

// plain reports whether s is printable ASCII. Every keychain returns that
// unchanged, wherever it is split; other characters might be cut in half.
func plain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func (s *keychainEntries) partName(p *partSet, i int) string {
	return fmt.Sprintf("%s.%s.%d", s.name, p.ID, i)
}
