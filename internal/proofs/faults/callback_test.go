package faults

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/mcpclient"
)

// An arrival is something that happens while a sign-in waits for its callback.
type arrival struct {
	name   string
	play   func(*visit)
	change func(*visit) // of the client, before its first use
}

// An arrivalDecision is what becomes of some arrivals.
type arrivalDecision struct {
	on     []*arrival
	answer string // to the browser, in visit.answers' words
	err    string // what identity says; waits: the sign-in goes on
	store  string // what kept.changes says
}

const (
	waits     = "waits" // the sign-in still does, and the right answer ends it
	portTaken = "step 5, `*callback.PortError`, `syscall.EADDRINUSE`"
	nobody    = "nobody answers"
	noAnswer  = "–"

	pageSignedIn = "200 “You are signed in”"
	pageDenied   = "403 “Access was not allowed”"
	pageFailed   = "500 “The sign-in failed”"
	pageIgnored  = "400 “This belongs to another sign-in”"
	pageNotFound = "404 “There is nothing here”"
	pageMethod   = "405 “There is nothing here”"
	pageFinished = "410 “This sign-in is already finished”"
)

// A visit is a sign-in whose browser has stopped before it comes back: what comes is the arrival's.
type visit struct {
	*env
	came   chan *url.URL // where the browser was sent back to
	back   *url.URL
	cookie *http.Cookie // that the browser has for it
	pasted chan string
	told   chan error // of what was pasted
	said   error
	done   chan error // Login's
	taken  net.Listener
	cancel context.CancelFunc

	mu      sync.Mutex
	answers []string
}

