package attacks

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// sandboxForBrowsers is one for all rows that sign in: none of them changes it.
var sandboxForBrowsers = sync.OnceValues(func() (*sandbox.Server, error) { return sandbox.Start(sandbox.Options{}) })

// A sitting is a sign-in under way: the person sits in front of the browser that is about to be
// opened, and others are faster.
type sitting struct {
	t       *testing.T
	client  *mcpclient.Client
	store   *tokenstore.Memory
	page    string // the address that the browser is opened with
	address string // the authorization URL, if the attacker was given it
	done    chan error

	host   string // of the redirect address
	person *http.Client
}

// sit begins one. change is of the client.
func sit(t *testing.T, change func(*mcpclient.Client)) *sitting {
	t.Helper()
	srv, err := sandboxForBrowsers()
	if err != nil {
		t.Fatal(err)
	}
	s := &sitting{t: t, store: new(tokenstore.Memory), done: make(chan error, 1), person: testenv.NewBrowser()}
	opened := make(chan string, 1)
	s.client = &mcpclient.Client{
		Name: "Acme Notes", Server: srv.URL(), Store: s.store, SignInTimeout: time.Minute,
		OpenBrowser: func(_ context.Context, page string) error { opened <- page; return nil },
	}
	if change != nil {
		change(s.client)
	}
	t.Cleanup(func() { _ = s.client.Close() })
	go func() { s.done <- s.client.Login(t.Context(), nil) }()
	select {
	case s.page = <-opened:
	case err := <-s.done:
		t.Fatal(err)
	}
	u, err := url.Parse(s.page)
	if err != nil {
		t.Fatal(err)
	}
	s.host = u.Host
	return s
}

// spied gives the attacker all that the person's browser has: the authorization URL and the
// cookie. It returns the attacker's own answer to that: the address with a code of mia's, and
// the right state.
func (s *sitting) spied() (answer *url.URL, cookie string) {
	s.t.Helper()
	var err error
	if s.address, err = testenv.Begin(s.t.Context(), s.person, s.page); err != nil {
		s.t.Fatal(err)
	}
	answer, err = signInAs("mia", s.address, testenv.NewBrowser())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range s.person.Jar.Cookies(answer) {
		cookie = c.String()
	}
	return answer, cookie
}

// ends has the person sign in, if they still can, and reports who is signed in.
func (s *sitting) ends() (who string, err error) {
	s.t.Helper()
	select {
	case err = <-s.done:
	default:
		back, failed := signInAs("olivia", s.page, s.person)
		if failed == nil {
			if resp, failed := s.person.Get(back.String()); failed == nil {
				_ = resp.Body.Close()
			}
		}
		select {
		case err = <-s.done:
		case <-time.After(10 * time.Second):
			return "", errors.Join(errors.New("the sign-in hangs"), failed)
		}
	}
	if err != nil {
		return "", err
	}
	held, err := s.store.Get(s.t.Context(), tokenstore.GrantKey(s.client.Server, ""))
	if err != nil {
		return "", err
	}
	return subject(held.Grant.AccessToken.Reveal()), nil
}

// comes is ends, in words of the table. Whatever is not the person's own sign-in is an attacker's
// success.
func (s *sitting) comes(seen string) (won bool, _ string) {
	s.t.Helper()
	who, err := s.ends()
	switch {
	case err != nil:
		return true, seen + "; the sign-in ends: " + reason(err)
	case who == "olivia":
		return false, seen + "; then the person signs in"
	}
	return true, seen + "; the victim is signed in as " + who
}

func reason(err error) string {
	step := new(mcpclient.StepError)
	if errors.As(err, &step) {
		err = step.Err
	}
	return err.Error()
}

// subject reads whose token it is.
func subject(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "?"
	}
	var claims struct {
		Name string `json:"preferred_username"`
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(data, &claims) != nil {
		return "?"
	}
	return claims.Name
}

