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

// DefaultRedirectURI is the redirect address of a [Config] that names none. It
// has no port, and is so registered: RFC 8252 §7.3 has the authorization server
// accept any port of it.
const DefaultRedirectURI = "http://127.0.0.1/callback"

const (
	// Ports are chosen above those that a system gives its services and below
	// those that it hands to outgoing connections (from 32768 on Linux), so
	// that a port which was kept is likely to be free the next time.
	firstPort, lastPort = 20000, 32000
	portTries           = 32

	maxAnswer = 16 << 10 // of a query or a pasted address

	// Cookies know no ports: a browser sends along all that any development
	// server has ever set for localhost.
	maxHeader     = 64 << 10
	headerTimeout = 5 * time.Second

	pageTimeout = 2 * time.Second        // to write a page, once it is known which
	connGrace   = 100 * time.Millisecond // at Close, for a connection that has sent no request yet

	// secondComes is how long an answer is held back, where somebody else may have been
	// faster than the person's own browser, until that browser should have come.
	secondComes = 2 * time.Second
)

var (
	// ErrIgnored, wrapped by the error of an accept function, says that the
	// answer does not belong to this sign-in. Its sender gets a page that says so,
	// and the wait goes on.
	ErrIgnored = errors.New("callback: not an answer to this sign-in")

	// ErrDenied, wrapped by the error of an accept function, says that the person
	// or the server refused access. The page then does not speak of a failure.
	ErrDenied = errors.New("callback: access was denied")

	// ErrOpenedTwice says that the start page was asked for by two browsers, and
	// nobody can tell which of them is the person's.
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
	// RedirectURI is an http address on 127.0.0.1, [::1] or localhost, with
	// neither user, query nor fragment. Without a port, or with port 0, a free
	// one from 20000 to 32000 is chosen; without a path it is /callback. For
	// localhost both 127.0.0.1 and ::1 are bound, since the browser chooses
	// between them, and whoever held the other one would get the code; prefer
	// the literal (RFC 8252 §8.3). If empty, [DefaultRedirectURI].
	RedirectURI string

	// Name is the application's name as the pages show it. If empty, they
	// speak of "the application".
	Name string

	// Server is the name of what is signed in to, such as "Astravue". If
	// empty, the pages speak of "the server".
	Server string

	// AnyBrowser has Wait take the answer of a browser that [Listener.Start] has
	// not sent, since the person may use one on another computer. Then whoever
	// knows the authorization URL may answer, but for other users of this computer
	// where the system can tell. Without a call of Start that is so anyway.
	AnyBrowser bool

	// OnIgnored, if not nil, is told of each pasted address that decided
	// nothing, with an error that wraps [ErrIgnored] and holds nothing of the
	// address. Wait calls it and goes on when it returns. It is not told of
	// requests: whoever sent one has got a page, and anybody may send many.
	OnIgnored func(error)
}

// A Listener holds the bound redirect address. Its methods are safe for
// concurrent use.
type Listener struct {
	uri   *url.URL
	path  string // of uri, as it is sent
	pages pages

	onIgnored  func(error)
	anyBrowser bool
	start      atomic.Pointer[startPage] // nil: there is none
	twice      chan struct{}             // closed when the start page was opened by two
	end        func()                    // closes it

	answers chan answer
	waiting atomic.Bool
	done    chan struct{} // closed when Wait returns, or by Close
	finish  func()

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
	err    error         // of reading them
	page   chan page     // gets one; has room for it
	served chan struct{} // closed when the page is written, or cannot be
}

// Listen binds the redirect address and starts to answer on it; requests that
// may hold an answer wait for [Listener.Wait]. ctx bounds the binding only.
// The caller must call Close.
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
	// No WriteTimeout: an answer is judged before its page is written, and
	// accept talks to the authorization server. show has a deadline.
	l.server = http.Server{
		Handler:                      http.HandlerFunc(l.serve),
		ReadTimeout:                  headerTimeout,
		MaxHeaderBytes:               maxHeader,
		ConnState:                    l.track,
		ErrorLog:                     log.New(io.Discard, "", 0),
		DisableGeneralOptionsHandler: true, // which would answer "OPTIONS *" for us
	}
	l.server.SetKeepAlivesEnabled(false)
	for _, ln := range listeners {
		l.serving.Go(func() { _ = l.server.Serve(ln) })
	}
	return l, nil
}

