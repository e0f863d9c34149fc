package mcpclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// A keptMessage is a POST that can be made again.
type keptMessage struct {
	header http.Header
	body   []byte
}

// mcpSession is the session at the server, and what it takes to begin another
// one in its place (MCP 2025-11-25, "Session Management"). The SDK does not
// learn of the new one: it goes on with the first session ID, since it would end its
// session over another one. A server without sessions has neither ID.
type mcpSession struct {
	// reviving has one place, taken by whoever begins a new session. It is no
	// mutex, since those who wait for the place may be cancelled.
	reviving chan struct{}

	mu          sync.Mutex   // guards what follows
	initialize  *keptMessage // as the SDK sent it; nil: not yet
	initialized *keptMessage // as the SDK sent it; nil: not yet
	known       string       // the session ID that the SDK knows; "": none
	live        string       // the session ID that the server knows; "": none
}

// tag returns req with the session ID that the server knows, and that ID. A
// request without a session ID stays without.
func (s *mcpSession) tag(req *http.Request) (*http.Request, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Header.Get(sessionHeader) == "" {
		return req, ""
	}
	req = req.Clone(req.Context())
	if s.live == "" { // the server began the new session without an ID
		req.Header.Del(sessionHeader)
	} else {
		req.Header.Set(sessionHeader, s.live)
	}
	return req, s.live
}

// note takes the session ID from an answer's header, if it has one, and puts
// the one there that the SDK knows. Only the answer to initialize begins a
// session: any other answer may belong to an older one.
func (s *mcpSession) note(header http.Header, initialize bool) {
	id := header.Get(sessionHeader)
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == "" {
		s.known = id
		s.live = id
	}
	if initialize {
		s.live = id
	}
	header.Set(sessionHeader, s.known)
}

// keep remembers a message of the handshake, to send it again.
func (s *mcpSession) keep(req *http.Request, method string) {
	body, err := newBody(req)
	if err != nil || body == nil {
		return
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return
	}
	m := &keptMessage{req.Header.Clone(), data}
	// Both are set when the message is sent again: neither will be the one it had.
	m.header.Del(sessionHeader)
	m.header.Del("Authorization")
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == "initialize" {
		s.initialize = m
	} else {
		s.initialized = m
	}
}

// current returns the kept handshake and the session ID that the server knows.
func (s *mcpSession) current() (initialize, initialized *keptMessage, live string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.initialize, s.initialized, s.live
}

// replace makes id the session ID that the server knows.
func (s *mcpSession) replace(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = id
}

// revive begins a new session at the server in place of stale, which the server
// has forgotten. It does nothing if another goroutine has done so already. asked is
// the call that met with it: if somebody waits for that, a sign-in may be started.
func (c *conn) revive(ctx context.Context, stale string, asked call) error {
	select {
	case c.session.reviving <- struct{}{}:
		defer func() { <-c.session.reviving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	first, second, live := c.session.current()
	if live != stale {
		return nil
	}
	if first == nil || second == nil { // forgotten during the handshake itself
		return mcp.ErrSessionMissing
	}
	start := time.Now()
	id, version, err := c.handshake(ctx, first, asked)
	// The SDK has put the version of the first handshake on its second message.
	if want := second.header.Get(versionHeader); err == nil && version != want {
		// The SDK speaks the version of the first handshake and cannot change.
		err = fmt.Errorf("the server came back with protocol version %s, the session has %s", text.Quote(version), text.Quote(want))
	}
	if err == nil {
		_, err = c.replay(ctx, second, id, asked, nil)
	}
	c.audit(ctx, StepConnect, "new session", "", start, err)
	if errors.Is(err, ErrNoAnswer) {
		// The handshake had no answer. The call itself was not carried out, so
		// its error must not wrap ErrNoAnswer.
		err = errors.New(err.Error())
	}
	if err != nil {
		return fmt.Errorf("the server has forgotten the session and takes no new one: %w", err)
	}
	c.log.Warn("the server had forgotten the session; what it kept in memory for it is lost", "step", StepConnect.String())
	// The server may be another version by now. The old hints go first: once the new
	// session is there, a new list may be learned.
	c.hints.forget()
	c.session.replace(id)
	return nil
}

// handshake sends initialize, for the call that was asked, and returns the new
// session's ID and protocol version.
func (c *conn) handshake(ctx context.Context, initialize *keptMessage, asked call) (id, version string, err error) {
	resp, err := c.replay(ctx, initialize, "", asked, func(resp *http.Response) error {
		r, err := c.firstResponse(resp)
		if err != nil {
			return err
		}
		if r.Error != nil {
			return c.auth.withoutToken(r, resp).Error
		}
		var result struct {
			Version string `json:"protocolVersion"`
		}
		err = json.Unmarshal(r.Result, &result)
		version = result.Version
		return err
	})
	if err != nil {
		return "", "", err
	}
	return resp.Header.Get(sessionHeader), version, nil
}

// firstResponse reads the answer to initialize: JSON, or the first response
// among events. Nothing else was asked, so its ID does not matter.
func (c *conn) firstResponse(resp *http.Response) (*jsonrpc.Response, error) {
	if mediaTypeOf(resp) == "text/event-stream" {
		for events := c.newEventReader(resp.Body); ; {
			e, err := events.next()
			if err != nil {
				return nil, err
			}
			if r, ok := e.msg.(*jsonrpc.Response); ok {
				return r, nil
			}
		}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1))
	if err != nil {
		return nil, err
	}
	if _, err := c.bounds.check(data); err != nil {
		return nil, err
	}
	msg, err := jsonrpc.DecodeMessage(data)
	if err != nil {
		return nil, err
	}
	r, ok := msg.(*jsonrpc.Response)
	if !ok {
		return nil, errors.New("answer to initialize is no response")
	}
	return r, nil
}

// replay posts a kept message in the session with id, or in none if id is "". It has
// read, if that is not nil, look at a good answer. A sign-in may be started for it
// if somebody waits for the call that was asked.
func (c *conn) replay(ctx context.Context, m *keptMessage, id string, asked call, read func(*http.Response) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.serverURL, bytes.NewReader(m.body))
	if err != nil {
		return nil, err
	}
	req.Header = m.header.Clone()
	if id != "" {
		req.Header.Set(sessionHeader, id)
	}
	may := askNever
	if asked.wanted {
		may = askAlways
	}
	resp, err := c.followed(req, nil, may, &c.attempt.latch)
	if err != nil {
		return nil, errorOnly(resp, err)
	}
	defer oauthhttp.Drain(resp)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &AnswerError{Status: resp.StatusCode}
	}
	if read != nil {
		err = read(resp)
	}
	return resp, err
}
