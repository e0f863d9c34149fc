// Package openbrowser opens the browser of the operating system.
package openbrowser

import (
	"context"
	"io"
	"sync"

	"github.com/pkg/browser"
)

// The browser package has one output for the whole process, and without this writes to standard
// output, which belongs to the program.
var setOutput sync.Once

// Open opens url in the system's browser. It returns when the program that was started for that
// has ended, which may be the browser itself, or with nil when ctx is done; the browser stays open.
//
// What that program prints goes to out. The out of a process's first call serves all its calls.
// Safe for concurrent use.
func Open(ctx context.Context, url string, out io.Writer) error {
	setOutput.Do(func() { browser.Stdout, browser.Stderr = out, out })
	opened := make(chan error, 1)
	go func() { opened <- browser.OpenURL(url) }()
	select {
	case err := <-opened:
		return err
	case <-ctx.Done():
		return nil
	}
}