// parseRedirectURI returns the redirect address and its port, or 0.
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

// bind listens on the loopback addresses of host, all with the same port.
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

// RedirectURI returns the redirect address with the port that is bound: what
// belongs into the authorization request and the code exchange.
func (l *Listener) RedirectURI() string { return l.uri.String() }

// Wait hands each answer to accept, one at a time, until one decides: accept
// returns nil, or an error that does not wrap [ErrIgnored]. Wait returns what
// accept returned, when the page has been written to its end, at most two
// seconds later. If ctx ends first it returns ctx.Err() at once, and if two
// browsers have opened the start page [ErrOpenedTwice].
//
// An answer of a browser that [Listener.Start] has not sent, or of another user
// of the computer, gets a page that says what to do, and the wait goes on.
//
// accept gets the parameters of the query. It verifies them and carries the
// sign-in to its end, exchange and storing included, so that the page tells
// the truth. It runs on Wait's goroutine, with ctx: a browser that hangs up
// does not stop it, and Wait does not return before it. It must therefore
// return soon when ctx ends.
//
// Each string from pasted is an answer too: a whole address with the path of
// the redirect address, on whatever host, or only its query. Those that cannot
// be one are reported to Config.OnIgnored. A nil or closed channel yields none.
//
// After the decision, and until Close, whoever comes gets a page that says that
// the sign-in is finished. Wait can be called once. If the listener is closed
// it returns an error that wraps [net.ErrClosed].
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

// hold holds an answer back for as long as it may be that of somebody else, who
// has seen the start page's address and was faster. It reports whether the
// answer still counts; if not, a has got its page.
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

// judge gives a to accept, unless its query could not be read, and tells a which
// page it gets.
func (l *Listener) judge(ctx context.Context, accept func(context.Context, url.Values) error, a answer) error {
	p := l.pages.failed // also if accept panics
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

// Close stops to listen, lets requests under way end with their page, for at
// most two seconds, and ends a Wait. It does not stop an accept function. Closing again
// waits for the first Close and returns the same.
func (l *Listener) Close() error { return l.shutdown() }

func (l *Listener) shut() error {
	l.finish()
	// Browsers open connections that they may never use, and Shutdown would
	// wait for a first request on each.
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

// serve answers one request. It compares the request target as it was sent,
// which leaves no room for other spellings of the path or another authority.
func (l *Listener) serve(w http.ResponseWriter, r *http.Request) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	setHeader(w.Header())
	start := l.start.Load()
	switch isStart := start.is(r.RequestURI); {
	case !l.isHost(r.Host):
		// A page of another name that was made to point here (DNS rebinding)
		// could read what it gets: nothing.
		w.WriteHeader(http.StatusMisdirectedRequest)
	case path != l.path && !isStart:
		show(w, l.pages.notFound)
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK) // and decides nothing: link scanners send it
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, HEAD")
		show(w, l.pages.notAllowed)
	case isStart:
		l.begin(w, r, start)
	default:
		l.answer(w, r, query)
	}
}

// answer hands a query to Wait and shows how that ended. It does not look whether
// the browser is still there: an answer counts when it has arrived.
//
// Who holds the connection is looked up last, since that costs more than the rest
// together. A browser that has the cookie may be gone: who it is was looked
// up when it got that.
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

// owner returns who holds the other end of a request's connection.
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
		// Browsers leave the default port out.
		strings.EqualFold(host+":80", l.uri.Host)
}

// parsePasted reads what somebody copied out of the address bar. The error
// wraps ErrIgnored and holds nothing of s, which may be a live code.
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
			rest = head // browsers hide the scheme
		}
		if _, path, _ := strings.Cut(rest, "/"); "/"+path != l.path {
			return nil, fmt.Errorf("%w: the address has another path than %s", ErrIgnored, l.path)
		}
	}
	return parseQuery(query)
}

// parseQuery is url.ParseQuery with a limit, and an error that does not quote.
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