// A request without the state of this sign-in changes nothing, whoever sends it, and learns only
// that it is not wanted. A request with the state is an answer of the server, sent through the
// user's browser; the first one counts. No answer costs more than this sign-in: the session that
// was there before stays, and so does the registration.
var arrivalDecisions = []arrivalDecision{
	{
		on: []*arrival{
			get("another path", "/other"), get("favicon", "/favicon.ico"), get("a slash more", "/callback/"),
			get("the path in another spelling", "/%63allback"), get("the path with two slashes", "//callback"),
			request("`OPTIONS *`", "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n"),
		},
		answer: pageNotFound, err: waits, store: registered,
	},
	{on: []*arrival{method("POST"), method("PUT"), method("OPTIONS")}, answer: pageMethod, err: waits, store: registered},
	{on: []*arrival{method("HEAD")}, answer: "200 and nothing", err: waits, store: registered},
	{
		on:     []*arrival{host("a rebound name", "evil.example"), host("another port", "127.0.0.1:1"), host("`localhost` for the literal", "localhost:PORT")},
		answer: "421 and nothing", err: waits, store: registered,
	},
	{
		on: []*arrival{
			query("no state", func(q url.Values) { q.Del("state") }),
			query("an empty state", func(q url.Values) { q.Set("state", "") }),
			query("a wrong state", func(q url.Values) { q.Set("state", "wrong") }),
			query("the state twice", func(q url.Values) { q.Add("state", q.Get("state")) }),
			query("the right state and a wrong one", func(q url.Values) { q.Add("state", "wrong") }),
			query("the state under another name", func(q url.Values) { q["State"] = q["state"]; q.Del("state") }),
			query("an error without the state", func(q url.Values) { clear(q); q.Set("error", "access_denied") }),
			query("nothing", func(q url.Values) { clear(q) }),
			query("a query of 20 kB", func(q url.Values) { q.Set("x", strings.Repeat("a", 20<<10)) }),
			{name: "a query that cannot be read", play: func(v *visit) { v.get(v.back.Path + "?" + v.back.RawQuery + "&x=%zz") }},
		},
		answer: pageIgnored, err: waits, store: registered,
	},
	{
		on: []*arrival{
			query("a query of 100 kB", func(q url.Values) { q.Set("x", strings.Repeat("a", 100<<10)) }),
		},
		answer: "431 and a line", err: waits, store: registered,
	},
	{on: []*arrival{request("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")}, answer: "400 and a line", err: waits, store: registered},
	{
		on: []*arrival{{name: "fifty requests that never end their headers", play: func(v *visit) {
			for range 50 {
				conn, err := net.Dial("tcp", v.back.Host)
				if err != nil {
					v.t.Error(err)
					return
				}
				v.t.Cleanup(func() { _ = conn.Close() })
				_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n", v.back.RequestURI(), v.back.Host)
			}
		}}},
		answer: noAnswer, err: waits, store: registered,
	},
	{
		on: []*arrival{{name: "the browser cannot be opened", play: func(v *visit) {
			for !strings.Contains(v.log.String(), "no browser could be opened") {
				time.Sleep(time.Millisecond)
			}
		}, change: func(v *visit) {
			open := v.client.OpenBrowser
			v.client.OpenBrowser = func(ctx context.Context, address string) error {
				return errors.Join(open(ctx, address), errors.New("exec: xdg-open: no display for "+address))
			}
		}}},
		answer: noAnswer, err: waits, store: registered,
	},

	{
		on: []*arrival{
			query("the right answer", func(url.Values) {}),
			query("with parameters that nobody knows", func(q url.Values) { q.Set("session_state", "x"); q.Set("x", "y") }),
			request("fetched before it is shown", "GET TARGET HTTP/1.1\r\nHost: HOST\r\nSec-Purpose: prefetch\r\n\r\n"),
		},
		answer: pageSignedIn, err: "none", store: signedIn,
	},
	{
		on: []*arrival{{name: "the browser hangs up at once", play: func(v *visit) {
			conn, err := net.Dial("tcp", v.back.Host)
			if err != nil {
				v.t.Error(err)
				return
			}
			_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\n\r\n", v.back.RequestURI(), v.back.Host, v.cookie)
			_ = conn.Close()
		}}},
		answer: noAnswer, err: "none", store: signedIn,
	},
	{
		on:     []*arrival{{name: "the right answer, and a second tab's while it is checked", play: (*visit).secondTab}},
		answer: pageSignedIn + ", " + pageFinished, err: "none", store: signedIn,
	},
	{
		on: []*arrival{{name: "the right answer, and a reload", play: func(v *visit) {
			v.get(v.back.RequestURI())
			v.done <- <-v.done // it has ended
			v.get(v.back.RequestURI())
		}}},
		answer: pageSignedIn + ", " + nobody, err: "none", store: signedIn,
	},

	{on: []*arrival{refusal("access_denied")}, answer: pageDenied, err: "step 5, `*authcode.AuthorizationError`", store: registered},
	{
		on: []*arrival{
			refusal("server_error"), refusal("temporarily_unavailable"), refusal("invalid_scope"), refusal("login_required"),
			query("a hostile description", func(q url.Values) {
				description := "\x1b[2J\u202e\r\n" + q.Get("code") + q.Get("state") + strings.Repeat(" and so on", 100)
				q.Set("error", "server_error")
				q.Set("error_description", description)
			}),
			query("a code and an error", func(q url.Values) { q.Set("error", "server_error") }),
		},
		answer: pageFailed, err: "step 5, `*authcode.AuthorizationError`", store: registered,
	},
	{
		on: []*arrival{
			query("another `iss`", func(q url.Values) { q.Set("iss", "https://"+elsewhereHost) }),
			query("the `iss` with a slash more", func(q url.Values) { q.Set("iss", q.Get("iss")+"/") }),
			query("the right `iss` and another", func(q url.Values) { q.Add("iss", "https://"+elsewhereHost) }),
			query("no `iss`, though promised", func(q url.Values) { q.Del("iss") }),
			query("an error of another `iss`", func(q url.Values) { q.Set("iss", "https://"+elsewhereHost); q.Set("error", "access_denied") }),
		},
		answer: pageFailed, err: "step 5, `*authcode.IssuerError`", store: registered,
	},
	{
		on: []*arrival{
			query("the `iss` twice", func(q url.Values) { q.Add("iss", q.Get("iss")) }),
			query("no code", func(q url.Values) { q.Del("code") }),
			query("an empty code", func(q url.Values) { q.Set("code", "") }),
			query("the code twice", func(q url.Values) { q.Add("code", q.Get("code")) }),
			query("two codes", func(q url.Values) { q.Add("code", "another") }),
		},
		answer: pageFailed, err: "step 5, `authcode.ErrNoCode`", store: registered,
	},

	{
		on: []*arrival{
			paste("garbage is pasted", func(*visit) string { return "hello" }),
			paste("an address with another path is pasted", func(v *visit) string { return "http://" + v.back.Host + "/other?" + v.back.RawQuery }),
			paste("20 kB are pasted", func(v *visit) string { return v.back.String() + strings.Repeat("a", 20<<10) }),
			paste("another sign-in's address is pasted", func(v *visit) string {
				return v.with(func(q url.Values) { q.Set("state", "another") })
			}),
		},
		answer: noAnswer, err: waits, store: registered,
	},
	{
		on: []*arrival{
			paste("the right address is pasted", func(v *visit) string { return "  " + v.back.String() + "\r\n" }),
			paste("its query is pasted", func(v *visit) string { return v.back.RawQuery }),
			paste("it is pasted from another computer", func(v *visit) string { return "localhost:3142/callback?" + v.back.RawQuery }),
		},
		answer: noAnswer, err: "none", store: signedIn,
	},
	{
		on: []*arrival{paste("a refusal is pasted", func(v *visit) string {
			return v.with(func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") })
		})},
		answer: noAnswer, err: "step 5, `*authcode.AuthorizationError`", store: registered,
	},

	{
		on: []*arrival{{name: "nobody comes back", play: (*visit).afterwards, change: func(v *visit) {
			v.client.SignInTimeout = 10 * time.Second // in which it has to come so far
		}}},
		answer: nobody, err: "step 5, " + deadline, store: registered,
	},
	{
		on:     []*arrival{{name: "the caller cancels", play: func(v *visit) { v.cancel(); v.afterwards() }}},
		answer: nobody, err: "step 5, `context.Canceled`", store: registered,
	},

	{
		on: []*arrival{{name: "the port of the registration is taken", change: func(v *visit) {
			earlier := &mcpclient.Client{Name: appName, Server: serverURL, Store: v.store, Transport: v.env, OpenBrowser: v.browse}
			if err := earlier.Login(context.Background(), nil); err != nil {
				v.t.Fatal(err)
			}
			_ = earlier.Close()
			port, err := url.Parse(v.kept().registration.RedirectURI)
			if err != nil {
				v.t.Fatal(err)
			}
			v.occupy(port.Host)
		}}},
		answer: noAnswer, err: waits, store: "as it was",
	},
	{
		on: []*arrival{{name: "the port that the caller wants is taken", change: func(v *visit) {
			v.client.Registration.RedirectURL = "http://" + v.occupy("127.0.0.1:0") + "/callback"
		}}},
		answer: noAnswer, err: portTaken, store: "as it was",
	},
}

func get(name, target string) *arrival {
	return &arrival{name: name, play: func(v *visit) { v.get(target + "?" + v.back.RawQuery) }}
}

func request(name, text string) *arrival {
	return &arrival{name: name, play: func(v *visit) { v.send(text) }}
}

func method(name string) *arrival {
	return request("`"+name+"`", name+" TARGET HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n")
}

func host(name, host string) *arrival {
	return request(name+" in `Host`", "GET TARGET HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
}

func query(name string, change func(url.Values)) *arrival {
	return &arrival{name: name, play: func(v *visit) { v.get(v.back.Path + v.with(change)) }}
}

func refusal(code string) *arrival {
	return query("`"+code+"`", func(q url.Values) { q.Del("code"); q.Set("error", code) })
}

func paste(name string, text func(*visit) string) *arrival {
	return &arrival{name: name, play: func(v *visit) { v.pasted <- text(v) }}
}

// with returns the query of the right answer, changed.
func (v *visit) with(change func(url.Values)) string {
	q := v.back.Query()
	change(q)
	return "?" + q.Encode()
}

func (v *visit) get(target string) {
	v.send("GET " + target + " HTTP/1.1\r\nHost: HOST\r\n\r\n")
}

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

var title = regexp.MustCompile("<title>(.*)</title>")

// send writes a request as it is.
func (v *visit) send(text string) {
	_, port, _ := net.SplitHostPort(v.back.Host)
	text = strings.Replace(text, "\r\n\r\n", "\r\nCookie: "+v.cookie.String()+"\r\n\r\n", 1)
	text = strings.NewReplacer("TARGET", v.back.RequestURI(), "HOST", v.back.Host, "PORT", port).Replace(text)
	conn, err := net.Dial("tcp", v.back.Host)
	if err != nil {
		v.note(nobody)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, text) // of a large one the server does not read all
	method, _, _ := strings.Cut(text, " ")
	v.receive(conn, method)
}

// receive notes what is answered.
func (v *visit) receive(conn net.Conn, method string) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		v.note(fmt.Sprintf("no answer (%v)", err))
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	said := fmt.Sprint(resp.StatusCode)
	switch found := title.FindSubmatch(body); {
	case found != nil:
		said += " “" + string(found[1]) + "”"
	case len(body) == 0:
		said += " and nothing"
	default:
		said += " and a line"
	}
	v.note(said)
	for _, secret := range []string{v.back.Query().Get("state"), v.back.Query().Get("code")} {
		if strings.Contains(string(body)+fmt.Sprint(resp.Header), secret) {
			v.t.Errorf("the answer %s shows a secret", said)
		}
	}
}

func (v *visit) note(answer string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers = append(v.answers, answer)
}

// secondTab sends the right answer twice. The exchange of the first waits for the second.
func (v *visit) secondTab() {
	arrived := make(chan struct{})
	v.startFault(codeExchange, &fault{play: func(s *strike) {
		close(arrived)
		<-s.ended
		s.forward(s.rw, s.r, s.body)
	}})
	var both sync.WaitGroup
	both.Go(func() { v.get(v.back.RequestURI()) })
	<-arrived
	conn, err := net.Dial("tcp", v.back.Host)
	if err != nil {
		v.t.Fatal(err)
	}
	_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\n\r\n", v.back.RequestURI(), v.back.Host, v.cookie)
	time.Sleep(time.Second) // it is read
	v.endFault()
	both.Wait()
	v.receive(conn, http.MethodGet)
}

// afterwards comes back when the sign-in has ended.
func (v *visit) afterwards() {
	v.done <- <-v.done
	for { // whoever cancels does not wait until the port is given back
		conn, err := net.Dial("tcp", v.back.Host)
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	v.get(v.back.RequestURI())
}

func (v *visit) occupy(address string) (host string) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return address // by somebody else
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = l.Close() })
	v.taken = l
	return l.Addr().String()
}

