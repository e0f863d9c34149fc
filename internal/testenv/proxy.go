package testenv

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
)

// Proxy returns p, given requests whose bodies have been read to the end. While one has not,
// net/http's server closes it when the answer begins, and the transport that finds it closed
// cuts that answer off: rarely, and where p's server is quick.
func Proxy(p *httputil.ReverseProxy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // the client has gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.ServeHTTP(w, r)
	})
}
