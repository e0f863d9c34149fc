package rotation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// A turn is what one of many processes does with its client, in this order.
type turn struct {
	Advance time.Duration // its clock moves
	Join    *join         // it connects
	Callers int           // so many goroutines
	Each    int           // make so many calls each; 0: one
	For     time.Duration // and go on for so long
	Leave   bool          // it closes session and client
}

type join struct {
	Place          place
	Server         string
	RequestTimeout time.Duration
	StopAt         string // the crash point at which the process stops itself
}

// A tally is what came of a turn, or of those of many processes.
type tally struct {
	Called int // calls that succeeded
	Dead   int // that failed with ErrDeadOnArrival in a RetryError
	Locked int // and with a LockTimeoutError in a RetryError
	Failed []string

	Longest  time.Duration   // that a call took
	Retry    time.Time       // the latest that a RetryError named
	Waited   []time.Duration // for a lock
	Holders  []string
	Browsers int // that were opened

	// Sent is when each request for a token was about to be sent: after what
	// was to be renewed was read, and before its new life begins.
	Sent []time.Time
}

func (t *tally) add(o tally) {
	t.Called += o.Called
	t.Dead += o.Dead
	t.Locked += o.Locked
	t.Longest = max(t.Longest, o.Longest)
	t.Failed = append(t.Failed, o.Failed...)
	if o.Retry.After(t.Retry) {
		t.Retry = o.Retry
	}
	t.Waited = append(t.Waited, o.Waited...)
	t.Holders = append(t.Holders, o.Holders...)
	t.Browsers += o.Browsers
	t.Sent = append(t.Sent, o.Sent...)
	slices.SortFunc(t.Sent, time.Time.Compare)
}

func (t tally) String() string {
	failed := fmt.Sprint(len(t.Failed), " failed")
	if len(t.Failed) > 0 {
		failed += ", one of them: " + t.Failed[0]
	}
	return fmt.Sprintf("%d successful calls, %d dead on arrival, %d locked, %d browsers, %d token requests, %s",
		t.Called, t.Dead, t.Locked, t.Browsers, len(t.Sent), failed)
}

// note takes down how a call ended.
func (t *tally) note(err error) {
	var retry *refresh.RetryError
	var locked *tokenstore.LockTimeoutError
	if errors.As(err, &retry) && retry.At.After(t.Retry) {
		t.Retry = retry.At
	}
	switch {
	case err == nil:
		t.Called++
	case retry != nil && errors.Is(err, refresh.ErrDeadOnArrival):
		t.Dead++
	case retry != nil && errors.As(err, &locked):
		t.Locked++
		t.Waited, t.Holders = append(t.Waited, locked.Waited), append(t.Holders, locked.Holder)
	default:
		t.Failed = append(t.Failed, err.Error())
	}
}

// This is what a process keeps from one turn to the next.
var (
	client   *mcpclient.Client
	session  *mcp.ClientSession
	browsers atomic.Int32

	sentMu sync.Mutex
	sent   []time.Time
)

func (o *turn) take() (t tally) {
	// Longer than anything that is waited for, and shorter than go test waits.
	ctx, cancel := context.WithTimeout(context.Background(), o.For+3*time.Minute)
	defer cancel()
	clock.Advance(o.Advance)
	if o.Join != nil {
		if err := o.Join.connect(ctx); err != nil {
			t.note(err)
			o.Callers = 0
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range o.Callers {
		wg.Go(func() {
			end := time.Now().Add(o.For)
			for n := 0; n < max(o.Each, 1) || time.Now().Before(end); n++ {
				if o.For > 0 {
					time.Sleep(50 * time.Millisecond)
				}
				began := time.Now()
				err := call(ctx)
				mu.Lock()
				t.note(err)
				t.Longest = max(t.Longest, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if o.Leave {
		if session != nil {
			_ = session.Close()
		}
		if err := client.Close(); err != nil {
			t.Failed = append(t.Failed, err.Error())
		}
	}
	t.Browsers = int(browsers.Swap(0))
	sentMu.Lock()
	defer sentMu.Unlock()
	t.Sent, sent = sent, nil
	return t
}

func (j *join) connect(ctx context.Context) (err error) {
	var once sync.Once
	crashpoint.Arm(func(point string) {
		if point == "refresh.marked" {
			sentMu.Lock()
			sent = append(sent, clock.Now())
			sentMu.Unlock()
		}
		if point == j.StopAt {
			once.Do(stop)
		}
	})
	client = &mcpclient.Client{
		Name: "Acme Notes", Server: j.Server, Store: j.Place.open(), OpenBrowser: browse, RequestTimeout: j.RequestTimeout,
	}
	session, err = client.Connect(ctx)
	return err
}

// browse is the browser of somebody who is signed in and has approved.
func browse(ctx context.Context, url string) error {
	browsers.Add(1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := testenv.NewBrowser().Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close()
}

// call calls a tool that only reads.
func call(ctx context.Context) error {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err == nil && res.IsError {
		err = fmt.Errorf("tool error: %v", res.Content[0])
	}
	return err
}

// A crew is processes that share an account.
type crew []*testenv.Process

func spawn(t *testing.T, n int) crew {
	t.Helper()
	c := make(crew, n)
	for i := range c {
		c[i] = testenv.Spawn(t)
	}
	return c
}

// do has all processes take the same turn at the same time, and adds up.
func (c crew) do(t *testing.T, o turn) (sum tally) {
	t.Helper()
	c.send(o)
	return c.receive(t)
}

func (c crew) send(o turn) {
	for _, p := range c {
		p.Send(order{Turn: &o})
	}
}

func (c crew) receive(t *testing.T) (sum tally) {
	t.Helper()
	for i, p := range c {
		var a answer
		if !p.Receive(&a) {
			t.Fatalf("process %d died", i)
		}
		sum.add(a.Tally)
	}
	return sum
}

// seed stores a session that a sign-in has left so long ago.
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