// stop is a browser in which the user signs in and approves, and that does not come back.
func (v *visit) stop(ctx context.Context, address string) error {
	browser, end := v.newBrowser()
	defer end()
	browser.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if r.URL.Hostname() == "127.0.0.1" {
			return http.ErrUseLastResponse
		}
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := browser.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		return err
	}
	for _, c := range browser.Jar.Cookies(back) {
		v.cookie = c
	}
	v.came <- back
	return nil
}

func callbackList(t *testing.T, s *suite) string {
	var arrivals []*arrival
	of := map[*arrival]arrivalDecision{}
	for _, d := range arrivalDecisions {
		for _, a := range d.on {
			arrivals = append(arrivals, a)
			of[a] = d
		}
	}
	labels := make([]string, len(arrivals))
	for i, a := range arrivals {
		labels[i] = a.name
	}
	read := make([]string, len(arrivals))
	s.cases(t, labels, func(t *testing.T, i int) { read[i] = s.arrive(t, arrivals[i], of[arrivals[i]]) })
	var rows [][]string
	next := 0
	for _, d := range arrivalDecisions {
		var sentences []string
		for range d.on {
			if s := read[next]; s != "" && !slices.Contains(sentences, s) {
				sentences = append(sentences, s)
			}
			next++
		}
		err, text := d.err, strings.Join(sentences, "<br>")
		switch {
		case err == waits:
			err = "none, the sign-in waits on"
		case err == "none":
			err = "none, signed in"
		}
		rows = append(rows, []string{strings.Join(labels[next-len(d.on):next], "; "), d.answer, err, d.store, cmp.Or(text, "nothing")})
	}
	return callbackText + table([]string{"what comes", "answer to the browser", "error", "store", "the user reads"}, rows)
}

