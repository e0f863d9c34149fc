package faults

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
)

// callDecisions: a call that may have reached the server is not repeated, since nothing says that it
// may be, and costs nothing but itself. What differs between an answer that is one JSON document
// and one that is a stream is told by the caller.
func callDecisions(streamed bool) []decision {
	either := func(document, stream string) string {
		if streamed {
			return stream
		}
		return document
	}
	answer := "`*mcpclient.AnswerError`"
	decisions := []decision{
		{on: []*fault{refusedConnection, dnsFailure, tlsFailure}, err: "cause", asked: 1, store: "as it was", after: goesOn},
		// The caller's own deadline.
		{on: []*fault{timeoutBefore, timeoutAfter, slowDrip}, err: "cause", asked: 1, store: "as it was", after: goesOn},
		{
			on:  []*fault{resetInBody},
			err: either("`*mcpclient.AnswerError`, `mcpclient.ErrNoAnswer`, cause", "`mcpclient.ErrNoAnswer`"), asked: 1, store: "as it was", after: goesOn,
		},
		{
			on:  []*fault{status400, status429, status500, status503, redirectAcross, redirectHTTP, redirectInside},
			err: answer, asked: 1, store: "as it was", after: goesOn,
		},
		// In the era of sessions the server may have forgotten this one: another is begun, once.
		{on: []*fault{status404}, err: answer, asked: map[bool]int{false: 1, true: 2}[streamed], store: "as it was", after: goesOn},
		{on: []*fault{status401}, err: "step 7, `*mcpclient.TokenRefusedError`", asked: 2, store: "renewed", after: goesOn},
		{on: []*fault{status403}, err: "step 7, `*mcpclient.ForbiddenError`", asked: 1, store: "as it was", after: goesOn},
		{on: []*fault{redirectWithin}, err: "none", asked: 1, followed: 1, store: "as it was", after: goesOn},
		{on: []*fault{duplicates}, err: "none", asked: 1, store: "as it was", after: goesOn}, // the SDK's to read
		{on: []*fault{html, wrongContentType}, err: answer, asked: 1, store: "as it was", after: goesOn},
		{on: []*fault{emptyBody, truncated}, err: either(answer, "`mcpclient.ErrNoAnswer`"), asked: 1, store: "as it was", after: goesOn},
		{on: []*fault{hugeBody}, err: either(answer+", `mcpclient.ErrTooLarge`", "`mcpclient.ErrTooLarge`"), asked: 1, store: "as it was", after: goesOn},
		{on: []*fault{wrongTypes}, err: "`*json.UnmarshalTypeError`", asked: 1, store: "as it was", after: goesOn},
	}
	return decisions
}

// connectDecisions: the SDK asks a second time, since an older server does not know what it asks
// first; not so where the server has said when to come again. What is asked first only reads: it is
// asked three times if the answer is lost.
var connectDecisions = []decision{
	{
		on:  []*fault{refusedConnection, dnsFailure, tlsFailure, timeoutBefore, timeoutAfter, slowDrip},
		err: "step 7, cause", asked: 2, store: "as it was", after: goesOn,
	},
	{
		on:  []*fault{resetInBody},
		err: "step 7, `*mcpclient.AnswerError`, `mcpclient.ErrNoAnswer`, cause", asked: 4, store: "as it was", after: goesOn,
	},
	{
		on: []*fault{
			status400, status404, status500, redirectAcross, redirectHTTP, redirectInside,
			html, wrongContentType, emptyBody, truncated,
		},
		err: "step 7, `*mcpclient.AnswerError`", asked: 2, store: "as it was", after: goesOn,
	},
	{on: []*fault{hugeBody}, err: "step 7, `*mcpclient.AnswerError`, `mcpclient.ErrTooLarge`", asked: 2, store: "as it was", after: goesOn},
	{on: []*fault{status429, status503}, err: "step 7, `*mcpclient.AnswerError`", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{status401}, err: "step 7, `*mcpclient.TokenRefusedError`", asked: 3, store: "renewed", after: goesOn},
	{on: []*fault{status403}, err: "step 7, `*mcpclient.ForbiddenError`", asked: 2, store: "as it was", after: goesOn},
	{on: []*fault{redirectWithin}, err: "none", asked: 1, followed: 1, store: "as it was", after: goesOn},
	{on: []*fault{duplicates}, err: "none", asked: 1, store: "as it was", after: goesOn},
	{on: []*fault{wrongTypes}, err: "step 7, `*json.UnmarshalTypeError`", asked: 2, store: "as it was", after: goesOn},
}

