package tokenstore

import "testing"

// Damage makes a Memory a storetest.Damager.
func (m *Memory) Damage(_ testing.TB, key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := memoryName{key, EntryRecord}
	m.entries[name] = NewSecret(m.entries[name].Reveal()[1:])
}

// Items is where a Keychain keeps its items.
type Items = itemStore

// SetItems makes k keep its items in i.
func (k *Keychain) SetItems(i Items) { k.items = i }

// SetScryptWorkFactor makes the sealing of f's identity fast.
func (f *File) SetScryptWorkFactor(logN int) { f.scryptLogN = logN }

// HashName, UserDir and PartSize are looked at by tests.
var (
	HashName = hashName
	UserDir  = userDir
)

const PartSize = partSize