const callbackText = `An older session is there. After each row the right answer, or another sign-in, signs in. That
the port is taken while the sign-in waits cannot occur: it is bound before the browser opens,
and given back when the page has been served.

`

// arrive plays a to a sign-in where an older session is there.
func (s *suite) arrive(t *testing.T, a *arrival, d arrivalDecision) string {
	v := &visit{came: make(chan *url.URL, 1), pasted: make(chan string), told: make(chan error, 1), done: make(chan error, 1)}
	v.env = newEnv(t, s.servers, s.servers.modern, nil)
	var over atomic.Bool
	v.client.OpenBrowser = func(ctx context.Context, address string) error {
		if over.Load() {
			return v.browse(ctx, address)
		}
		return v.stop(ctx, address)
	}
	if a.change != nil {
		a.change(v)
	}
	v.seed(time.Now().Add(time.Hour))
	before := v.kept()
	err := v.signIn(a, d, before)
	over.Store(true)
	if d.err != waits {
		if got := identity(err); got != d.err {
			t.Errorf("error: %s\nwant: %s\n%v", got, d.err, err)
		}
		if got := v.kept().changes(before); got != d.store {
			t.Errorf("the store: %s, want: %s", got, d.store)
		}
	} else if err != nil {
		t.Errorf("the right answer: %v", err)
	}
	v.mu.Lock()
	if got := strings.Join(v.answers, ", "); got != d.answer && !(got == "" && d.answer == noAnswer) {
		t.Errorf("answers: %s\nwant: %s", got, d.answer)
	}
	v.mu.Unlock()
	v.env.mu.Lock()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		v.wantNoSecret("an error under "+verb, fmt.Sprintf(verb, err))
	}
	v.env.mu.Unlock()
	session, again := v.connect() // with the older session, or with the new one
	if again == nil {
		again = v.call(session)
	}
	if again != nil {
		t.Errorf("the session: %v", again)
	}
	if v.taken != nil {
		_ = v.taken.Close()
	}
	if err != nil {
		if err := v.login(); err != nil {
			t.Errorf("another sign-in: %v", err)
		}
	}
	if got := v.kept().changes(before); !strings.HasPrefix(got, "a new grant") {
		t.Errorf("at last, the store: %s", got)
	}
	if v.said != nil {
		err = v.said
	}
	return ports.ReplaceAllString(sentence(err), "127.0.0.1:PORT")
}