const callRule = `A call that may have reached the server is not made again, since nothing has said of this tool that it is
read-only or idempotent. It fails alone: the session lives. It waits for as long as its caller
does, and what bounds it here is the caller's deadline.

A call that is answered with a JSON document (without a session, MCP 2026-07-28):
`

func mcpPostList(t *testing.T, s *suite) string {
	var (
		document, stream, connect string
		kinds                     sync.WaitGroup
	)
	kinds.Go(func() { document = s.decided(t, callDecisions(false), s.callCase(false)) })
	kinds.Go(func() { stream = s.some(t, callDecisions(true), " streamed", s.callCase(true)) })
	kinds.Go(func() { connect = s.some(t, connectDecisions, " at Connect", s.connectCase) })
	kinds.Wait()
	return callRule + "\n" + document +
		"\nA call that is answered with a stream (in a session, MCP 2025-11-25):\n\n" + stream +
		"\nConnect:\n\n" + connect
}

// connectCase connects, and once more when the fault is gone.
func (s *suite) connectCase(t *testing.T, f *fault, d decision) error {
	e := newEnv(t, s.servers, s.servers.modern, func(c *mcpclient.Client) { c.NonInteractive = true })
	e.json = true
	e.seed(time.Now().Add(time.Hour))
	before := e.kept()
	e.startFault(connecting, f)
	session, err := timely(t, "Connect", func(ctx context.Context) (*mcp.ClientSession, error) {
		ctx, cancel := f.within(ctx)
		defer cancel()
		return e.client.Connect(ctx)
	})
	if err == nil {
		_ = session.Close()
	}
	e.want(f, d, err, before)
	e.endFault()
	session, again := e.connect()
	if again == nil {
		again = e.call(session)
	}
	if again != nil {
		t.Errorf("when the fault is gone: %v", again)
	}
	return err
}

// within gives a call the caller's deadline, where it needs one.
func (f *fault) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.stalls {
		return context.WithTimeout(ctx, shortly)
	}
	return context.WithCancel(ctx)
}

// callCase calls a tool, and once more in the same session when the fault is gone.
func (s *suite) callCase(streamed bool) caseFunc {
	return func(t *testing.T, f *fault, d decision) error {
		era := s.servers.modern
		if streamed {
			era = s.servers.legacy
		}
		e := newEnv(t, s.servers, era, func(c *mcpclient.Client) { c.NonInteractive = true })
		e.json = !streamed
		e.seed(time.Now().Add(time.Hour))
		session, err := e.connect()
		if err != nil {
			t.Fatal(err)
		}
		before := e.kept()
		e.startFault(mcpPost, f)
		_, err = timely(t, "CallTool", func(ctx context.Context) (*mcp.CallToolResult, error) {
			ctx, cancel := f.within(ctx)
			defer cancel()
			return call(ctx, session)
		})
		e.want(f, d, err, before)
		e.endFault()
		if err := e.call(session); err != nil {
			t.Errorf("when the fault is gone: %v", err)
		}
		return err
	}
}

const streamRule = `The stream on which the server may speak unasked. That it is not there is nobody's error: Connect and calls
go on. It is asked for again, after 1 to 2 s, and later each time, up to 30 s, and after Retry-After;
unless the server says with a 4xx that it has none. A deadline it has none, since it may be silent for
as long as it likes.
`

