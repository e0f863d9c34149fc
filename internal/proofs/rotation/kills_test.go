package rotation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

var killsFlag = flag.Int("kills", 0, "how often a process is killed at each point; 0: once, 5 times where every part must be, in the long mode 500")

func killsPerPoint() int {
	n := 1
	if os.Getenv(testenv.CI) == "1" {
		n = 5
	}
	if long {
		n = 500
	}
	return cmp.Or(*killsFlag, n)
}

// Two points that are no crash points of the client: the child waits for the answer to its token
// request. The server has the request and has not looked at it yet, or it has issued new tokens and
// has not answered yet.
const (
	notCarriedOut = "request sent, not carried out"
	carriedOut    = "request sent, carried out"
)

// A useTask has a child use a grant, as a program does that has just been started.
type useTask struct {
	Store storeSpec
	Key   tokenstore.Key
	Point string // where the child dies: "point#2" is the second time that it passes the point
}

// A useResult says whether the child has a token, and which points it passed.
type useResult struct {
	Token  string // good for the API
	Err    string // "" if there is a token
	Login  bool   // the error is that somebody has to sign in
	Lost   bool   // because the answer was lost
	Points []string
}

// String keeps the token out of logs.
func (a *useResult) String() string {
	if a == nil {
		return "killed"
	}
	return cmp.Or(a.Err, "a token")
}

func (u useTask) run() *useResult {
	var points []string
	hits := map[string]int{}
	crashpoint.Arm(func(point string) {
		hits[point]++
		point = fmt.Sprintf("%s#%d", point, hits[point])
		if point == u.Point {
			crashpoint.Kill()
		}
		points = append(points, point)
	})
	r := useGrant(u.Store.open(), u.Key)
	r.Points = points
	return r
}

// useGrant asks a new Source for an access token.
func useGrant(store tokenstore.Store, key tokenstore.Key) *useResult {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source := refresh.New(refresh.Config{Store: store, Key: key})
	access, err := source.Access(ctx)
	if err := errors.Join(err, source.Close()); err != nil {
		return &useResult{
			Err:   err.Error(),
			Login: errors.Is(err, refresh.ErrLoginRequired),
			Lost:  errors.Is(err, refresh.ErrAnswerLost),
		}
	}
	return &useResult{Token: access.Token.Reveal()}
}

// A process that renews a grant is killed at every point that it passes, over and over. Each time
// the record is whole, and the next process to start goes on with it. Only where the server had
// rotated the token and its answer was not saved is the session lost: the next process tries once
// and says so.
//
// Each point is a subtest with a store and a server of its own, so that a long run can be cut
// between any two of them. The counts are those of the points that -run chose.
func TestKills(t *testing.T) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		var mu sync.Mutex
		var sum killResult
		t.Run(kind, func(t *testing.T) {
			points := points(t, kind)
			saved := slices.Index(points, "refresh.saved#1")
			for i, point := range points {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					n := newKillEnv(t, kind).killAt(t, point, killsPerPoint())
					if i >= saved && n.new < n.kills {
						t.Errorf("%d of %d grants were not stored although they had been saved", n.kills-n.new, n.kills)
					}
					mu.Lock()
					defer mu.Unlock()
					sum.add(n)
				})
			}
		})
		if sum.kills > 0 {
			testenv.Count(t, "kills", "store", kind, "points", sum.points, "kills", sum.kills, "intact", sum.old+sum.new,
				"survived", sum.survived, "lost", sum.kills-sum.survived, "because the answer was lost", sum.answerLost,
				"unreachable entries", sum.unreachable)
		}
	}
}

