package mcpclient

import (
	"context"
	"fmt"
	"os"

	"github.com/astravue/mcp-client-go/internal/openbrowser"
	"github.com/astravue/mcp-client-go/internal/text"
)

// openBrowser opens the system's browser. Where that fails it asks the user to open
// the address.
func openBrowser(ctx context.Context, url string) error {
	err := openbrowser.Open(ctx, url, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "No browser could be opened. To sign in, open this address:\n\n  %s\n\n", text.Line(url))
	}
	return err
}
