package mcpclient

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/pkg/browser"

	"github.com/astravue/mcp-client-go/internal/text"
)

// The browser package writes to standard output, which belongs to the program.
var browserOutput = sync.OnceFunc(func() { browser.Stdout = os.Stderr })

// openBrowser opens the system's browser, or tells the user to.
func openBrowser(ctx context.Context, url string) error {
	browserOutput()
	opened := make(chan error, 1)
	go func() { opened <- browser.OpenURL(url) }() // may not return while the browser runs
	select {
	case <-ctx.Done():
		return nil
	case err := <-opened:
		if err != nil {
			fmt.Fprintf(os.Stderr, "No browser could be opened. To sign in, open this address:\n\n  %s\n\n", text.Line(url))
		}
		return err
	}
}