var (
	formAction = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)".*?</form>`)
	formInput  = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*name="([^"]*)"[^>]*value="([^"]*)"[^>]*>`)
)

// signInAs fills in the sandbox's forms and returns where that sends the browser back to, without
// going there.
func signInAs(user, address string, browser *http.Client) (*url.URL, error) {
	var back *url.URL
	b := *browser
	b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if q := r.URL.Query(); q.Has("state") && (q.Has("code") || q.Has("error")) {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := b.Get(address)
	for range 3 {
		if err != nil || back != nil {
			return back, err
		}
		page, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		form := formAction.FindSubmatch(page)
		if form == nil {
			return nil, fmt.Errorf("no form, but %s", resp.Status)
		}
		v := url.Values{}
		for _, m := range formInput.FindAllSubmatch(form[0], -1) {
			v.Set(html.UnescapeString(string(m[1])), html.UnescapeString(string(m[2])))
		}
		if strings.Contains(string(form[0]), `name="password"`) {
			v.Set("username", user)
			v.Set("password", user+"-sandbox")
		} else {
			v.Set("decision", "approve")
		}
		action, bad := resp.Request.URL.Parse(html.UnescapeString(string(form[1])))
		if bad != nil {
			return nil, bad
		}
		resp, err = b.PostForm(action.String(), v)
	}
	return back, err
}

// Users of this machine who are not the one that runs the tests.
const (
	otherUser = 65534
	thirdUser = 65533
)

// A task is what another user of this machine is to do.
type task struct {
	Watch  bool   // wait for a process that was given an address on loopback
	Mark   string // of that process, so that it is not another test's
	URL    string // or have it from here
	Cookie string
	Way    string // how the request is sent: see send
	Direct string // the address of a proxy to speak to in place of the server
	Bind   string // an address to listen on
	Victim string // to be one, with the server at this address
}

// A result is what came of a task.
type result struct {
	Saw     string   // the address
	Answers []string // statuses, in their order
	Error   string
}

const taskVar = "ASTRAVUE_MCP_TEST_OTHER_USER"

// TestOtherUser is the other user, in the process that asOther starts.
func TestOtherUser(t *testing.T) {
	var o task
	if os.Getenv(taskVar) == "" {
		return
	}
	if err := json.Unmarshal([]byte(os.Getenv(taskVar)), &o); err != nil {
		t.Fatal(err)
	}
	if o.Victim != "" {
		beVictim(o.Victim)
		return
	}
	r := o.do()
	if err := json.NewEncoder(os.NewFile(3, "result")).Encode(r); err != nil {
		t.Fatal(err)
	}
	if o.Bind != "" && r.Error == "" {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
	}
}

func needOther(t *testing.T) {
	testenv.Need(t, "a second user", runtime.GOOS == "linux" && os.Geteuid() == 0, "only root on Linux can be somebody else")
}

// asUser starts this binary as another user, with a task. wait returns the result.
func asUser(t *testing.T, uid uint32, o task) (wait func() result) {
	t.Helper()
	wait, _ = startUser(t, uid, o)
	return wait
}

// startUser is asUser for a task that takes further lines from tell.
func startUser(t *testing.T, uid uint32, o task) (wait func() result, tell io.Writer) {
	t.Helper()
	needOther(t)
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOtherUser$")
	cmd.Env = []string{taskVar + "=" + string(text), "GORACE=atexit_sleep_ms=0"}
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = "/", os.Stderr, []*os.File{in}
	as(cmd, uid)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	results := json.NewDecoder(out)
	return func() (r result) {
		t.Helper()
		if err := results.Decode(&r); err != nil {
			t.Fatalf("the other user: %v", err)
		}
		return r
	}, stdin
}

// beVictim signs in as a user who is not root. It reports the address that its browser is opened
// with, and does what it is told: "begin" goes there, "finish" signs in as olivia and reports who is
// signed in.
func beVictim(server string) {
	pages, done := make(chan string, 1), make(chan error, 1)
	store, browser := new(tokenstore.Memory), testenv.NewBrowser()
	c := &mcpclient.Client{
		Name: "Acme Notes", Server: server, Store: store, SignInTimeout: time.Minute,
		OpenBrowser: func(_ context.Context, page string) error { pages <- page; return nil },
	}
	go func() { done <- c.Login(context.Background(), nil) }()
	results := json.NewEncoder(os.NewFile(3, "result"))
	address := <-pages
	_ = results.Encode(result{Saw: address})
	for tasks := bufio.NewScanner(os.Stdin); tasks.Scan(); {
		var r result
		switch tasks.Text() {
		case "begin":
			var err error
			if address, err = testenv.Begin(context.Background(), browser, address); err != nil {
				r.Error = err.Error()
			}
		case "finish":
			if back, err := signInAs("olivia", address, browser); err == nil {
				if resp, err := browser.Get(back.String()); err == nil {
					_ = resp.Body.Close()
				}
			}
			if err := <-done; err != nil {
				r.Error = reason(err)
			} else if held, err := store.Get(context.Background(), tokenstore.GrantKey(server, "")); err == nil {
				r.Saw = subject(held.Grant.AccessToken.Reveal())
			}
		}
		_ = results.Encode(r)
	}
}

func (o task) do() (r result) {
	if o.Bind != "" {
		var lc net.ListenConfig
		lc.Control = shares
		if _, err := lc.Listen(context.Background(), "tcp", o.Bind); err != nil {
			r.Error = err.Error()
		}
		return r
	}
	address := o.URL
	if o.Watch {
		address = o.watch()
	}
	r.Saw = address
	if address == "" {
		r.Error = "nothing to see"
		return r
	}
	u, err := url.Parse(address)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	if o.Way != "" {
		r.Answers = append(r.Answers, send(u, o.Cookie, o.Way, o.Direct))
		return r
	}
	// The whole attack: the page that the browser was to begin at, the sign-in, the answer.
	browser := testenv.NewBrowser()
	if o.Direct != "" {
		browser.Transport = &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if to == u.Host {
				to = o.Direct
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}}
	}
	if !u.Query().Has("redirect_uri") {
		if address, err = testenv.Begin(context.Background(), browser, address); err != nil {
			_, status, _ := strings.Cut(err.Error(), ": ")
			r.Answers = append(r.Answers, "start page: "+status)
			return r
		}
		r.Answers = append(r.Answers, "start page: served")
	}
	back, err := signInAs("mia", address, browser)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	resp, err := browser.Get(back.String())
	if err != nil {
		r.Error = err.Error()
		return r
	}
	_ = resp.Body.Close()
	r.Answers = append(r.Answers, "answer: "+resp.Status)
	return r
}

// watch looks at every process's arguments, again and again, as ps does.
func (o task) watch() string {
	link := regexp.MustCompile(`http://[^\s\x00]+`)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		processes, _ := os.ReadDir("/proc")
		for _, p := range slices.Backward(processes) {
			text, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
			if err != nil || !strings.Contains(string(text), o.Mark) {
				continue
			}
			if found := link.FindString(string(text)); found != "" {
				return found
			}
		}
	}
	return ""
}

// send sends one request and closes the connection in some way: "open" reads the answer first,
// "half" says at once that no more is coming, and reads, "close" and "reset" do not read.
func send(u *url.URL, cookie, way, through string) string {
	to := u.Host
	if through != "" {
		to = through
	}
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return "no connection"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	text := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\n"
	if cookie != "" {
		text += "Cookie: " + cookie + "\r\n"
	}
	_, _ = io.WriteString(conn, text+"\r\n")
	tcp := conn.(*net.TCPConn)
	switch way {
	case "half":
		_ = tcp.CloseWrite()
	case "close":
		return "not read"
	case "reset":
		_ = tcp.SetLinger(0)
		return "not read"
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "no answer"
	}
	_ = resp.Body.Close()
	return resp.Status
}

// opener runs a program as an opener of browsers is run, with an address as its argument, for as
// long as the test lasts.
func opener(t *testing.T, mark, address string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x", mark, address)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
}

// shown is a Client.ShowURL: no more is done than that any browser may come back.
func shown(context.Context, string) error { return nil }

func memory() tokenstore.Store { return new(tokenstore.Memory) }

func opens(opened *bool) func(context.Context, string) error {
	return func(context.Context, string) error { *opened = true; return nil }
}
