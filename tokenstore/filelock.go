package tokenstore

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/gate"
	"github.com/astravue/mcp-client-go/internal/text"
)

// fileLocks locks names across goroutines and processes.
type fileLocks struct{ gate gate.Gate }

// How often a lock that another process holds is tried again. Most locks are held
// for milliseconds, so the first try comes soon; later ones come less often.
const (
	firstRetry = 2 * time.Millisecond
	lastRetry  = 100 * time.Millisecond
)

// acquire takes the lock on the file whose path find returns. The file is never
// removed: after that another process would make, and lock, a new file while the
// old one is still locked. The wait began at start, and ctx bounds it.
func (l *fileLocks) acquire(ctx context.Context, start time.Time, find func() (path string, err error)) (release func(), err error) {
	return bounded(ctx, func() (func(), error) {
		path, err := find()
		if err != nil {
			return nil, err
		}
		return l.lock(ctx, start, path)
	}, func(release func(), err error) {
		if err == nil {
			release()
		}
	})
}

func (l *fileLocks) lock(ctx context.Context, start time.Time, path string) (release func(), err error) {
	leave, ok := l.gate.Enter(ctx, path)
	if !ok {
		return nil, lockError(ctx, start, holder(path))
	}
	// Each try has a Flock of its own: if one is shared and locked, TryLock returns
	// true to everybody.
	for delay := firstRetry; ; delay = min(delay*3/2, lastRetry) {
		if err := checkOwn(path); err != nil {
			leave()
			return nil, err
		}
		f := flock.New(path, flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|openNoFollow))
		ok, err := f.TryLock()
		if ok && !current(f) {
			_ = f.Unlock() // somebody removed the file; the next process would make, and lock, another
			continue
		}
		if err != nil {
			leave()
			return nil, unavailable("lock "+path, err)
		}
		if ok {
			setHolder(path)
			crashpoint.Hit("tokenstore.locked")
			return func() {
				crashpoint.Hit("tokenstore.unlocking")
				_ = os.Remove(holderPath(path))
				_ = f.Unlock()
				leave()
				crashpoint.Hit("tokenstore.unlocked")
			}, nil
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			leave()
			return nil, lockError(ctx, start, holder(path))
		}
	}
}

// current reports whether the file that f has locked is the one at its path.
func current(f *flock.Flock) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	want, err := os.Lstat(f.Path())
	return err == nil && os.SameFile(have, want)
}

// holderPath is the file that says who holds a lock. It is not the lock file,
// since Windows lets nobody read a locked file. People read it; the code decides
// nothing by it.
func holderPath(path string) string { return path + ".holder" }

func setHolder(path string) {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	now := time.Now()
	line := fmt.Sprintf("process %d (%s) since %s", os.Getpid(), filepath.Base(program), now.Format(time.RFC3339))
	_ = os.Remove(holderPath(path)) // also what leads elsewhere
	if file, err := os.OpenFile(holderPath(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		_, _ = file.WriteString(line)
		_ = file.Close()
	}
	_ = os.Chtimes(path, now, now) // keeps cleaners of temporary folders away
}

func holder(path string) string {
	file, err := openOwn(holderPath(path))
	if err != nil {
		return ""
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 501))
	if err != nil || len(data) > 500 {
		return ""
	}
	return text.Short(string(data))
}
