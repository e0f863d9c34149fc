package testenv

import (
	"bytes"
	"io"
	"net/http"
)

// A RoundTripper is an [http.RoundTripper] that is one function.
type RoundTripper func(*http.Request) (*http.Response, error)

func (f RoundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// ReadBody returns the whole body of req and a copy of req whose body is still unread, for a
// [RoundTripper] that looks at a request and passes it on. Without a body it returns nil and req.
func ReadBody(req *http.Request) (body []byte, unread *http.Request, err error) {
	if req.Body == nil {
		return nil, req, nil
	}
	body, err = io.ReadAll(req.Body)
	_ = req.Body.Close()
	if err != nil {
		return nil, nil, err
	}
	unread = req.Clone(req.Context())
	unread.Body = io.NopCloser(bytes.NewReader(body))
	return body, unread, nil
}
