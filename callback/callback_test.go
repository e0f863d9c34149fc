package callback_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/callback"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

var errExchange = errors.New("exchange refused")

// check stands for authcode's: the state decides whose answer it is.
func check(_ context.Context, v url.Values) error {
	switch {
	case v.Get("state") != "right":
		return fmt.Errorf("state: %w", callback.ErrIgnored)
	case v.Get("error") == "access_denied":
		return fmt.Errorf("%w: %w", callback.ErrDenied, errExchange)
	case v.Get("code") != "good":
		return errExchange
	}
	return nil
}

func listen(t testing.TB, config callback.Config) *callback.Listener {
	t.Helper()
	l, err := callback.Listen(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// wait calls Wait and yields what it returns.
func wait(ctx context.Context, l *callback.Listener, accept func(context.Context, url.Values) error, pasted <-chan string) <-chan error {
	result := make(chan error, 1)
	go func() { result <- l.Wait(ctx, accept, pasted) }()
	return result
}

// returns takes what Wait returned and demands that it be want.
func returns(t testing.TB, result <-chan error, want error) {
	t.Helper()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("Wait = %v, want %v", err, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Wait does not return")
	}
}

// stillWaits demands that nothing has decided, by deciding now.
func stillWaits(t testing.TB, l *callback.Listener, result <-chan error) {
	t.Helper()
	if status := get(t, l.RedirectURI()+"?state=right&code=good").StatusCode; status != 200 {
		t.Errorf("the right answer, after this: %d", status)
	}
	returns(t, result, nil)
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// get asks for a page and reads it to its end.
func get(t testing.TB, url string) *http.Response {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return &http.Response{}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("page cut off: %v", err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res
}

func authority(l *callback.Listener) string {
	u, err := url.Parse(l.RedirectURI())
	if err != nil {
		panic(err)
	}
	return u.Host
}

func TestOutcome(t *testing.T) {
	for name, tt := range map[string]struct {
		query  string
		status int
		err    error
	}{
		"signed in": {"state=right&code=good", 200, nil},
		"denied":    {"state=right&error=access_denied&error_description=%3Cb%3Eboo", 403, callback.ErrDenied},
		"failed":    {"state=right&code=bad", 500, errExchange},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, callback.Config{Name: "Acme Notes", Server: "Astravue"})
			result := wait(t.Context(), l, check, nil)
			if res := get(t, l.RedirectURI()+"?"+tt.query); res.StatusCode != tt.status {
				t.Errorf("status %d, want %d", res.StatusCode, tt.status)
			}
			returns(t, result, tt.err)

			// A reload, a second tab.
			if res := get(t, l.RedirectURI()+"?"+tt.query); res.StatusCode != 410 {
				t.Errorf("again: status %d, want 410", res.StatusCode)
			}
			if res := get(t, l.RedirectURI()+"?;"); res.StatusCode != 410 {
				t.Errorf("nonsense, later: status %d, want 410", res.StatusCode)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if conn, err := net.Dial("tcp", authority(l)); err == nil {
				conn.Close()
				t.Error("still listening after Close")
			}
		})
	}
}

func TestPages(t *testing.T) {
	const name, server = `<script>alert("1")</script>`, `Astra & Vue`
	l := listen(t, callback.Config{Name: name, Server: server})
	const noise = "needle"
	result := wait(t.Context(), l, check, nil)
	for _, path := range []string{
		"?state=" + noise,
		"?state=right;" + noise,
		"/" + noise,
		"?state=right&code=good&x=" + noise,
		"?state=right&code=good&x=" + noise,
	} {
		res := get(t, l.RedirectURI()+path)
		for field, want := range map[string]string{
			"Content-Type":           "text/html; charset=utf-8",
			"Cache-Control":          "no-store",
			"Referrer-Policy":        "no-referrer",
			"X-Content-Type-Options": "nosniff",
			"X-Frame-Options":        "DENY",
		} {
			if got := res.Header.Get(field); got != want {
				t.Errorf("%s: %s: %q, want %q", path, field, got, want)
			}
		}
		policy := res.Header.Get("Content-Security-Policy")
		for _, part := range []string{
			"default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
		} {
			if !strings.Contains(policy, part) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: policy %q lacks %s", path, policy, part)
			}
		}
		body, _ := io.ReadAll(res.Body)
		if bytes.Contains(body, []byte(noise)) {
			t.Errorf("%s: the page shows the request", path)
		}
		if bytes.Contains(body, []byte("<script")) || !bytes.Contains(body, []byte("&lt;script&gt;")) {
			t.Errorf("%s: the name is not escaped", path)
		}
		if len(body) >= 8000 {
			t.Errorf("%s: %d bytes", path, len(body))
		}
	}
	returns(t, result, nil)
}

// TestHostileRequests sends raw requests, HOST standing for the right one. None
// of them may reach check, and after each the wait goes on.
func TestHostileRequests(t *testing.T) {
	const q = "?state=right&code=good"
	for name, tt := range map[string]struct {
		request string
		status  string // "" for no answer at all
	}{
		"other host":            {"GET /callback" + q + " HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"},
		"other port":            {"GET /callback" + q + " HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "421"},
		"no port":               {"GET /callback" + q + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "421"},
		"rebound name":          {"GET /callback" + q + " HTTP/1.1\r\nHost: HOST.evil.example\r\n\r\n", "421"},
		"localhost for literal": {"GET /callback" + q + " HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", "421"},
		"empty host":            {"GET /callback" + q + " HTTP/1.1\r\nHost:\r\n\r\n", "421"},
		"no host":               {"GET /callback" + q + " HTTP/1.1\r\n\r\n", "400"},
		"two hosts":             {"GET /callback" + q + " HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n", "400"},
		"HTTP/1.0 without host": {"GET /callback" + q + " HTTP/1.0\r\n\r\n", "421"},
		"HTTP/0.9":              {"GET /callback" + q + "\r\n\r\n", "400"},
		"HTTP/2":                {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "421"},
		"absolute form":         {"GET http://HOST/callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"absolute, two hosts":   {"GET http://HOST/callback" + q + " HTTP/1.1\r\nHost: evil.example\r\n\r\n", "404"},
		"two slashes":           {"GET //callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"slash at the end":      {"GET /callback/" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"escaped letter":        {"GET /c%61llback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"escaped question mark": {"GET /callback%3Fstate=right&code=good HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"dots":                  {"GET /x/../callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"parameter":             {"GET /callback;x" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"fragment":              {"GET /callback#" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"case":                  {"GET /Callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"root":                  {"GET /" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"favicon":               {"GET /favicon.ico HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"connect":               {"CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"options of all":        {"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", "404"},
		"preflight":             {"OPTIONS /callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "405"},
		"post, query":           {"POST /callback" + q + " HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", "405"},
		"post, form": {"POST /callback HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			"Content-Length: 21\r\n\r\nstate=right&code=good", "405"},
		"head":              {"HEAD /callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "200"},
		"lower-case method": {"get /callback" + q + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "405"},
		"semicolon":         {"GET /callback?state=right;code=good HTTP/1.1\r\nHost: HOST\r\n\r\n", "400"},
		"bad escape":        {"GET /callback?state=right&code=good&x=%zz HTTP/1.1\r\nHost: HOST\r\n\r\n", "400"},
		"huge query":        {"GET /callback" + q + "&x=" + strings.Repeat("a", 17<<10) + " HTTP/1.1\r\nHost: HOST\r\n\r\n", "400"},
		"huge header":       {"GET /callback" + q + " HTTP/1.1\r\nHost: HOST\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n", "431"},
		"newline in target": {"GET /callback" + q + "\n HTTP/1.1\r\nHost: HOST\r\n\r\n", "400"},
		"TLS":               {"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", "400"},
		"garbage":           {"\x00\xff\xfe\r\n\r\n", "400"},
		"nothing":           {"", ""},
		"half a request":    {"GET /callback" + q + " HTTP/1.1\r\nHost: HO", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, callback.Config{})
			var checks atomic.Int32
			result := wait(t.Context(), l, func(ctx context.Context, v url.Values) error {
				checks.Add(1)
				return check(ctx, v)
			}, nil)

			answer := raw(t, l, tt.request)
			status := ""
			if len(answer) > 12 {
				status = answer[9:12]
			}
			if status != tt.status {
				t.Errorf("answer %q, want status %q", answer, tt.status)
			}
			if n := checks.Load(); n != 0 {
				t.Errorf("%d checks", n)
			}
			if status == "421" && !strings.HasSuffix(answer, "\r\n\r\n") {
				t.Error("another origin gets a page that it can read")
			}
			stillWaits(t, l, result)
		})
	}
}

// raw sends a request and returns all that comes back.
func raw(t testing.TB, l *callback.Listener, request string) string {
	t.Helper()
	host := authority(l)
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, port, _ := net.SplitHostPort(host)
	_, _ = io.WriteString(conn, strings.NewReplacer("HOST", host, "PORT", port).Replace(request))
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	// Whoever sends more than is read may get a reset behind the answer.
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	return string(answer)
}

func TestAcceptedRequests(t *testing.T) {
	for name, request := range map[string]string{
		"as a browser":       "GET /callback?state=right&code=good HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"HTTP/1.0":           "GET /callback?state=right&code=good HTTP/1.0\r\nHost: HOST\r\n\r\n",
		"large cookies":      "GET /callback?state=right&code=good HTTP/1.1\r\nHost: HOST\r\nCookie: " + strings.Repeat("a", 50<<10) + "\r\n\r\n",
		"long code":          "GET /callback?state=right&code=good&x=" + strings.Repeat("a", 10<<10) + " HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"body is not read":   "GET /callback?state=right&code=good HTTP/1.1\r\nHost: HOST\r\nContent-Length: 11\r\n\r\nstate=wrong",
		"body never arrives": "GET /callback?state=right&code=good HTTP/1.1\r\nHost: HOST\r\nContent-Length: 11\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, callback.Config{})
			result := wait(t.Context(), l, check, nil)
			answer := raw(t, l, request)
			if !strings.HasPrefix(answer, "HTTP/1.") || !strings.HasPrefix(answer[8:], " 200 ") || !strings.HasSuffix(answer, "</html>\n") ||
				strings.HasPrefix(answer, "HTTP/1.1 ") && !strings.Contains(answer, "\r\nConnection: close\r\n") {
				t.Errorf("answer %q", answer)
			}
			returns(t, result, nil)
		})
	}
}

func TestRedirectURI(t *testing.T) {
	for _, tt := range []struct{ give, want string }{
		{"", "http://127.0.0.1:N/callback"},
		{"http://127.0.0.1", "http://127.0.0.1:N/callback"},
		{"http://127.0.0.1/", "http://127.0.0.1:N/"},
		{"http://127.0.0.1:0/cb", "http://127.0.0.1:N/cb"},
		{"http://127.0.0.1/a%2Fb/c", "http://127.0.0.1:N/a%2Fb/c"},
		{"http://127.0.0.1:%s/cb", "http://127.0.0.1:%s/cb"},
		{"http://[::1]/cb", "http://[::1]:N/cb"},
		{"http://localhost/cb", "http://localhost:N/cb"},
		{"http://LOCALHOST:%s/cb", "http://LOCALHOST:%s/cb"},
	} {
		t.Run(tt.give, func(t *testing.T) {
			if !strings.Contains(tt.give, "127.0.0.1") && tt.give != "" {
				needIPv6(t)
			}
			give, want := tt.give, tt.want
			if strings.Contains(give, "%s") {
				port, err := testenv.FreePort()
				if err != nil {
					t.Fatal(err)
				}
				give, want = fmt.Sprintf(give, port), fmt.Sprintf(want, port)
			}
			l := listen(t, callback.Config{RedirectURI: give})
			u, err := url.Parse(l.RedirectURI())
			if err != nil {
				t.Fatal(err)
			}
			got := l.RedirectURI()
			if strings.Contains(want, ":N/") {
				var port int
				fmt.Sscan(u.Port(), &port)
				if port < 20000 || port > 32000 {
					t.Errorf("port %d", port)
				}
				got = strings.Replace(got, ":"+u.Port()+"/", ":N/", 1)
			}
			if got != want {
				t.Errorf("RedirectURI() = %q, want %q", got, want)
			}
			stillWaits(t, l, wait(t.Context(), l, check, nil))
		})
	}
}

// Browsers do not send the default port in the Host header.
func TestDefaultPort(t *testing.T) {
	l, err := callback.Listen(t.Context(), callback.Config{RedirectURI: "http://127.0.0.1:80/callback"})
	testenv.Need(t, "port 80", err == nil, fmt.Sprint(err))
	defer l.Close()
	result := wait(t.Context(), l, check, nil)
	if answer := raw(t, l, "GET /callback HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
		t.Errorf("answer %q", answer)
	}
	stillWaits(t, l, result)
}

func TestRefusedRedirectURI(t *testing.T) {
	for _, uri := range []string{
		"https://127.0.0.1/callback",
		"http://0.0.0.0/callback",
		"http://127.0.0.2/callback",
		"http://[::]/callback",
		"http://[::ffff:127.0.0.1]/callback",
		"http://[::1%25lo]/callback",
		"http://192.168.0.1/callback",
		"http://localhost.evil.example/callback",
		"http://evil.example@127.0.0.1.evil.example/callback",
		"http://user@127.0.0.1/callback",
		"http://127.0.0.1/callback?x=1",
		"http://127.0.0.1/callback?",
		"http://127.0.0.1/callback#x",
		"http://127.0.0.1/callback#",
		"http://127.0.0.1:65536/callback",
		"http://127.0.0.1:-1/callback",
		"http://127.0.0.1:http/callback",
		"http:///callback",
		"127.0.0.1:3142/callback",
		"/callback",
		"com.example.app:/callback",
		"http://127.0.0.1/%zz",
		"\x00",
	} {
		l, err := callback.Listen(t.Context(), callback.Config{RedirectURI: uri})
		if err == nil {
			l.Close()
			t.Errorf("Listen(%q) listens", uri)
		}
		if errors.As(err, new(*callback.PortError)) {
			t.Errorf("Listen(%q) = %v: it went as far as the port", uri, err)
		}
	}
}

func needIPv6(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		ln.Close()
	}
	testenv.Need(t, "IPv6", err == nil, fmt.Sprint(err))
}

func TestPortTaken(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		for _, taken := range []string{"127.0.0.1", "[::1]"} {
			if host != "localhost" && host != taken {
				continue
			}
			t.Run(host+" by "+taken, func(t *testing.T) {
				if taken == "[::1]" {
					needIPv6(t)
				}
				other, err := net.Listen("tcp", taken+":0")
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
				port := other.Addr().(*net.TCPAddr).Port
				_, err = callback.Listen(t.Context(), callback.Config{RedirectURI: fmt.Sprintf("http://%s:%d/callback", host, port)})
				var portErr *callback.PortError
				if !errors.As(err, &portErr) || portErr.Addr != other.Addr().String() ||
					runtime.GOOS != "windows" && !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("Listen = %#v", err)
				}
				if host == "localhost" && taken == "[::1]" {
					ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
					if err != nil {
						t.Fatal("the first of two addresses stays bound")
					}
					ln.Close()
				}
			})
		}
	}
}

func TestLocalhostBindsBothFamilies(t *testing.T) {
	needIPv6(t)
	l := listen(t, callback.Config{RedirectURI: "http://localhost/callback"})
	_, port, _ := net.SplitHostPort(authority(l))
	result := wait(t.Context(), l, check, nil)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		conn, err := net.Dial("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /callback?state=wrong HTTP/1.1\r\nHost: %s\r\n\r\n", authority(l))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 400 {
			t.Errorf("%s: %v, %v", ip, res, err)
		}
	}
	stillWaits(t, l, result)
}

func TestIgnoredAnswersDoNotEndTheWait(t *testing.T) {
	l := listen(t, callback.Config{OnIgnored: func(error) { t.Error("told of a request") }})
	result := wait(t.Context(), l, check, nil)
	var senders sync.WaitGroup
	for range 100 {
		senders.Go(func() {
			if status := get(t, l.RedirectURI()+"?state=wrong&code=good").StatusCode; status != 400 {
				t.Errorf("status %d", status)
			}
		})
	}
	senders.Wait()
	stillWaits(t, l, result)
}

func TestOneOfTwoRacersDecides(t *testing.T) {
	l := listen(t, callback.Config{})
	var checks atomic.Int32
	both := make(chan struct{})
	result := wait(t.Context(), l, func(context.Context, url.Values) error {
		checks.Add(1)
		<-both
		return nil
	}, nil)
	statuses := make(chan int)
	for range 2 {
		go func() {
			conn, err := net.Dial("tcp", authority(l))
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET /callback?state=right HTTP/1.1\r\nHost: %s\r\n\r\n", authority(l))
			// Nothing comes before the decision.
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, _ := conn.Read(make([]byte, 1)); n != 0 {
				t.Error("answered while the check runs")
			}
			statuses <- 0
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			statuses <- res.StatusCode
		}()
	}
	<-statuses
	<-statuses
	close(both)
	if a, b := <-statuses, <-statuses; a+b != 200+410 {
		t.Errorf("statuses %d and %d, want one 200 and one 410", a, b)
	}
	returns(t, result, nil)
	if n := checks.Load(); n != 1 {
		t.Errorf("%d checks", n)
	}
}

// TestMain is also a child that has one listener.
func TestMain(m *testing.M) {
	var l *callback.Listener
	testenv.Serve(func(task string) (result string) {
		switch task {
		case "listen":
			var err error
			if l, err = callback.Listen(context.Background(), callback.Config{}); err != nil {
				panic(err)
			}
			return l.RedirectURI()
		case "start":
			return l.Start(authorization)
		case "wait":
			defer l.Close()
			return fmt.Sprint(l.Wait(context.Background(), check, nil))
		case "wait and exit":
			_ = l.Wait(context.Background(), check, nil)
			os.Exit(0) // at once, with nothing closed
		}
		panic("unknown task " + task)
	})
	testenv.SideBySide(6)
	os.Exit(m.Run())
}

// ask gives child a task and returns the result.
func ask(t testing.TB, child *testenv.Child, task string) (result string) {
	t.Helper()
	child.Send(task)
	if !child.Receive(&result) {
		t.Fatalf("the child has died of the task %q", task)
	}
	return result
}

func TestPageIsWholeWhenTheProcessEnds(t *testing.T) {
	for range 5 {
		child := testenv.Spawn(t)
		uri := ask(t, child, "listen")
		child.Send("wait and exit")
		if status := get(t, uri+"?state=right&code=good").StatusCode; status != 200 {
			t.Errorf("status %d", status)
		}
		if err := child.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestPageIsWholeWhenClosed(t *testing.T) {
	for range 20 {
		l := listen(t, callback.Config{})
		page := make(chan *http.Response, 1)
		go func() { page <- get(t, l.RedirectURI()+"?state=right&code=good") }()
		if err := l.Wait(t.Context(), check, nil); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if res := <-page; res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
}

// arrives returns when a request waits for its answer. Only its stack shows that.
func arrives(t testing.TB) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	testenv.Eventually(t, "a request arrives", func() bool {
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("callback.(*Listener).answer("))
	})
}

func TestAnswerBeforeWait(t *testing.T) {
	l := listen(t, callback.Config{})
	page := make(chan *http.Response, 1)
	go func() { page <- get(t, l.RedirectURI()+"?state=right&code=good") }()
	arrives(t)
	returns(t, wait(t.Context(), l, check, nil), nil)
	if res := <-page; res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestBrowserThatHangsUp(t *testing.T) {
	l := listen(t, callback.Config{})
	started, gone := make(chan struct{}), make(chan struct{})
	result := wait(t.Context(), l, func(ctx context.Context, v url.Values) error {
		close(started)
		<-gone
		time.Sleep(50 * time.Millisecond) // the server notices
		return errors.Join(ctx.Err(), check(ctx, v))
	}, nil)
	conn, err := net.Dial("tcp", authority(l))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /callback?state=right&code=good HTTP/1.1\r\nHost: %s\r\n\r\n", authority(l))
	<-started
	conn.Close()
	close(gone)
	returns(t, result, nil)
}

func TestSlowBrowser(t *testing.T) {
	l := listen(t, callback.Config{})
	result := wait(t.Context(), l, check, nil)
	silent, err := net.Dial("tcp", authority(l)) // as a browser's spare connection
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	deaf, err := net.Dial("tcp", authority(l)) // reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for _, part := range strings.SplitAfter("GET /callback?state=right&code=good HTTP/1.1\r\nHost: "+authority(l)+"\r\n\r\n", "o") {
		fmt.Fprint(deaf, part)
		time.Sleep(10 * time.Millisecond)
	}
	returns(t, result, nil)
	start := time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 1500*time.Millisecond {
		t.Errorf("Close took %v", d)
	}
}

// TestHalfARequest leaves a request unfinished for as long as it may.
func TestHalfARequest(t *testing.T) {
	t.Parallel() // it waits for the listener to give up
	l := listen(t, callback.Config{})
	result := wait(t.Context(), l, check, nil)
	conn, err := net.Dial("tcp", authority(l))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /callback?state=right&code=good HTTP/1.1\r\n")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if answer, err := io.ReadAll(conn); err != nil || strings.Contains(string(answer), " 200 ") {
		t.Errorf("answer %q, %v", answer, err)
	}
	stillWaits(t, l, result)
}

func TestCancel(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		l := listen(t, callback.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		returns(t, wait(ctx, l, check, nil), context.Canceled)
	})
	t.Run("while nobody comes", func(t *testing.T) {
		l := listen(t, callback.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		returns(t, wait(ctx, l, check, nil), context.DeadlineExceeded)
		if status := get(t, l.RedirectURI()+"?state=right&code=good").StatusCode; status != 410 {
			t.Errorf("too late: status %d", status)
		}
	})
	t.Run("during a check", func(t *testing.T) {
		l := listen(t, callback.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		result := wait(ctx, l, func(ctx context.Context, _ url.Values) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}, nil)
		if status := get(t, l.RedirectURI()+"?state=right").StatusCode; status != 500 {
			t.Errorf("status %d", status)
		}
		returns(t, result, context.Canceled)
	})
	t.Run("a save that is done counts", func(t *testing.T) {
		l := listen(t, callback.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		result := wait(ctx, l, func(context.Context, url.Values) error { cancel(); return nil }, nil)
		if status := get(t, l.RedirectURI()+"?state=right").StatusCode; status != 200 {
			t.Errorf("status %d", status)
		}
		returns(t, result, nil)
	})
}

func TestClose(t *testing.T) {
	t.Run("ends a wait", func(t *testing.T) {
		l := listen(t, callback.Config{})
		result := wait(t.Context(), l, check, nil)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		returns(t, result, net.ErrClosed)
	})
	t.Run("does not cut a request", func(t *testing.T) {
		l := listen(t, callback.Config{})
		page := make(chan *http.Response, 1)
		go func() { page <- get(t, l.RedirectURI()+"?state=right&code=good") }()
		arrives(t)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if res := <-page; res.StatusCode != 410 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
	t.Run("twice", func(t *testing.T) {
		l := listen(t, callback.Config{})
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if err := l.Wait(t.Context(), check, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Wait = %v", err)
		}
	})
}

func TestWaitOnce(t *testing.T) {
	l := listen(t, callback.Config{})
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- l.Wait(t.Context(), check, nil) }()
	}
	if err := <-results; err == nil {
		t.Error("a second Wait has an answer of its own")
	}
	stillWaits(t, l, results)
}

func TestPasted(t *testing.T) {
	for name, tt := range map[string]struct {
		paste string
		err   error // ErrIgnored: the wait goes on
	}{
		"whole address":          {"REDIRECT?state=right&code=good", nil},
		"spaces around":          {"  REDIRECT?state=right&code=good \r\n", nil},
		"other order":            {"REDIRECT?session_state=x&iss=https%3A%2F%2Fauth.example%2Fr&code=good&state=right", nil},
		"from another machine":   {"http://127.0.0.1:3142/callback?state=right&code=good", nil},
		"localhost":              {"http://localhost:3142/callback?state=right&code=good", nil},
		"scheme hidden":          {"localhost:3142/callback?state=right&code=good", nil},
		"fragment":               {"REDIRECT?state=right&code=good#", nil},
		"query":                  {"?state=right&code=good", nil},
		"bare query":             {"state=right&code=good", nil},
		"raw iss in a query":     {"iss=https://auth.example/r?x&state=right&code=good", nil},
		"denied":                 {"REDIRECT?state=right&error=access_denied", callback.ErrDenied},
		"failed":                 {"REDIRECT?state=right&code=bad", errExchange},
		"wrong state":            {"REDIRECT?state=wrong&code=good", callback.ErrIgnored},
		"no query":               {"REDIRECT", callback.ErrIgnored},
		"only a code":            {"good", callback.ErrIgnored},
		"other path":             {"http://127.0.0.1:3142/other?state=right&code=good", callback.ErrIgnored},
		"path in a path":         {"http://127.0.0.1:3142/x/callback?state=right&code=good", callback.ErrIgnored},
		"two slashes":            {"http://127.0.0.1:3142//callback?state=right&code=good", callback.ErrIgnored},
		"no path":                {"http://127.0.0.1:3142?state=right&code=good", callback.ErrIgnored},
		"path in the query":      {"http://127.0.0.1:3142/?/callback?state=right&code=good", callback.ErrIgnored},
		"behind the fragment":    {"REDIRECT#?state=right&code=good", callback.ErrIgnored},
		"authorization address":  {"https://auth.example/auth?state=right&response_type=code", callback.ErrIgnored},
		"semicolon":              {"?state=right;code=good", callback.ErrIgnored},
		"bad escape":             {"?state=right&code=good%", callback.ErrIgnored},
		"too long":               {"?state=right&code=good&x=" + strings.Repeat("a", 16<<10), callback.ErrIgnored},
		"shell prompt by chance": {"$ ls", callback.ErrIgnored},
	} {
		t.Run(name, func(t *testing.T) {
			ignored := make(chan error, 1)
			l := listen(t, callback.Config{OnIgnored: func(err error) { ignored <- err }})
			pasted := make(chan string)
			result := wait(t.Context(), l, check, pasted)
			pasted <- "" // nothing but the Enter key
			pasted <- strings.ReplaceAll(tt.paste, "REDIRECT", l.RedirectURI())
			if tt.err != callback.ErrIgnored {
				returns(t, result, tt.err)
				if len(ignored) != 0 {
					t.Error(<-ignored)
				}
				if status := get(t, l.RedirectURI()).StatusCode; status != 410 {
					t.Errorf("the browser, after it: status %d", status)
				}
				return
			}
			err := <-ignored
			if !errors.Is(err, callback.ErrIgnored) || strings.Contains(err.Error(), "good") {
				t.Errorf("OnIgnored(%v)", err)
			}
			close(pasted)
			stillWaits(t, l, result)
		})
	}
	t.Run("nobody is told", func(t *testing.T) {
		l := listen(t, callback.Config{})
		pasted := make(chan string)
		result := wait(t.Context(), l, check, pasted)
		pasted <- "nonsense"
		stillWaits(t, l, result)
	})
}

// countingContext counts the rounds of a wait, each of which asks it.
type countingContext struct {
	context.Context
	rounds *atomic.Int32
}

func (c countingContext) Err() error { c.rounds.Add(1); return c.Context.Err() }

func TestClosedPasteChannelIsNotRead(t *testing.T) {
	l := listen(t, callback.Config{})
	pasted := make(chan string)
	close(pasted)
	ctx := countingContext{t.Context(), new(atomic.Int32)}
	result := wait(ctx, l, check, pasted)
	time.Sleep(20 * time.Millisecond)
	if n := ctx.rounds.Load(); n > 5 {
		t.Errorf("%d rounds", n)
	}
	stillWaits(t, l, result)
}

func TestNoGoroutineStays(t *testing.T) {
	client.CloseIdleConnections()
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 10 {
		l := listen(t, callback.Config{})
		spare, err := net.Dial("tcp", authority(l))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { get(t, l.RedirectURI()+"?state=right&code=good") })
		wg.Go(func() {
			if err := l.Wait(t.Context(), check, nil); err != nil {
				t.Error(err)
			}
			l.Close()
			spare.Close()
		})
	}
	wg.Wait()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, were %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}
