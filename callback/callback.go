package callback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultRedirectURI is the redirect address of a [Config] that names none. It is
// registered without a port: the authorization server then accepts any port (RFC
// 8252 §7.3).
const DefaultRedirectURI = "http://127.0.0.1/callback"

const (
	// Ports are chosen above those of system services and below those of
	// outgoing connections (from 32768 on Linux). A caller may keep a port, and
	// it is likely to be free the next time.
	firstPort, lastPort = 20000, 32000
	portTries           = 32

	maxAnswer = 16 << 10 // bytes of a query

	// Cookies ignore ports: a browser also sends those that other programs have
	// set for localhost.
	maxHeader     = 64 << 10
	headerTimeout = 5 * time.Second

	pageTimeout = 2 * time.Second        // to write a page
	connGrace   = 100 * time.Millisecond // at Close, for a connection that has sent no request yet

	// secondComes is how long a doubtful answer is held back. Somebody else may have
	// been faster than the person's own browser, which should come within that time.
	secondComes = 2 * time.Second
)

var (
	// ErrIgnored, wrapped by the error of accept, means that the answer does not
	// belong to this sign-in. Its sender gets a page that says so, and the wait
	// goes on. See [Listener.Wait].
	ErrIgnored = errors.New("callback: not an answer to this sign-in")

	// ErrDenied, wrapped by the error of accept, means that the person or the
	// server refused access. The page then says so instead of reporting a failure.
	ErrDenied = errors.New("callback: access was denied")

	// ErrOpenedTwice means that two browsers asked for the start page, and nobody
	// can tell which one is the person's.
	ErrOpenedTwice = errors.New("callback: somebody else opened the sign-in too")
)

// A PortError reports that the redirect address could not be bound, most often
// because another program listens there.
type PortError struct {
	Addr string // host:port
	Err  error  // of the operating system
}

func (e *PortError) Error() string { return fmt.Sprintf("callback: listen on %s: %v", e.Addr, e.Err) }

func (e *PortError) Unwrap() error { return e.Err }

// A Config says where to listen and what the pages say.
type Config struct {
	// RedirectURI is an http address on 127.0.0.1, [::1] or localhost, without
	// user, query and fragment. Without a port, or with port 0, a free one from
	// 20000 to 32000 is chosen. Without a path it is /callback. For localhost both
	// 127.0.0.1 and ::1 are bound: the browser may choose either, and another
	// program on the other one would get the code. Prefer the literal addresses
	// (RFC 8252 §8.3). If empty, [DefaultRedirectURI].
	RedirectURI string

	// Name is the application's name for the pages. If empty, they say "the
	// application".
	Name string

	// Server is the name of the service to sign in to, such as "Astravue". If
	// empty, the pages say "the server".
	Server string

	// AnyBrowser lets a browser answer that [Listener.Start] has not sent: the
	// person may use one on another computer. Then everybody who knows the
	// authorization URL may answer, except other users of this computer if the
	// system can tell. Without a call of Start that is always so.
	AnyBrowser bool

	// OnIgnored, if not nil, is called for each pasted address that decided
	// nothing. Its error wraps [ErrIgnored] and holds nothing of the address.
	// Wait calls it and goes on when it returns. Requests are not reported:
	// their senders get a page, and anybody may send many.
	OnIgnored func(error)
}

// A Listener holds the bound redirect address. Its methods are safe for
// concurrent use.
type Listener struct {
	uri   *url.URL
	path  string // of uri, as a request has it
	pages pages

	onIgnored  func(error)
	anyBrowser bool
	start      atomic.Pointer[startPage] // nil: there is none
	twice      chan struct{}             // closed when two browsers have opened the start page
	end        func()                    // closes twice

	answers chan answer
	waiting atomic.Bool
	done    chan struct{} // closed when Wait returns, or by Close
	finish  func()        // closes done

	server   http.Server
	serving  sync.WaitGroup
	shutdown func() error

	mu    sync.Mutex
	fresh map[net.Conn]struct{} // connections that have sent no request yet
}

