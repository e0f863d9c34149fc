package oauthhttp

import (
	"io"
	"net/http"
	"time"
)

const (
	maxDrain  = 64 << 10
	drainTime = 100 * time.Millisecond
)

// Drain reads the rest of an answer that nobody needs and closes its body.
// A connection can be used again only if its last answer was read to the end.
// A new connection costs less than a long wait: after 64 KiB or 100 ms Drain
// closes the body as it is.
func Drain(resp *http.Response) {
	defer time.AfterFunc(drainTime, func() { _ = resp.Body.Close() }).Stop()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
	_ = resp.Body.Close()
}
