package refresh_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// A fullDisk is a store that cannot save records while full is set, and no
// marks while noMarks is.
type fullDisk struct {
	lock, mu      sync.Mutex
	entries       map[tokenstore.Entry][]byte
	full, noMarks bool
	late          bool          // what fails is written all the same
	slow          time.Duration // that a record takes to be written
}

var errDiskFull = fmt.Errorf("%w: disk full", tokenstore.ErrUnavailable)

func (d *fullDisk) Get(ctx context.Context, _ tokenstore.Key) (tokenstore.Record, error) {
	return tokenstore.NewLocked(d).Get(ctx)
}

func (d *fullDisk) Update(ctx context.Context, _ tokenstore.Key, f func(context.Context, *tokenstore.Locked) error) error {
	d.lock.Lock()
	defer d.lock.Unlock()
	return f(ctx, tokenstore.NewLocked(d))
}

func (d *fullDisk) Delete(ctx context.Context, key tokenstore.Key) error {
	return d.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error { return l.Delete(ctx) })
}

func (d *fullDisk) Read(_ context.Context, e tokenstore.Entry) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if data, ok := d.entries[e]; ok {
		return data, nil
	}
	return nil, tokenstore.ErrNotFound
}

func (d *fullDisk) Write(ctx context.Context, e tokenstore.Entry, data []byte) error {
	if e == tokenstore.EntryRecord && d.slow > 0 {
		select {
		case <-time.After(d.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fails := e == tokenstore.EntryRecord && d.full || e == tokenstore.EntryMark && d.noMarks
	if !fails || d.late {
		if d.entries == nil {
			d.entries = map[tokenstore.Entry][]byte{}
		}
		d.entries[e] = data
	}
	if fails {
		return errDiskFull
	}
	return nil
}

func (d *fullDisk) Remove(_ context.Context, e tokenstore.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, e)
	return nil
}

func (d *fullDisk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// A slowReader is a store whose readers are overtaken.
type slowReader struct {
	tokenstore.Store
	overtake func()
}

func (r *slowReader) Get(ctx context.Context, key tokenstore.Key) (tokenstore.Record, error) {
	rec, err := r.Store.Get(ctx, key)
	if f := r.overtake; f != nil {
		r.overtake = nil
		f()
	}
	return rec, err
}