// An answer is a request that waits for its page.
type answer struct {
	came   time.Time
	values url.Values
	err    error         // of reading values
	page   chan page     // gets one page, and has room for it
	served chan struct{} // closed when the page is written, or cannot be
}

// Listen binds the redirect address and starts to serve it. Requests with an
// answer wait for [Listener.Wait]. ctx limits the binding only. The caller must
// call Close.
//
// If the address cannot be bound the error is a [*PortError].
func Listen(ctx context.Context, config Config) (*Listener, error) {
	uri, port, err := parseRedirectURI(config.RedirectURI)
	if err != nil {
		return nil, err
	}
	pages, err := render(config.Name, config.Server)
	if err != nil {
		return nil, err
	}
	listeners, port, err := bind(ctx, uri.Hostname(), port)
	if err != nil {
		return nil, err
	}
	uri.Host = net.JoinHostPort(uri.Hostname(), strconv.Itoa(port))

	l := &Listener{
		uri:        uri,
		path:       uri.EscapedPath(),
		pages:      pages,
		onIgnored:  config.OnIgnored,
		anyBrowser: config.AnyBrowser,
		twice:      make(chan struct{}),
		answers:    make(chan answer),
		done:       make(chan struct{}),
		fresh:      make(map[net.Conn]struct{}),
	}
	l.end = sync.OnceFunc(func() { close(l.twice) })
	l.finish = sync.OnceFunc(func() { close(l.done) })
	l.shutdown = sync.OnceValue(l.shut)
	// There is no WriteTimeout: accept comes before the page, and it talks to the
	// authorization server. show has a deadline of its own.
	l.server = http.Server{
		Handler:                      http.HandlerFunc(l.serve),
		ReadTimeout:                  headerTimeout,
		MaxHeaderBytes:               maxHeader,
		ConnState:                    l.track,
		ErrorLog:                     log.New(io.Discard, "", 0),
		DisableGeneralOptionsHandler: true, // it would answer "OPTIONS *" without serve
	}
	l.server.SetKeepAlivesEnabled(false)
	for _, ln := range listeners {
		l.serving.Go(func() { _ = l.server.Serve(ln) })
	}
	return l, nil
}

// parseRedirectURI returns the redirect address and its port, 0 if it has none.
func parseRedirectURI(s string) (*url.URL, int, error) {
	if s == "" {
		s = DefaultRedirectURI
	}
	invalid := func(why string) (*url.URL, int, error) {
		return nil, 0, fmt.Errorf("callback: redirect address %q %s", s, why)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return invalid("cannot be read")
	case u.Scheme != "http":
		return invalid("is not http")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, strings.Contains(s, "#"):
		return invalid("has more than host, port and path")
	}
	switch strings.ToLower(u.Hostname()) {
	case "127.0.0.1", "::1", "localhost":
	default:
		return invalid("is not on 127.0.0.1, [::1] or localhost")
	}
	var port uint64
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return invalid("has no valid port")
		}
	}
	if u.Path == "" {
		u.Path = "/callback"
	}
	return u, int(port), nil
}

// bind listens on the loopback addresses of host, all with one port.
func bind(ctx context.Context, host string, port int) ([]net.Listener, int, error) {
	ips := []string{host}
	if strings.EqualFold(host, "localhost") {
		ips = []string{"127.0.0.1", "::1"}
	}
	if port != 0 {
		listeners, err := bindAll(ctx, ips, port)
		return listeners, port, err
	}
	for try := 1; ; try++ {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listeners, err := bindAll(ctx, ips, port)
		if err == nil || try == portTries || ctx.Err() != nil {
			return listeners, port, err
		}
	}
}