// One process is killed before the answer to its refresh is saved. A second one, which finds out,
// is killed as well, at every point that it passes. A third one says that somebody has to sign in,
// after one more try or, if the second one had already given the token up, without.
func TestKilledAgain(t *testing.T) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			s := newKillEnv(t, kind)
			s.mustDie(t, carriedOut)
			a, _ := s.run(t, "")
			if a == nil || !a.Lost {
				t.Fatalf("after a lost answer the next process got %v", a)
			}
			for _, point := range append(a.Points, notCarriedOut, carriedOut) {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					s := newKillEnv(t, kind)
					for range max(1, killsPerPoint()/5) {
						s.killAgain(t, point)
						s.signIn(t)
					}
				})
			}
		})
	}
}

// A killResult counts the kills of one point, or of many, and what was found after each.
type killResult struct {
	points, kills int
	old, new      int // records that were whole: as before the refresh, or as after it
	survived      int // sessions
	answerLost    int // sessions that ended because an answer was not saved
	unreachable   int // entries that the next save left behind
}

func (n *killResult) add(m killResult) {
	n.points += m.points
	n.kills += m.kills
	n.old += m.old
	n.new += m.new
	n.survived += m.survived
	n.answerLost += m.answerLost
	n.unreachable += m.unreachable
}

// points returns all points at which a refresh with this kind of store can be killed, in order.
func points(t *testing.T, kind string) []string {
	s := newKillEnv(t, kind)
	a, lived := s.run(t, "")
	if !lived || a.Err != "" {
		t.Fatalf("a process that nobody kills got %v", a)
	}
	want := []string{"refresh.locked#1", "refresh.marked#1", "refresh.answered#1", "refresh.saved#1", "refresh.cleared#1", "refresh.released#1"}
	if kind == "keychain" {
		want = append(want, "tokenstore.keychain.part-written#2") // or a record would have one part only
	}
	for _, point := range want {
		if !slices.Contains(a.Points, point) {
			t.Fatalf("%s is not passed", point)
		}
	}
	return slices.Insert(a.Points, slices.Index(a.Points, "refresh.answered#1"), notCarriedOut, carriedOut)
}

// A killEnv is what the processes of one point share: a grant in a store, the server that issued it,
// and the proxy through which they reach its token endpoint.
type killEnv struct {
	spec    storeSpec
	store   tokenstore.Store
	key     tokenstore.Key
	sandbox *sandbox.Server
	proxy   *tokenProxy
	grant   *tokenstore.Grant // of the last sign-in

	empty, whole int // how many entries the store has without the grant, and with it
}

func newKillEnv(t *testing.T, kind string) *killEnv {
	// The token makes a record of two parts in a keychain, with or without a refresh token.
	srv := startSandbox(t, sandbox.Options{TokenSize: 2500})
	e := &killEnv{spec: newStoreSpec(t, kind), key: tokenstore.GrantKey(srv.URL(), ""), sandbox: srv, proxy: newTokenProxy(t)}
	e.store = e.spec.open()
	t.Cleanup(func() { closeStore(e.store) })
	e.signIn(t)
	e.whole = len(e.spec.entries(t))
	if err := e.store.Delete(t.Context(), e.key); err != nil {
		t.Fatal(err)
	}
	e.empty = len(e.spec.entries(t))
	e.signIn(t)
	return e
}

