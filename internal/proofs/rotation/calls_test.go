package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A callTask is what a child does with its client, in the order of the fields. A child keeps its client
// and session from one task to the next, so that a test can connect all children first, then move
// their clocks past the end of the token, and then have all of them call at one moment.
type callTask struct {
	Advance time.Duration // the child's clock moves
	Connect *connectTask  // the child connects; nil: it is connected
	Callers int           // so many goroutines call
	Each    int           // so many times; 0: once
	For     time.Duration // and go on for so long
	Leave   bool          // the child closes session and client
}

type connectTask struct {
	Store          storeSpec
	Server         string
	RequestTimeout time.Duration
	StopAt         string // the crash point at which the child stops itself, as by SIGSTOP
}

// A callResult is the result of a callTask, or the sum of many.
type callResult struct {
	Called int      // calls that succeeded
	Dead   int      // that failed with ErrDeadOnArrival in a RetryError
	Locked int      // and with a LockTimeoutError in a RetryError
	Failed []string // all others

	Longest  time.Duration   // that a call took
	Retry    time.Time       // the latest that a RetryError named
	Waited   []time.Duration // for a lock
	Holders  []string        // of the lock, as the errors name them
	Browsers int             // that were opened

	// Sent is when each request for a token was about to be sent: after the old token was read, and
	// before the life of the new one begins.
	Sent []time.Time
}

func (r *callResult) add(o callResult) {
	r.Called += o.Called
	r.Dead += o.Dead
	r.Locked += o.Locked
	r.Longest = max(r.Longest, o.Longest)
	r.Failed = append(r.Failed, o.Failed...)
	if o.Retry.After(r.Retry) {
		r.Retry = o.Retry
	}
	r.Waited = append(r.Waited, o.Waited...)
	r.Holders = append(r.Holders, o.Holders...)
	r.Browsers += o.Browsers
	r.Sent = append(r.Sent, o.Sent...)
	slices.SortFunc(r.Sent, time.Time.Compare)
}

func (r callResult) String() string {
	failed := fmt.Sprint(len(r.Failed), " failed")
	if len(r.Failed) > 0 {
		failed += ", one of them: " + r.Failed[0]
	}
	return fmt.Sprintf("%d successful calls, %d dead on arrival, %d locked, %d browsers, %d token requests, %s",
		r.Called, r.Dead, r.Locked, r.Browsers, len(r.Sent), failed)
}

// count adds a call that ended with err.
func (r *callResult) count(err error) {
	var retry *refresh.RetryError
	var locked *tokenstore.LockTimeoutError
	if errors.As(err, &retry) && retry.At.After(r.Retry) {
		r.Retry = retry.At
	}
	switch {
	case err == nil:
		r.Called++
	case retry != nil && errors.Is(err, refresh.ErrDeadOnArrival):
		r.Dead++
	case retry != nil && errors.As(err, &locked):
		r.Locked++
		r.Waited, r.Holders = append(r.Waited, locked.Waited), append(r.Holders, locked.Holder)
	default:
		r.Failed = append(r.Failed, err.Error())
	}
}

// What a child keeps from one task to the next.
var (
	client   *mcpclient.Client
	session  *mcp.ClientSession
	browsers atomic.Int32

	sentMu sync.Mutex
	sent   []time.Time
)

func (c *callTask) run() (r callResult) {
	// Longer than any wait in a test, and shorter than the timeout of go test.
	ctx, cancel := context.WithTimeout(context.Background(), c.For+3*time.Minute)
	defer cancel()
	clock.Advance(c.Advance)
	if c.Connect != nil {
		if err := c.Connect.connect(ctx); err != nil {
			r.count(err)
			c.Callers = 0
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range c.Callers {
		wg.Go(func() {
			end := time.Now().Add(c.For)
			for n := 0; n < max(c.Each, 1) || time.Now().Before(end); n++ {
				if c.For > 0 {
					time.Sleep(50 * time.Millisecond)
				}
				began := time.Now()
				err := call(ctx)
				mu.Lock()
				r.count(err)
				r.Longest = max(r.Longest, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if c.Leave {
		if session != nil {
			_ = session.Close()
		}
		if err := client.Close(); err != nil {
			r.Failed = append(r.Failed, err.Error())
		}
	}
	r.Browsers = int(browsers.Swap(0))
	sentMu.Lock()
	defer sentMu.Unlock()
	r.Sent, sent = sent, nil
	return r
}

func (c *connectTask) connect(ctx context.Context) (err error) {
	var once sync.Once
	crashpoint.Arm(func(point string) {
		if point == "refresh.marked" { // the refresh token is about to be sent
			sentMu.Lock()
			sent = append(sent, clock.Now())
			sentMu.Unlock()
		}
		if point == c.StopAt {
			once.Do(stop)
		}
	})
	client = &mcpclient.Client{
		Name: "Acme Notes", Server: c.Server, Store: c.Store.open(), RequestTimeout: c.RequestTimeout,
		OpenBrowser: func(ctx context.Context, page string) error {
			browsers.Add(1)
			return testenv.Visit(ctx, page)
		},
	}
	session, err = client.Connect(ctx)
	return err
}

// call calls a tool that only reads.
func call(ctx context.Context) error {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err == nil && res.IsError {
		err = fmt.Errorf("tool error: %v", res.Content[0])
	}
	return err
}

// children share an account.
type children []*testenv.Child

func spawn(t *testing.T, n int) children {
	t.Helper()
	c := make(children, n)
	for i := range c {
		c[i] = testenv.Spawn(t)
	}
	return c
}

// do gives all children the task at one moment, and adds up their results.
func (c children) do(t *testing.T, todo callTask) (sum callResult) {
	t.Helper()
	c.send(todo)
	return c.receive(t)
}

func (c children) send(todo callTask) {
	for _, child := range c {
		child.Send(task{Call: &todo})
	}
}

func (c children) receive(t *testing.T) (sum callResult) {
	t.Helper()
	for i, child := range c {
		var r result
		if !child.Receive(&r) {
			t.Fatalf("child %d died", i)
		}
		sum.add(r.Call)
	}
	return sum
}

// seed stores the grant of a sign-in of so long ago.
func seed(t *testing.T, store tokenstore.Store, srv *sandbox.Server, ago time.Duration) (obtained time.Time) {
	t.Helper()
	tokens, err := srv.Issue("mia", sandbox.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	srv.Advance(ago)
	now := clock.Now().Add(-ago)
	err = store.Update(t.Context(), key(srv), func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Server: srv.URL(), Issuer: srv.Issuer(), TokenEndpoint: tokens.TokenEndpoint,
			ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
			AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now, ExpiresAt: now.Add(tokens.ExpiresIn),
			RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
		}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func key(srv *sandbox.Server) tokenstore.Key { return tokenstore.GrantKey(srv.URL(), "") }
