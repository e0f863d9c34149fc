package mcpclient

import (
	"errors"
	"io"
	"net/http"
)

// resendable reports whether req can be sent a second time. A body can be read
// once only, unless GetBody yields it anew.
func resendable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// newBody returns a new copy of req's body. Without a body it returns what
// stands for that, nil or [http.NoBody].
func newBody(req *http.Request) (io.ReadCloser, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req.Body, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("body cannot be sent again")
	}
	return req.GetBody()
}

// closeBody closes the body of a request that is not sent, as every
// [http.RoundTripper] has to.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