// signIn saves a grant as a sign-in does, but that its access token has expired.
func (e *killEnv) signIn(t *testing.T) {
	t.Helper()
	tokens, err := e.sandbox.Issue("mia", sandbox.IssueOptions{Scopes: []string{"profile", "email"}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Round(0)
	e.grant = &tokenstore.Grant{
		Server: e.sandbox.URL(), SignIn: "sign-in", Issuer: e.sandbox.Issuer(), TokenEndpoint: e.proxy.URL,
		ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now.Add(-time.Hour), ExpiresAt: now.Add(-time.Minute),
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
	}
	e.proxy.front(tokens.TokenEndpoint)
	if err := e.store.Update(t.Context(), e.key, func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Save(ctx, tokenstore.Record{Grant: e.grant}); err != nil {
			return err
		}
		return l.SetMark(ctx, tokenstore.Mark{})
	}); err != nil {
		t.Fatalf("a sign-in: %v", err)
	}
}

// run starts a child that uses the grant and dies at the point, unless that is "". lived is false if
// the child has died.
func (e *killEnv) run(t *testing.T, point string) (a *useResult, lived bool) {
	t.Helper()
	child := testenv.Spawn(t)
	e.proxy.watch(child, point)
	child.Send(task{Use: &useTask{e.spec, e.key, point}})
	var got result
	lived = child.Receive(&got)
	e.proxy.watch(nil, "")
	_ = child.Stop()
	return got.Use, lived
}

func (e *killEnv) mustDie(t *testing.T, point string) {
	t.Helper()
	if _, lived := e.run(t, point); lived {
		t.Fatalf("the process that was to die at %s lived", point)
	}
}

// killAt kills a process at the point, so many times, and has another one go on after each.
func (e *killEnv) killAt(t *testing.T, point string, times int) killResult {
	n := killResult{points: 1}
	for range times {
		saved := e.kill(t, point, &n)
		if !saved {
			e.signIn(t)
		}
		if extra := len(e.spec.entries(t)) - e.whole; extra != 0 {
			t.Errorf("kill %d: after the next save there are %d entries more than before", n.kills, extra)
			n.unreachable += extra
		}
		if saved {
			e.signIn(t)
		}
	}
	if n.answerLost < times && (point == "refresh.answered#1" || point == carriedOut) {
		t.Errorf("of %d lost answers %d cost the session: the test tests nothing", times, n.answerLost)
	}
	t.Logf("%d kills: %d records intact, %d of them old and %d new; %d sessions survived, %d were lost because the answer was",
		n.kills, n.old+n.new, n.old, n.new, n.survived, n.answerLost)
	if err := e.store.Delete(t.Context(), e.key); err != nil {
		t.Error(err)
	}
	if left := e.spec.entries(t); len(left) != e.empty {
		t.Errorf("after a logout there is still %q", left)
	}
	return n
}

// kill kills one process and checks what it left: a whole record, old or new, with which the next
// process goes on. saved reports whether that one had to save a grant.
func (e *killEnv) kill(t *testing.T, point string, n *killResult) (saved bool) {
	t.Helper()
	old := e.grant
	e.mustDie(t, point)
	n.kills++
	requests, issued := e.proxy.seen()

	fresh := e.spec.open()
	defer closeStore(fresh)
	rec, err := fresh.Get(t.Context(), e.key)
	renewed := false
	switch {
	case err != nil:
		t.Errorf("kill %d: read the record: %v", n.kills, err)
	case reflect.DeepEqual(rec.Grant, old):
		n.old++
	case issued != nil && reflect.DeepEqual(rec.Grant, issued.renews(old, rec.Grant)):
		n.new++
		renewed = true
	default:
		t.Errorf("kill %d: stored is neither the old nor the new grant", n.kills)
	}

	var next *useResult
	if n.kills == 1 { // in a process of its own, as it would be
		if next, _ = e.run(t, ""); next == nil {
			t.Fatal("the next process died")
		}
	} else {
		next = useGrant(fresh, e.key)
	}
	tries, _ := e.proxy.seen()
	tries -= requests
	// The server has spent the old refresh token, and nobody has the new one.
	switch lost := issued != nil && !renewed; {
	case lost && next.Lost:
		n.answerLost++
	case lost:
		t.Errorf("kill %d: the answer was lost, and the next process says %q", n.kills, next.Err)
	case next.Err != "":
		t.Errorf("kill %d: the next process has no token: %s", n.kills, next.Err)
	case !e.accepts(t, next.Token):
		t.Errorf("kill %d: the next process has a token that the server refuses", n.kills)
	default:
		n.survived++
	}
	want := 1
	if renewed {
		want = 0
	}
	if tries != want {
		t.Errorf("kill %d: %d more token requests, want %d", n.kills, tries, want)
	}
	return tries > 0
}

// killAgain kills one process that waits for an answer, and then another one at the point.
func (e *killEnv) killAgain(t *testing.T, point string) {
	t.Helper()
	e.mustDie(t, carriedOut)
	e.mustDie(t, point)
	requests, _ := e.proxy.seen()

	fresh := e.spec.open()
	defer closeStore(fresh)
	rec, err := fresh.Get(t.Context(), e.key)
	if err != nil {
		t.Fatalf("read the record: %v", err)
	}
	// The second process has given the refresh token up, or died before that. Then the third sends it.
	givenUp := *e.grant
	givenUp.RefreshToken = tokenstore.Secret{}
	sendable := reflect.DeepEqual(rec.Grant, e.grant)
	if !sendable && !reflect.DeepEqual(rec.Grant, &givenUp) {
		t.Error("stored is neither the grant nor the grant without its refresh token")
	}
	a := useGrant(fresh, e.key)
	tries, _ := e.proxy.seen()
	tries -= requests
	if !a.Login || a.Lost != sendable || (tries == 1) != sendable || tries > 1 {
		t.Errorf("with a token to send (%v) the third process got %v by %d requests", sendable, a, tries)
	}
	if !sendable {
		e.signIn(t)
	}
	if extra := len(e.spec.entries(t)) - e.whole; extra != 0 {
		t.Errorf("after the next save there are %d entries more than before", extra)
	}
}

// accepts reports whether the API takes the token, whose session it looks at.
func (e *killEnv) accepts(t *testing.T, token string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.sandbox.APIURL()+"/api/v1/projects", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// A tokenProxy stands before the token endpoint, and its URL is the stored one. It passes requests
// on, remembers what was issued, and kills the child that waits for an answer, if told to.
type tokenProxy struct {
	*httptest.Server

	mu       sync.Mutex
	endpoint string // the sandbox'e
	requests int
	issued   *issued // by the last request, nil if it was refused
	victim   *testenv.Child
	point    string // where the victim dies
}

// issued are the tokens of an answer (RFC 6749 §5.1).
type issued struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
}

// renews returns the grant that is stored after a refresh of g whose answer was saved. Its times are
// those of rec, since only the child knows when the answer came.
func (i *issued) renews(g, rec *tokenstore.Grant) *tokenstore.Grant {
	n := *g
	n.AccessToken, n.RefreshToken = tokenstore.NewSecret(i.AccessToken), tokenstore.NewSecret(i.RefreshToken)
	n.ObtainedAt, n.ExpiresAt, n.RefreshExpiresAt = rec.ObtainedAt, rec.ExpiresAt, rec.RefreshExpiresAt
	return &n
}

func newTokenProxy(t *testing.T) *tokenProxy {
	d := &tokenProxy{}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Server.Close)
	return d
}

func (p *tokenProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.issued = nil
	_ = r.ParseForm()
	p.killIf(notCarriedOut)
	resp, err := http.PostForm(p.endpoint, r.PostForm)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		p.issued = new(issued)
		_ = json.Unmarshal(body, p.issued)
	}
	p.killIf(carriedOut)
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body)
}

// killIf kills the victim if it dies at this point. It is dead before its connection is closed, so it
// sees no end of its request.
func (p *tokenProxy) killIf(point string) {
	if p.victim != nil && p.point == point {
		_ = p.victim.Process.Kill()
		_ = p.victim.Wait()
		panic(http.ErrAbortHandler)
	}
}

// front puts the proxy before an endpoint, and forgets what it has seen.
func (p *tokenProxy) front(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endpoint, p.requests, p.issued = endpoint, 0, nil
}

// watch sets the child to kill, and the point. It waits for a request under way.
func (p *tokenProxy) watch(child *testenv.Child, point string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.victim, p.point = child, point
}

// seen returns how many requests came since the last sign-in, and the tokens that the last one brought.
func (p *tokenProxy) seen() (requests int, issued *issued) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, p.issued
}