func bindAll(ctx context.Context, ips []string, port int) (listeners []net.Listener, err error) {
	for _, ip := range ips {
		addr := net.JoinHostPort(ip, strconv.Itoa(port))
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			if op := new(net.OpError); errors.As(err, &op) {
				err = op.Err // without the address a second time
			}
			return nil, &PortError{addr, err}
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// RedirectURI returns the redirect address with the bound port, for the
// authorization request and the code exchange.
func (l *Listener) RedirectURI() string { return l.uri.String() }

// Wait hands each answer to accept, one at a time, until one decides. An answer
// decides if accept returns nil, or an error that does not wrap [ErrIgnored]. Wait
// returns the result of that call when the page is written, at most two seconds
// later. If ctx ends first it returns ctx.Err() at once, and if two browsers have
// opened the start page it returns [ErrOpenedTwice].
//
// Answers of a browser that [Listener.Start] has not sent, and of another user of
// the computer, do not reach accept. They get a page that says what to do, and the
// wait goes on.
//
// accept gets the parameters of the query. It verifies them and finishes the
// sign-in, exchange and storing included, so that the page tells the truth. It runs
// on Wait's goroutine with ctx: a browser that hangs up does not stop it. Wait
// returns only after it, so it must return soon when ctx ends.
//
// Each string from pasted is an answer too: a whole address with the path of the
// redirect address, on any host, or only its query. A string that cannot be an
// answer is reported to Config.OnIgnored. A nil or closed channel yields none.
//
// After the decision and until Close, every browser gets a page that says that the
// sign-in is finished. Wait can be called once. If the listener is closed it
// returns an error that wraps [net.ErrClosed].
func (l *Listener) Wait(ctx context.Context, accept func(context.Context, url.Values) error, pasted <-chan string) error {
	if l.waiting.Swap(true) {
		return errors.New("callback: Wait was called before")
	}
	defer l.finish()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.done:
			return fmt.Errorf("callback: wait: %w", net.ErrClosed)

		case <-l.twice:
			return ErrOpenedTwice

		case a := <-l.answers:
			if !l.hold(ctx, a) {
				continue
			}
			if err := l.judge(ctx, accept, a); !errors.Is(err, ErrIgnored) {
				<-a.served
				return err
			}

		case s, ok := <-pasted:
			if !ok {
				pasted = nil
				continue
			}
			if s = strings.TrimSpace(s); s == "" {
				continue
			}
			values, err := l.parsePasted(s)
			if err == nil {
				err = accept(ctx, values)
			}
			if !errors.Is(err, ErrIgnored) {
				return err
			}
			if l.onIgnored != nil {
				l.onIgnored(err)
			}
		}
	}
	return ctx.Err()
}

// hold holds a doubtful answer back for [secondComes] after it came. It may be that
// of somebody who has seen the start page's address and was faster than the person;
// then the person's own browser comes in that time and is the second one. hold
// reports whether the answer still counts. If not, a has got its page.
func (l *Listener) hold(ctx context.Context, a answer) bool {
	if !l.start.Load().isDoubtful() {
		return true
	}
	select {
	case <-time.After(time.Until(a.came.Add(secondComes))):
	case <-l.twice:
	case <-ctx.Done():
	case <-l.done:
	}
	select {
	case <-l.twice:
		a.page <- l.pages.twice
		<-a.served
		return false
	default:
	}
	if ctx.Err() != nil || l.isDone() {
		a.page <- l.pages.failed
		return false
	}
	return true
}

// judge calls accept, unless the answer cannot be read, and gives a its page.
func (l *Listener) judge(ctx context.Context, accept func(context.Context, url.Values) error, a answer) error {
	p := l.pages.failed // it stays so if accept panics
	defer func() { a.page <- p }()
	err := a.err
	if err == nil {
		err = accept(ctx, a.values)
	}
	switch {
	case err == nil:
		p = l.pages.signedIn
	case errors.Is(err, ErrIgnored):
		p = l.pages.ignored
	case errors.Is(err, ErrDenied):
		p = l.pages.denied
	}
	return err
}

// Close stops listening, ends a Wait, and waits at most two seconds for requests
// under way to get their page. It does not stop accept. A second Close waits for
// the first one and returns its result.
func (l *Listener) Close() error { return l.shutdown() }

func (l *Listener) shut() error {
	l.finish()
	// Browsers open connections that they may never use. Shutdown would wait for a
	// first request on each.
	defer time.AfterFunc(connGrace, l.closeFresh).Stop()
	ctx, cancel := context.WithTimeout(context.Background(), pageTimeout)
	defer cancel()
	err := l.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = l.server.Close()
	}
	l.serving.Wait()
	return err
}