// signIn signs in, and has a happen when the browser would come back.
func (v *visit) signIn(a *arrival, d arrivalDecision, before kept) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	v.cancel = cancel
	go func() {
		v.done <- v.client.Login(ctx, &mcpclient.LoginOptions{Pasted: v.pasted, OnIgnored: func(err error) { v.told <- err }})
	}()
	if d.err == portTaken {
		return v.ended()
	}
	select {
	case v.back = <-v.came:
	case <-time.After(patience):
		v.t.Fatalf("the browser does not open\n%s", stacks())
	}
	v.env.mu.Lock()
	v.secrets = append(v.secrets, v.back.Query().Get("state"), v.back.Query().Get("code"), v.cookie.Value)
	v.env.mu.Unlock()
	if a.play != nil {
		a.play(v)
	}
	if d.err != waits {
		return v.ended()
	}
	if strings.HasSuffix(a.name, "pasted") {
		if v.said = <-v.told; !errors.Is(v.said, callback.ErrIgnored) {
			v.t.Errorf("told: %v", v.said)
		}
	}
	if got := v.kept().changes(before); got != d.store {
		v.t.Errorf("the store: %s, want: %s", got, d.store)
	}
	answers := slices.Clone(v.answers)
	v.get(v.back.RequestURI())
	if got := v.answers[len(answers):]; !slices.Equal(got, []string{pageSignedIn}) {
		v.t.Errorf("the right answer is answered with %q", got)
	}
	v.answers = answers
	return v.ended()
}

func (v *visit) ended() error {
	select {
	case err := <-v.done:
		return err
	case <-time.After(patience):
		v.t.Fatalf("Login hangs\n%s", stacks())
		panic("not reached")
	}
}