var streamDecisions = []decision{
	{
		on: []*fault{
			refusedConnection, dnsFailure, tlsFailure, resetInBody, emptyBody, hugeBody,
			status429, status500, status503, redirectAcross, redirectHTTP, redirectInside, html, wrongContentType,
		},
		err: "none", asked: many, store: "as it was", after: "the stream comes back",
	},
	{on: []*fault{status401}, err: "none", asked: many, store: "renewed", after: "the stream comes back"},
	{on: []*fault{redirectWithin}, err: "none", asked: 1, followed: 1, store: "as it was", after: "the stream goes on"},
	// It looks like a stream on which nothing is said.
	{
		on:  []*fault{timeoutBefore, timeoutAfter, slowDrip},
		err: "none", asked: 1, store: "as it was", after: "the stream comes back",
	},
	{
		on:  []*fault{duplicates},
		err: "none", asked: 1, store: "as it was", after: "the stream goes on",
	},
	{
		on:  []*fault{truncated, wrongTypes},
		err: "none", asked: 1, store: "as it was", after: "that event is lost, the stream goes on",
	},
	{on: []*fault{status400, status403, status404}, err: "none", asked: 1, store: "as it was", after: noStream},
}

func mcpGetList(t *testing.T, s *suite) string {
	var text string
	var kinds sync.WaitGroup
	kinds.Go(func() { text = s.decided(t, streamDecisions, s.streamCase) })
	kinds.Go(func() { s.cases(t, []string{"404 of a session that had a stream"}, s.forgottenCase) })
	kinds.Wait()
	return streamRule + "\n" + text + `
A 404 to a session that had a stream is that of a session that has ended: another one is begun, once.
`
}

// listening makes a client that has a stream, in the era that has one.
func (s *suite) listening(t *testing.T) *env {
	var e *env
	e = newEnv(t, s.servers, s.servers.legacy, func(c *mcpclient.Client) {
		c.NonInteractive = true
		c.MCP = &mcp.ClientOptions{
			Capabilities: &mcp.ClientCapabilities{},
			ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.events++
			},
		}
	})
	e.seed(time.Now().Add(time.Hour))
	return e
}

// streamCase connects, calls, and listens when the fault is gone.
func (s *suite) streamCase(t *testing.T, f *fault, d decision) error {
	e := s.listening(t)
	before := e.kept()
	e.startFault(mcpGet, f)
	session, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	if d.asked == many {
		e.await("a second request", func() bool { return e.seen().asked >= 2 })
	} else {
		time.Sleep(2 * time.Second) // a second request would come within it
	}
	if err := e.call(session); err != nil {
		t.Errorf("a call meanwhile: %v", err)
	}
	e.want(f, d, nil, before)
	least := 500 * time.Millisecond
	if f.waits {
		least = retryAfter
	}
	times := e.seen().times
	for i := 1; i < len(times) && f != status401; i++ { // which is asked again with another token
		if gap := times[i].Sub(times[i-1]); gap < least {
			t.Errorf("asked again after %v", gap)
		}
	}
	e.endFault()
	if d.after != noStream {
		e.await("an event when the fault is gone", func() bool { return e.heard() > 0 })
	}
	if err := e.call(session); err != nil {
		t.Errorf("when the fault is gone: %v", err)
	}
	if d.after == noStream && e.heard() > 0 {
		t.Error("there is a stream")
	}
	return nil
}

// forgottenCase has a server that takes the stream away and then knows of none: each new session
// would lose what the server keeps for it, so they must not follow one another.
func (s *suite) forgottenCase(t *testing.T, _ int) {
	e := s.listening(t)
	session, err := e.connect()
	if err != nil {
		t.Fatal(err)
	}
	e.await("an event", func() bool { return e.heard() > 0 })
	e.startFault(mcpGet, status404)
	e.proxy.CloseClientConnections()
	e.await("two requests", func() bool { return e.seen().asked >= 2 })
	time.Sleep(3 * time.Second) // a third one would come within it
	if asked := e.seen().asked; asked != 2 {
		t.Errorf("%d requests, want 2: one for each session", asked)
	}
	if err := e.call(session); err != nil {
		t.Error(err)
	}
}

// await waits for what happens off the path.
func (e *env) await(what string, ok func() bool) {
	e.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			e.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// noStream is what a server decides.
const noStream = "no stream"

func (e *env) heard() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.events
}