// track keeps l.fresh up to date.
func (l *Listener) track(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == http.StateNew {
		l.fresh[conn] = struct{}{}
	} else {
		delete(l.fresh, conn)
	}
}

func (l *Listener) closeFresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.fresh {
		_ = conn.Close()
	}
}

// serve answers one request. It compares the request target as it was sent, so
// that no other spelling of the path and no other host passes.
func (l *Listener) serve(w http.ResponseWriter, r *http.Request) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	setHeader(w.Header())
	start := l.start.Load()
	switch isStart := start.is(r.RequestURI); {
	case !l.isHost(r.Host):
		// The name of a web page may be made to point here (DNS rebinding), and that
		// page can read the answer. It gets an empty one.
		w.WriteHeader(http.StatusMisdirectedRequest)
	case path != l.path && !isStart:
		show(w, l.pages.notFound)
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK) // link scanners send it; it decides nothing
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, HEAD")
		show(w, l.pages.notAllowed)
	case isStart:
		l.begin(w, r, start)
	default:
		l.answer(w, r, query)
	}
}

// answer hands a query to Wait and shows the page that it gets. The browser need not
// be there any more: an answer counts when it has arrived.
//
// The owner of the connection is looked up last, since that costs more than all the
// rest. A browser with the cookie may be gone: its owner was looked up when it got
// the cookie.
func (l *Listener) answer(w http.ResponseWriter, r *http.Request, query string) {
	start := l.start.Load()
	sent := start.sent(r)
	switch {
	case l.isDone():
		show(w, l.pages.finished)
		return
	case start != nil && !sent && !l.anyBrowser:
		show(w, l.pages.elsewhere)
		return
	}
	switch who := l.owner(r); {
	case who == foreign:
		show(w, l.pages.foreign)
		return
	case who == gone && !sent:
		show(w, l.pages.ignored)
		return
	}
	values, err := parseQuery(query)
	a := answer{time.Now(), values, err, make(chan page, 1), make(chan struct{})}
	defer close(a.served)
	select {
	case l.answers <- a:
		show(w, <-a.page)
	case <-l.done:
		show(w, l.pages.finished)
	}
}

// owner returns the owner of the other end of a request's connection.
func (l *Listener) owner(r *http.Request) owner {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return unsure
	}
	return ownerOf(local.String(), r.RemoteAddr)
}

// isHost reports whether a Host header names the redirect address.
func (l *Listener) isHost(host string) bool {
	return strings.EqualFold(host, l.uri.Host) ||
		// Browsers leave out the default port.
		strings.EqualFold(host+":80", l.uri.Host)
}

// parsePasted returns the query of an address, or of the part of one, that somebody
// has copied from the browser. The error wraps ErrIgnored and holds nothing of s,
// since s may hold a live code.
func (l *Listener) parsePasted(s string) (url.Values, error) {
	query := s
	switch i := strings.IndexAny(s, "/?="); {
	case i < 0:
		return nil, fmt.Errorf("%w: no address and no query", ErrIgnored)
	case s[i] == '=': // a bare query
	case i == 0 && s[i] == '?':
		query = s[1:]
	default:
		var head, rest string
		s, _, _ = strings.Cut(s, "#")
		head, query, _ = strings.Cut(s, "?")
		if _, rest, _ = strings.Cut(head, "://"); rest == "" {
			rest = head // some browsers hide the scheme
		}
		if _, path, _ := strings.Cut(rest, "/"); "/"+path != l.path {
			return nil, fmt.Errorf("%w: the address has another path than %s", ErrIgnored, l.path)
		}
	}
	return parseQuery(query)
}

// parseQuery is url.ParseQuery with a limit. Its error quotes nothing.
func parseQuery(query string) (url.Values, error) {
	if len(query) > maxAnswer {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrIgnored, maxAnswer)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%w: the query cannot be read", ErrIgnored)
	}
	return values, nil
}
