package postgres

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// KeySize is the length of each of [Store.Keys] in bytes.
const KeySize = 32

// sealVersion is the first byte of everything sealed.
const sealVersion = 1

// sealingKeys seal with the first key and open with any. Nonces are random, which
// allows 2^32 seals with one key (NIST SP 800-38D §8.3): 10,000 users who refresh
// every half hour take more than eight years.
type sealingKeys []cipher.AEAD

func newSealingKeys(given []tokenstore.Secret) (keys sealingKeys, err error) {
	if len(given) == 0 {
		return nil, fmt.Errorf("%w: Keys has no key", tokenstore.ErrUnavailable)
	}
	for i, key := range given {
		block, err := aes.NewCipher([]byte(key.Reveal()))
		if err != nil || len(key.Reveal()) != KeySize {
			return nil, fmt.Errorf("%w: Keys[%d] does not have %d bytes", tokenstore.ErrUnavailable, i, KeySize)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("%w: Keys[%d]: %w", tokenstore.ErrUnavailable, i, err)
		}
		keys = append(keys, aead)
	}
	return keys, nil
}

// place is authenticated together with an entry, so that a row that was copied
// under another name, or to the other kind of entry, cannot be opened.
func place(name []byte, e tokenstore.Entry) []byte {
	return fmt.Appendf(nil, "astravue-mcp %d %x", e, name)
}

func (keys sealingKeys) seal(name []byte, e tokenstore.Entry, data []byte) []byte {
	return keys[0].Seal([]byte{sealVersion}, nil, data, place(name, e))
}

// open returns the data of a sealed entry, and the index of the key that sealed it.
func (keys sealingKeys) open(name []byte, e tokenstore.Entry, sealed []byte) (data []byte, key int, err error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return nil, 0, fmt.Errorf("%w: the %s was not sealed by this version", tokenstore.ErrCorrupt, e)
	}
	for key, aead := range keys {
		if data, err := aead.Open(nil, nil, sealed[1:], place(name, e)); err == nil {
			return data, key, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: none of the keys opens the %s", tokenstore.ErrCorrupt, e)
}
