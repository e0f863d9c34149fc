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
	"github.com/astravue/mcp-client-go/tokenstore/postgres"
)

var killsFlag = flag.Int("kills", 0, "how often a process is killed at each point; 0: 5 times, in the long mode 500")

func killsPerPoint() int {
	n := 5
	if long {
		n = 500
	}
	return cmp.Or(*killsFlag, n)
}

// What no crash point can name: the child waits for the answer to its token request. The server
// has the request and has not looked at it yet, or has carried it out and not answered yet.
const (
	notCarriedOut = "request sent, not carried out"
	carriedOut    = "request sent, carried out"
)

// A startOrder has a child use a grant, as a program does that has just been started.
type startOrder struct {
	Place place
	Key   tokenstore.Key
	Point string // where it dies: "point#2" is the second time that point is passed
}

// A startAnswer is what came of it.
type startAnswer struct {
	Token  string // good for the API
	Err    string // "" if there is a token
	Login  bool   // the error is that somebody has to sign in
	Lost   bool   // because the answer was lost
	Points []string
}

// String keeps the token out of logs.
func (a *startAnswer) String() string {
	if a == nil {
		return "killed"
	}
	return cmp.Or(a.Err, "a token")
}

func (o startOrder) follow() *startAnswer {
	var points []string
	hits := map[string]int{}
	crashpoint.Arm(func(point string) {
		hits[point]++
		point = fmt.Sprintf("%s#%d", point, hits[point])
		if point == o.Point {
			crashpoint.Kill()
		}
		points = append(points, point)
	})
	a := useGrant(o.Place.open(), o.Key)
	a.Points = points
	return a
}

// useGrant asks a new Source for an access token.
func useGrant(store tokenstore.Store, key tokenstore.Key) *startAnswer {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source := refresh.New(refresh.Config{Store: store, Key: key})
	access, err := source.Access(ctx)
	if err := errors.Join(err, source.Close()); err != nil {
		return &startAnswer{
			Err:   err.Error(),
			Login: errors.Is(err, refresh.ErrLoginRequired),
			Lost:  errors.Is(err, refresh.ErrAnswerLost),
		}
	}
	return &startAnswer{Token: access.Token.Reveal()}
}

// A process that renews a grant is killed at every point that it passes, over and over. Each time
// the record is whole, and the next process to start goes on with it; only where the server has
// rotated the token and the answer was not saved does it say so, after one try.
//
// Each point is a subtest with a store and a server of its own, so that a long run can be cut
// between any two of them. Its counts are those of the points that were asked for.
func TestKills(t *testing.T) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		var mu sync.Mutex
		var sum toll
		t.Run(kind, func(t *testing.T) {
			points := points(t, kind)
			saved := slices.Index(points, "refresh.saved#1")
			for i, point := range points {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					n := newScene(t, kind).killAt(t, point, killsPerPoint())
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

// A process that finds out that the answer to an earlier one was lost is killed as well, at every
// point that it passes. The third one comes to the same end, by one more try or without.
func TestKilledAgain(t *testing.T) {
	for _, kind := range []string{"keychain", "file", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t, kind)
			s.mustDie(t, carriedOut)
			a, _ := s.run(t, "")
			if a == nil || !a.Lost {
				t.Fatalf("after a lost answer the next process got %v", a)
			}
			for _, point := range append(a.Points, notCarriedOut, carriedOut) {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					s := newScene(t, kind)
					for range max(1, killsPerPoint()/5) {
						s.killAgain(t, point)
						s.signIn(t)
					}
				})
			}
		})
	}
}

// A toll counts what became of the killed.
type toll struct {
	points, kills int
	old, new      int // records, whole
	survived      int // sessions
	answerLost    int // sessions that were lost for this reason
	unreachable   int // entries that the next save left behind
}

