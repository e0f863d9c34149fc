package mcpclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// mostRefusal bounds the body of a refusal, in bytes. It says in a few words what
// is wrong.
const mostRefusal = 1 << 20

// rpcError returns the JSON-RPC error that is the body of resp, or nil. It
// leaves a body that can be read again: the SDK reads it too. Neither shows the
// token that was sent.
func (c *conn) rpcError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostRefusal+1))
	_ = resp.Body.Close()
	resp.Body = http.NoBody
	if err != nil || len(body) > mostRefusal {
		return nil
	}
	if _, err := c.bounds.check(body); err != nil {
		return nil
	}
	msg, err := jsonrpc.DecodeMessage(body)
	if err != nil {
		return nil
	}
	r, ok := msg.(*jsonrpc.Response)
	if !ok || r.Error == nil {
		return nil
	}
	mine := c.auth.withoutToken(r, resp)
	if mine != r {
		if body, err = jsonrpc.EncodeMessage(mine); err != nil {
			return nil
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return mine.Error
}

// answer returns resp, the answer to req, as the SDK can take it.
func (c *conn) answer(req *http.Request, asked call, resp *http.Response) (*http.Response, error) {
	c.session.note(resp.Header, asked.method == "initialize")
	mediaType := mediaTypeOf(resp)
	wrong := func(err error) error {
		return &AnswerError{
			Status: resp.StatusCode, ContentType: text.Without(mediaType, c.auth.sentWith(resp)...), RetryAfter: oauthhttp.RetryAfter(resp.Header), Err: err,
		}
	}
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		rpc := c.rpcError(resp)
		if rpc != nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			// The SDK wants to see the answer itself, for one to find another
			// protocol version: it looks for no code in an error of its
			// transport.
			return resp, nil
		}
		oauthhttp.Drain(resp)
		return nil, wrong(rpc)
	case !asked.wanted:
		return resp, nil // the SDK does not read the answer to a notification
	case mediaType == "text/event-stream":
		resp.Body = (&stream{conn: c, req: req, asked: asked, from: resp}).body(resp.Body)
		return resp, nil
	case mediaType == "application/json":
		body, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1))
		_ = resp.Body.Close()
		if err != nil {
			// The connection broke while the answer came: to the caller that is as
			// if none had come.
			return nil, wrong(fmt.Errorf("%w: read answer: %w", ErrNoAnswer, err))
		}
		if body, err = c.whole(resp, body, asked); err != nil {
			return nil, wrong(err)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	oauthhttp.Drain(resp)
	return nil, wrong(nil)
}

func mediaTypeOf(resp *http.Response) string {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return mediaType
}

func isEvents(resp *http.Response) bool {
	return resp.StatusCode == http.StatusOK && mediaTypeOf(resp) == "text/event-stream"
}

// whole returns what the SDK gets in place of body, the JSON in resp: body itself, or
// a copy without the token, with the SDK's ID, or with the list ended.
func (c *conn) whole(resp *http.Response, body []byte, asked call) ([]byte, error) {
	w, err := c.bounds.check(body)
	if err != nil {
		return nil, err
	}
	given, err := responseTo(asked.id, body)
	if err != nil {
		return nil, err
	}
	r := c.auth.withoutToken(given, resp)
	// responseTo has made sure that this is an error. Its ID is missing, since the
	// server could not make out that of the call.
	if r.ID != asked.id {
		return nil, r.Error
	}
	page, err := c.paged(asked, r, w)
	if err != nil {
		return nil, err
	}
	c.hints.learn(asked, page)
	if page == given && asked.id == asked.sdkID {
		return body, nil // as it came
	}
	return jsonrpc.EncodeMessage(withID(page, asked.sdkID))
}

// responseTo decodes body, which must be the response to the request with id,
// or an error without an ID. Over anything else the SDK would end the session,
// or wait for ever.
func responseTo(id jsonrpc.ID, body []byte) (*jsonrpc.Response, error) {
	msg, err := jsonrpc.DecodeMessage(body)
	if err != nil {
		return nil, errors.New("answer is no JSON-RPC message")
	}
	switch r, ok := msg.(*jsonrpc.Response); {
	case !ok:
		return nil, errors.New("answer is no JSON-RPC response")
	case r.ID == id || r.Error != nil:
		return r, nil
	}
	return nil, errors.New("answer is the response to another request")
}

// withID returns a copy of r with that ID.
func withID(r *jsonrpc.Response, id jsonrpc.ID) *jsonrpc.Response {
	mine := *r
	mine.ID = id
	return &mine
}
