package tokenstore

import (
	"context"
	"sync"
	"time"

	"github.com/astravue/mcp-client-go/internal/gate"
)

// Memory keeps records in the memory of this process. It is for tests, and for
// programs that sign in anew each time. The zero Memory is empty and ready to
// use. It must not be copied after first use.
type Memory struct {
	// LockTimeout bounds how long Update waits for its lock. If 0,
	// [DefaultLockTimeout].
	LockTimeout time.Duration

	gate    gate.Gate
	mu      sync.Mutex
	entries map[memoryName]Secret // encoded, so that nobody shares a slice with the store, and no verb shows it
}

type memoryName struct {
	key   Key
	entry Entry
}

var _ Store = (*Memory)(nil)

// Get implements [Store].
func (m *Memory) Get(ctx context.Context, key Key) (Record, error) {
	data, err := memoryEntries{m, key}.Read(ctx, EntryRecord)
	if err != nil {
		return Record{}, err
	}
	return DecodeRecord(data)
}

// Update implements [Store].
func (m *Memory) Update(ctx context.Context, key Key, f func(context.Context, *Locked) error) error {
	return update(ctx, func(ctx context.Context) (func(), error) {
		start := time.Now()
		ctx, cancel := withLimit(ctx, key, m.LockTimeout)
		defer cancel()
		leave, ok := m.gate.Enter(ctx, string(key))
		if !ok {
			return nil, lockError(ctx, start, "this process")
		}
		return leave, nil
	}, memoryEntries{m, key}, f)
}

// Delete implements [Store].
func (m *Memory) Delete(ctx context.Context, key Key) error {
	return m.Update(ctx, key, func(ctx context.Context, l *Locked) error { return l.Delete(ctx) })
}

type memoryEntries struct {
	*Memory
	key Key
}

func (m memoryEntries) Read(ctx context.Context, e Entry) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.entries[memoryName{m.key, e}]
	if !ok {
		return nil, ErrNotFound
	}
	return []byte(data.Reveal()), nil
}

func (m memoryEntries) Write(ctx context.Context, e Entry, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Memory.entries == nil {
		m.Memory.entries = make(map[memoryName]Secret)
	}
	m.Memory.entries[memoryName{m.key, e}] = NewSecret(string(data))
	return nil
}

func (m memoryEntries) Remove(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.Memory.entries, memoryName{m.key, e})
	return nil
}