func (n *toll) add(m toll) {
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
	s := newScene(t, kind)
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

// A scene is where the killing takes place: a grant in a store, and the server that issues it.
type scene struct {
	place   place
	store   tokenstore.Store
	key     tokenstore.Key
	sandbox *sandbox.Server
	door    *door
	grant   *tokenstore.Grant // of the last sign-in

	empty, whole int // how many entries the store has without the grant, and with it
}

func newScene(t *testing.T, kind string) *scene {
	// The token makes a record of two parts in a keychain, with or without a refresh token.
	srv := start(t, sandbox.Options{TokenSize: 2500})
	s := &scene{place: newPlace(t, kind), key: tokenstore.GrantKey(srv.URL(), ""), sandbox: srv, door: newDoor(t)}
	s.store = s.place.open()
	t.Cleanup(func() { closeStore(s.store) })
	s.signIn(t)
	s.whole = len(s.place.entries(t))
	if err := s.store.Delete(t.Context(), s.key); err != nil {
		t.Fatal(err)
	}
	s.empty = len(s.place.entries(t))
	s.signIn(t)
	return s
}

// closeStore ends the connections of a store that a process does not keep until its end.
func closeStore(s tokenstore.Store) {
	if s, ok := s.(*postgres.Store); ok {
		s.Pool.Close()
	}
}

// signIn saves a grant as a sign-in does, but that its access token has expired.
func (s *scene) signIn(t *testing.T) {
	t.Helper()
	tokens, err := s.sandbox.Issue("mia", sandbox.IssueOptions{Scopes: []string{"profile", "email"}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Round(0)
	s.grant = &tokenstore.Grant{
		Server: s.sandbox.URL(), SignIn: "sign-in", Issuer: s.sandbox.Issuer(), TokenEndpoint: s.door.URL,
		ClientID: tokens.ClientID, AuthMethod: "none", Resource: tokens.Resource, ScopesGranted: strings.Fields(tokens.Scope),
		AccessToken: tokenstore.NewSecret(tokens.AccessToken), ObtainedAt: now.Add(-time.Hour), ExpiresAt: now.Add(-time.Minute),
		RefreshToken: tokenstore.NewSecret(tokens.RefreshToken),
	}
	s.door.opens(tokens.TokenEndpoint)
	if err := s.store.Update(t.Context(), s.key, func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Save(ctx, tokenstore.Record{Grant: s.grant}); err != nil {
			return err
		}
		return l.SetMark(ctx, tokenstore.Mark{})
	}); err != nil {
		t.Fatalf("a sign-in: %v", err)
	}
}

// run starts a process that uses the grant, and that dies at the point, if there is one.
func (s *scene) run(t *testing.T, point string) (a *startAnswer, lived bool) {
	t.Helper()
	p := testenv.Spawn(t)
	s.door.watch(p, point)
	p.Send(order{Start: &startOrder{s.place, s.key, point}})
	var answered answer
	lived = p.Receive(&answered)
	s.door.watch(nil, "")
	_ = p.Stop()
	return answered.Start, lived
}

func (s *scene) mustDie(t *testing.T, point string) {
	t.Helper()
	if _, lived := s.run(t, point); lived {
		t.Fatalf("the process that was to die at %s lived", point)
	}
}

// killAt kills processes at the point and has others go on after them.
func (s *scene) killAt(t *testing.T, point string, times int) toll {
	n := toll{points: 1}
	for range times {
		saved := s.kill(t, point, &n)
		if !saved {
			s.signIn(t)
		}
		if extra := len(s.place.entries(t)) - s.whole; extra != 0 {
			t.Errorf("kill %d: after the next save there are %d entries more than before", n.kills, extra)
			n.unreachable += extra
		}
		if saved {
			s.signIn(t)
		}
	}
	if n.answerLost < times && (point == "refresh.answered#1" || point == carriedOut) {
		t.Errorf("of %d lost answers %d cost the session: the test tests nothing", times, n.answerLost)
	}
	t.Logf("%d kills: %d records intact, %d of them old and %d new; %d sessions survived, %d were lost because the answer was",
		n.kills, n.old+n.new, n.old, n.new, n.survived, n.answerLost)
	if err := s.store.Delete(t.Context(), s.key); err != nil {
		t.Error(err)
	}
	if left := s.place.entries(t); len(left) != s.empty {
		t.Errorf("after a logout there is still %q", left)
	}
	return n
}

// kill kills one process and lets the next one go on, which may save a grant.
func (s *scene) kill(t *testing.T, point string, n *toll) (saved bool) {
	t.Helper()
	old := s.grant
	s.mustDie(t, point)
	n.kills++
	requests, issued := s.door.seen()

	fresh := s.place.open()
	defer closeStore(fresh)
	rec, err := fresh.Get(t.Context(), s.key)
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

	var next *startAnswer
	if n.kills == 1 { // in a process of its own, as it would be
		if next, _ = s.run(t, ""); next == nil {
			t.Fatal("the next process died")
		}
	} else {
		next = useGrant(fresh, s.key)
	}
	tries, _ := s.door.seen()
	tries -= requests
	switch lost := issued != nil && !renewed; {
	case lost && next.Lost:
		n.answerLost++
	case lost:
		t.Errorf("kill %d: the answer was lost, and the next process says %q", n.kills, next.Err)
	case next.Err != "":
		t.Errorf("kill %d: the next process has no token: %s", n.kills, next.Err)
	case !s.accepts(t, next.Token):
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

// killAgain kills a process that waits for an answer, and at the point the next one.
func (s *scene) killAgain(t *testing.T, point string) {
	t.Helper()
	s.mustDie(t, carriedOut)
	s.mustDie(t, point)
	requests, _ := s.door.seen()

	fresh := s.place.open()
	defer closeStore(fresh)
	rec, err := fresh.Get(t.Context(), s.key)
	if err != nil {
		t.Fatalf("read the record: %v", err)
	}
	given := *s.grant // as it is kept when its refresh token is given up
	given.RefreshToken = tokenstore.Secret{}
	sendable := reflect.DeepEqual(rec.Grant, s.grant)
	if !sendable && !reflect.DeepEqual(rec.Grant, &given) {
		t.Error("stored is neither the grant nor what is left of it")
	}
	a := useGrant(fresh, s.key)
	tries, _ := s.door.seen()
	tries -= requests
	if !a.Login || a.Lost != sendable || (tries == 1) != sendable || tries > 1 {
		t.Errorf("with a token to send (%v) the third process got %v by %d requests", sendable, a, tries)
	}
	if !sendable {
		s.signIn(t)
	}
	if extra := len(s.place.entries(t)) - s.whole; extra != 0 {
		t.Errorf("after the next save there are %d entries more than before", extra)
	}
}

// accepts reports whether the API takes the token, whose session it looks at.
func (s *scene) accepts(t *testing.T, token string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.sandbox.APIURL()+"/api/v1/projects", nil)
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

// A door is the token endpoint as the processes know it. It passes requests on, knows what was
// issued, and kills who waits there for an answer.
type door struct {
	*httptest.Server

	mu       sync.Mutex
	endpoint string // behind it
	requests int
	issued   *issued // by the last request, nil if it was refused
	victim   *testenv.Process
	point    string
}

// issued is what is compared of an answer (RFC 6749 §5.1).
type issued struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
}

// renews returns what is stored when the answer to a refresh of g has been saved. When it came is
// taken from the record.
func (i *issued) renews(g, rec *tokenstore.Grant) *tokenstore.Grant {
	n := *g
	n.AccessToken, n.RefreshToken = tokenstore.NewSecret(i.AccessToken), tokenstore.NewSecret(i.RefreshToken)
	n.ObtainedAt, n.ExpiresAt, n.RefreshExpiresAt = rec.ObtainedAt, rec.ExpiresAt, rec.RefreshExpiresAt
	return &n
}

func newDoor(t *testing.T) *door {
	d := &door{}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Server.Close)
	return d
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	d.issued = nil
	_ = r.ParseForm()
	d.killIf(notCarriedOut)
	resp, err := http.PostForm(d.endpoint, r.PostForm)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		d.issued = new(issued)
		_ = json.Unmarshal(body, d.issued)
	}
	d.killIf(carriedOut)
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body)
}

// killIf kills the process that is to die at the point. It is dead before its connection is closed.
func (d *door) killIf(point string) {
	if d.victim != nil && d.point == point {
		_ = d.victim.Process.Kill()
		_ = d.victim.Wait()
		panic(http.ErrAbortHandler)
	}
}

// opens sets what is behind the door, and forgets what has passed it.
func (d *door) opens(endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endpoint, d.requests, d.issued = endpoint, 0, nil
}

// watch names who is to die where. It waits for a request under way.
func (d *door) watch(p *testenv.Process, point string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.victim, d.point = p, point
}

// seen returns the requests since the last sign-in, and what the last of them brought.
func (d *door) seen() (requests int, issued *issued) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests, d.issued
}
