package tokenstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestLockTimeout(t *testing.T) {
	t.Parallel()
	const limit = 50 * time.Millisecond
	dir := t.TempDir()
	keychain := newRing(t).open(t.TempDir())
	keychain.LockTimeout = limit
	for name, s := range map[string]tokenstore.Store{
		"keychain": keychain,
		"file":     &tokenstore.File{Dir: dir, Identity: identity, LockTimeout: limit},
		"memory":   &tokenstore.Memory{LockTimeout: limit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for locks
			nothing := func(context.Context, *tokenstore.Locked) error { return nil }
			if err := s.Update(t.Context(), work, func(ctx context.Context, _ *tokenstore.Locked) error {
				return s.Update(ctx, work.SignIn(), func(ctx context.Context, _ *tokenstore.Locked) error {
					timeout := new(tokenstore.LockTimeoutError)
					if err := s.Update(ctx, work, nothing); !errors.As(err, &timeout) {
						t.Errorf("got %v, want a *LockTimeoutError", err)
					} else if timeout.Waited < limit || timeout.Err != nil || timeout.Holder == "" {
						t.Errorf("got %+v, want the store's own limit and a holder", timeout)
					} else if name != "memory" && !strings.Contains(timeout.Holder, strconv.Itoa(os.Getpid())) {
						t.Errorf("the holder is this process, not %q", timeout.Holder)
					}

					// Who waits for a person waits as long as the context lasts.
					ctx, cancel := context.WithTimeout(ctx, 10*limit)
					defer cancel()
					if err := s.Update(ctx, work.SignIn(), nothing); !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("sign-in: got %v, want a *LockTimeoutError at the deadline", err)
					} else if deadline, _ := ctx.Deadline(); timeout.Waited < 3*limit || time.Now().Before(deadline) {
						t.Errorf("sign-in: the wait ended after %v", timeout.Waited)
					}
					return nil
				})
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who removes a lock file lets two in; we never do.
func TestLockFileStays(t *testing.T) {
	dir := t.TempDir()
	k := newRing(t).open(dir)
	mustSave(t, k, work, "token")
	files, err := filepath.Glob(filepath.Join(dir, "*.lock"))
	if err != nil || len(files) != 1 {
		t.Fatalf("lock files %q, %v", files, err)
	}
	before, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(t.Context(), work); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(files[0]); err != nil || !os.SameFile(before, after) {
		t.Errorf("the lock file was removed or made anew: %v", err)
	}
	if err := os.Remove(files[0]); err != nil { // a cleaner of temporary folders
		t.Fatal(err)
	}
	mustSave(t, k, work, "new")
}
