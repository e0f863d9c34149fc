//go:build unix

package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// A file of one's own is read, by a link as mounted secrets have it, and a shell's pipe.
func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("the secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("secret", link); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		time.Sleep(20 * time.Millisecond) // whoever is not waited for has written nothing
		_, _ = w.WriteString("the secret")
		_ = w.Close()
	}()
	for _, path := range []string{file, link, fmt.Sprintf("/dev/fd/%d", r.Fd())} {
		if got, err := tokenstore.ReadSecretFile(t.Context(), path); err != nil || got.Reveal() != "the secret" {
			t.Errorf("%s: %d bytes, %v", path, len(got.Reveal()), err)
		}
	}
	_, err = tokenstore.ReadSecretFile(t.Context(), filepath.Join(dir, "none"))
	wantError(t, "none", err, os.ErrNotExist)
}

// A pipe that nobody writes to ends with the context, and one without a writer at once.
func TestReadSecretFileWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = tokenstore.ReadSecretFile(ctx, fmt.Sprintf("/dev/fd/%d", r.Fd()))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("a pipe that nobody writes to: %v", err)
	}

	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := tokenstore.ReadSecretFile(t.Context(), fifo); err != nil || !got.IsZero() {
		t.Errorf("a pipe without a writer: %v", err)
	}
}

// Each mode that lets somebody else in is refused, and no other; the command that is named mends it.
func TestExposedModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	f := &tokenstore.File{Dir: dir, Identity: identity}
	mustSave(t, f, work, "token")
	record := records(t, dir)[0]
	for mode := range os.FileMode(0o1000) {
		if mode&0o700 != 0o700 {
			continue // the owner's own bits
		}
		for path, others := range map[string]os.FileMode{dir: 0o022, record: 0o077} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			_, err := f.Get(t.Context(), work)
			if refused := (*tokenstore.FileError)(nil); mode&others == 0 && err != nil {
				t.Errorf("%s of mode %v: %v", path, mode, err)
			} else if mode&others != 0 && (!errors.Is(err, tokenstore.ErrExposed) || !errors.As(err, &refused) || refused.Path != path) {
				// A group of this user's alone is the exception; the group of root, as whom tests may run, is none.
				if private := os.Getuid() == os.Getgid() && os.Getuid() != 0; path != dir || !private || mode&0o002 != 0 {
					t.Errorf("%s of mode %v: %v", path, mode, err)
				}
			}
			if err := os.Chmod(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
}
