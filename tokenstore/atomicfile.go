package tokenstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
)

// maxFile bounds how much of a file is read.
const maxFile = 4 << 20

// readFile returns the content of a file of a store. Its errors wrap
// [fs.ErrNotExist] or an error of this package.
func readFile(path string) (data []byte, err error) {
	err = patiently(func() error {
		file, err := openOwn(path)
		if err != nil {
			return err
		}
		defer file.Close()
		data, err = readAll(path, file)
		return err
	})
	if refused := (*FileError)(nil); errors.As(err, &refused) || errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	if err != nil {
		return nil, unavailable("read", err)
	}
	return data, nil
}

// writeFile replaces a file as a whole and durably. The caller holds a lock, so
// nobody else uses the temporary name. If a crash leaves a file there, the next
// write replaces it.
func writeFile(path string, data []byte) error {
	temp := path + ".tmp"
	err := writeSync(temp, data)
	if err == nil {
		crashpoint.Hit("tokenstore.file.temp-written")
		err = patiently(func() error { return os.Rename(temp, path) })
	}
	if err != nil {
		_ = os.Remove(temp)
		return unavailable("write", err)
	}
	crashpoint.Hit("tokenstore.file.renamed")
	if err := syncDir(filepath.Dir(path)); err != nil {
		return unavailable("write", err)
	}
	crashpoint.Hit("tokenstore.file.durable")
	return nil
}

func writeSync(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	crashpoint.Hit("tokenstore.file.temp-created")
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

func removeFile(path string) error {
	removed := false
	for _, p := range []string{path, path + ".tmp"} {
		switch err := patiently(func() error { return os.Remove(p) }); {
		case err == nil:
			removed = true
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		crashpoint.Hit("tokenstore.file.removed")
	}
	if !removed {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or a removal durable. Windows has no such call, and some
// network file systems refuse it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// patiently tries f for 2 s on Windows. There a file that another process has open
// cannot be replaced, and for a moment not be opened either.
func patiently(f func() error) error {
	err := f()
	if runtime.GOOS != "windows" {
		return err
	}
	for deadline := time.Now().Add(2 * time.Second); err != nil && !errors.Is(err, fs.ErrNotExist) && time.Now().Before(deadline); err = f() {
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// readAll reads a file of at most maxFile bytes.
func readAll(path string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%w: %s is too large", ErrCorrupt, path)
	}
	return data, err
}
