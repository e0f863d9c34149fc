package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// openStream answers a GET at once and feeds it from as many upstream streams
// as it takes. The SDK's Connect would wait for a stream that is refused, and
// an outage would end its session.
func (c *conn) openStream(req *http.Request) *http.Response {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(req.Context())
	f := c.newFeed(req, w)
	go func() { w.CloseWithError(f.run(ctx)) }() // io.EOF is an end without error
	return eventAnswer(req, &feedBody{r, cancel})
}

// eventAnswer is an answer that begins at once.
func eventAnswer(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/event-stream"}},
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

// feedBody is what the SDK reads of a feed. Closing it ends the feed.
type feedBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *feedBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

const (
	// resumeTries bounds how often the stream of a call is asked for again.
	resumeTries = 5
	backoffMin  = time.Second
	backoffMax  = 30 * time.Second
)

// A feed is the answer to one GET of the SDK's: the standalone stream, or the
// stream of a call that the SDK resumes. One goroutine runs it, and nothing
// else touches its fields.
type feed struct {
	conn *conn
	req  *http.Request
	w    io.Writer // to the SDK

	resuming bool // it is the stream of a call, and ends with the answer
	// call is that call's stream. If resuming is false, or the call is not known, it
	// is a stream of no call: its see still screens what the server sends.
	call *stream

	tried    bool          // the server was asked at least once: session is set
	last     string        // ID of the last event, at which the server is to go on; "": at any
	session  string        // of the last try, to which the ID belongs
	streamed string        // the last session in which the server had a stream
	retry    time.Duration // between two tries, as an event asks for; for good
	wait     time.Duration // before the next try, as the answer to the last one asks for
	failures int           // tries in a row without an event
}

// newFeed returns the feed for a GET of the SDK's. With Last-Event-ID the SDK resumes
// the stream of a call, usually one that is parked. Otherwise it asks for the
// standalone stream.
func (c *conn) newFeed(req *http.Request, w io.Writer) *feed {
	f := &feed{conn: c, req: req, w: w, last: req.Header.Get(lastEventIDHeader)}
	f.resuming = f.last != ""
	if f.call = c.parked.take(f.last); f.call == nil {
		f.call = &stream{conn: c, req: req}
	}
	return f
}

// A verdict is what one try of a feed has come to.
type verdict int

const (
	failed   verdict = iota // there was no event: try again, after a longer wait each time
	fed                     // there were events, or a new session: try again
	quiet                   // the server has nothing to say in this session
	lost                    // the call's answer cannot be had any more
	finished                // the SDK has the call's answer, or reads no more
)

// run copies events to the SDK until ctx ends or, for the stream of a call,
// until that is answered or cannot be had any more. The standalone stream never ends
// by itself: the SDK would end its session.
func (f *feed) run(ctx context.Context) error {
	for wait := time.Duration(0); ; wait = max(f.wait, f.retry, backoff(f.failures)) {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		result, why := f.once(ctx)
		switch result {
		case fed:
			f.failures = 0
		case failed:
			// A caller waits for the answer of a call, and is not left to wait for
			// long. Nobody waits for the standalone stream.
			if f.failures++; f.resuming && (f.failures >= resumeTries || f.wait > backoffMax) {
				return f.lose(io.EOF)
			}
		case quiet:
			if f.resuming {
				return f.lose(io.EOF)
			}
			if err := f.nextSession(ctx); err != nil {
				return err
			}
			f.failures = 0
		case lost:
			return f.lose(why)
		case finished:
			return why
		}
	}
}

// once asks the server for its stream and copies the events. The error belongs
// to the verdicts lost and finished.
func (f *feed) once(ctx context.Context) (verdict, error) {
	f.wait = 0
	r, id := f.conn.session.tag(f.req.Clone(ctx))
	if f.tried && id != f.session { // a POST or this feed has begun a new one
		if f.resuming {
			return lost, io.EOF // the answer went with the session
		}
		f.last = "" // event IDs mean nothing in another session
		r.Header.Del(lastEventIDHeader)
	}
	f.tried, f.session = true, id
	if f.last != "" {
		r.Header.Set(lastEventIDHeader, f.last)
	}
	resp, err := f.conn.followed(r, nil, askNever, nil) // nobody waits for this stream
	switch {
	case err != nil:
		if resp != nil {
			oauthhttp.Drain(resp)
		}
		if errors.Is(err, ErrClosed) || forbids(err) {
			return quiet, nil // another try in this session would end alike
		}
		return failed, nil // the network, or no token: somebody may sign in meanwhile
	case isEvents(resp):
		return f.copy(resp)
	}
	oauthhttp.Drain(resp)
	if resp.StatusCode == http.StatusNotFound && id != "" {
		if f.resuming || f.streamed != id {
			return quiet, nil // of a session that never had a stream, 404 means what 405 does
		}
		// No call waits for the new session, so no browser is opened for it.
		if f.conn.revive(ctx, id, call{}) != nil {
			return failed, nil
		}
		return fed, nil
	}
	// Not a stream, and not the end of a session.
	f.wait = oauthhttp.RetryAfter(resp.Header)
	if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
		return quiet, nil // 405 and its like: the server has nothing to say on its own
	}
	return failed, nil
}

// copy copies the events of resp to the SDK, until resp ends or the SDK has what it
// wants. The end of resp is nothing special: servers and proxies end long streams.
func (f *feed) copy(resp *http.Response) (verdict, error) {
	defer resp.Body.Close()
	f.streamed, f.call.from = f.session, resp
	result := failed
	for events := f.conn.newEventReader(resp.Body); ; {
		e, err := events.next()
		switch {
		case errors.Is(err, ErrTooLarge) && f.resuming:
			return lost, err // it may have been the answer, and would come again
		case errors.Is(err, ErrTooLarge):
			f.last = "" // or the event would come again
			return result, nil
		case err != nil:
			return result, nil
		}
		result = fed
		f.call.see(&e)
		if len(e.raw) == 0 {
			continue // see has taken out all of it
		}
		f.last = cmp.Or(e.id, f.last)
		if e.retry > 0 {
			f.retry = min(e.retry, backoffMax)
		}
		if _, err := f.w.Write(e.raw); err != nil {
			return finished, err // the SDK has closed its side
		}
		if f.resuming && e.isResponse() {
			return finished, io.EOF
		}
	}
}

// nextSession waits until the session is another one. The server had nothing to
// say in this one, but a POST may begin another. It looks twice a minute, and not
// more: nobody waits for the standalone stream.
func (f *feed) nextSession(ctx context.Context) error {
	for live := f.session; live == f.session; _, live = f.conn.session.tag(f.req) {
		if err := sleep(ctx, backoffMax); err != nil {
			return err
		}
	}
	return nil
}

// lose ends the stream of a call whose answer cannot be had any more. If the call is
// known, it writes first what comes in place of the answer, see [stream.instead].
func (f *feed) lose(why error) error {
	if f.call.asked.wanted {
		instead := f.call.instead(why)
		defer instead.Close()
		if _, err := io.Copy(f.w, instead); err != nil {
			return err
		}
	}
	return io.EOF
}

// sleep waits for d, or returns the error of ctx if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// backoff returns how long to wait after so many failures in a row: half of it
// for certain and half by chance, so that clients do not come back all at once.
func backoff(failures int) time.Duration {
	d := backoffMin << min(failures, 6)
	d = min(d, backoffMax)
	return d/2 + rand.N(d/2)
}
