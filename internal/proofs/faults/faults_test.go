package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An exchange is one of the requests that a client makes, with its answer.
type exchange string

const (
	probe            exchange = "probe"
	resourceMetadata exchange = "resource metadata"
	serverMetadata   exchange = "server metadata"
	registration     exchange = "registration"
	codeExchange     exchange = "exchange"
	refreshing       exchange = "refresh"
	revocation       exchange = "revoke"
	mcpPost          exchange = "MCP POST" // that calls a tool
	mcpGet           exchange = "MCP GET"
	connecting       exchange = "Connect" // its first requests
)

// wholeServer is all that goes to the server.
const wholeServer exchange = "the whole server"

// belongs reports whether x is, or is a part of, the exchange that a fault is on.
func (x exchange) belongs(on exchange) bool {
	return x == on || on == wholeServer && (x == probe || x == resourceMetadata || x == mcpPost)
}

// oauth reports whether x is with an authorization server, or leads to one.
func (x exchange) oauth() bool {
	return x != "" && x != mcpPost && x != mcpGet && x != connecting
}

// moved is in the query of the addresses to which a fault redirects.
const moved = "moved"

// exchangeOf tells what a request belongs to, "" if to nothing that faults are played on.
func exchangeOf(r *http.Request, body []byte) exchange {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	path := r.URL.Path
	if r.URL.Query().Has(moved) {
		return ""
	}
	switch host {
	case serverHost:
		switch {
		case strings.HasPrefix(path, "/.well-known/oauth-protected-resource"):
			return resourceMetadata
		case r.Method == http.MethodGet:
			return mcpGet
		case bytes.Contains(body, []byte(`"ping"`)):
			return probe
		case bytes.Contains(body, []byte(`"tools/call"`)):
			return mcpPost
		case bytes.Contains(body, []byte(`"server/discover"`)), bytes.Contains(body, []byte(`"initialize"`)):
			return connecting
		}
	case authHost:
		switch {
		case strings.Contains(path, "/.well-known/"):
			return serverMetadata
		case strings.Contains(path, "/clients-registrations/"):
			return registration
		case strings.HasSuffix(path, "/revoke"):
			return revocation
		case strings.HasSuffix(path, "/token") && bytes.Contains(body, []byte("grant_type=refresh_token")):
			return refreshing
		case strings.HasSuffix(path, "/token"):
			return codeExchange
		}
	}
	return ""
}

// A fault is one way in which an exchange goes wrong.
type fault struct {
	name   string
	what   string // the legend's words
	cause  string // what an error about it must wrap, in identities' words; "" if nothing of its own
	status int    // of the answer, if the fault is in that
	stalls bool   // it is noticed by a deadline
	waits  bool   // the answer has a Retry-After

	connect func(*env) transport // plays a fault of the connection, in place of play
	play    func(*strike)
}

// A strike is one request that a fault is played to, with the answer that it is to have.
type strike struct {
	*env
	rw    http.ResponseWriter
	r     *http.Request
	x     exchange
	body  []byte
	ended chan struct{}
}

// An answer is what the sandbox says.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// retryAfter is what the answers ask for that say when to come again.
const retryAfter = 2 * time.Second

const (
	gatewayPage = "<!doctype html><html><head><title>Gateway</title></head><body>Please come back later.</body></html>"
	huge        = 50 << 20
)

// The faults, in the order of the tables.
var (
	refusedConnection = &fault{name: "refused connection", what: "nobody listens", cause: "`syscall.ECONNREFUSED`",
		connect: func(e *env) transport { return e.transport(e.resolve, refuse) }}
	dnsFailure = &fault{name: "DNS failure", what: "the name is not known", cause: "`*net.DNSError`",
		connect: func(e *env) transport { return e.transport(unknownName, e.dial) }}
	tlsFailure = &fault{name: "TLS failure", what: "nobody vouches for the certificate", cause: "`*tls.CertificateVerificationError`",
		connect: func(e *env) transport { return e.transport(e.resolve, e.dialStranger) }}

	timeoutBefore = &fault{name: "timeout before the headers", what: "nothing is answered", cause: deadline, stalls: true,
		play: func(s *strike) { s.hold() }}
	timeoutAfter = &fault{name: "timeout after the headers", what: "carried out; the answer's body does not come", cause: deadline, stalls: true,
		play: func(s *strike) {
			a := s.answer()
			a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
			s.write(a, nil)
			s.hold()
		}}
	resetInBody = &fault{name: "reset in the body", what: "carried out; the connection is reset amid the answer", cause: "`syscall.ECONNRESET`",
		play: func(s *strike) {
			a := s.answer()
			a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
			s.write(a, a.body[:len(a.body)/2])
			s.reset()
		}}

	status400 = gateway(400, "400 of the wrong kind")
	status401 = gateway(401, "401")
	status403 = gateway(403, "403")
	status404 = gateway(404, "404")
	status429 = gateway(429, "429 with Retry-After")
	status500 = gateway(500, "500")
	status503 = gateway(503, "503 with Retry-After")

	redirectWithin = redirect(307, "redirect within the origin", "another path, where the answer is", func(u *url.URL) {})
	redirectAcross = redirect(302, "redirect across origins", "another host, where the answer is", func(u *url.URL) { u.Host = elsewhereHost })
	redirectHTTP   = redirect(301, "redirect to http", "the same host without TLS", func(u *url.URL) { u.Scheme = "http" })
	redirectInside = redirect(307, "redirect to a private address", "a host that resolves to 10.0.0.1", func(u *url.URL) { u.Host = insideHost })

	html = &fault{name: "HTML", what: "200 with a gateway's page", play: func(s *strike) {
		s.write(&answer{200, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, nil}, []byte(gatewayPage))
	}}
	truncated = &fault{name: "truncated JSON", what: "carried out; half of the answer, as if it were whole", play: func(s *strike) {
		a := s.answer()
		if s.x == mcpGet {
			a.body = []byte(toolsChanged[:len(toolsChanged)/2] + "\n\n")
			s.write(a, a.body)
			s.goOn()
		}
		s.write(a, a.body[:len(a.body)/2])
	}}
	wrongTypes = &fault{name: "JSON of wrong types", what: "each member of the answer, or the result of a call, is of another type", play: func(s *strike) {
		a := s.shape()
		s.write(a, a.edit(change))
		s.goOn()
	}}
	duplicates = &fault{name: "duplicate names", what: "carried out; each member of the answer comes twice", play: func(s *strike) {
		a := s.answer()
		s.write(a, a.edit(twice))
		s.goOn()
	}}
	hugeBody = &fault{name: "50 MB body", what: "carried out; the answer has a member of 50 MB more", play: func(s *strike) {
		a := s.answer()
		before, after, _ := bytes.Cut(a.edit(padded), []byte("PADDING"))
		s.write(a, before)
		chunk := bytes.Repeat([]byte("a"), 64<<10)
		for n := 0; n < huge; n += len(chunk) {
			if _, err := s.rw.Write(chunk); err != nil {
				return
			}
		}
		_, _ = s.rw.Write(after)
	}}
	slowDrip = &fault{name: "slow drip", what: "carried out; the answer comes byte by byte, and does not end in time", cause: deadline, stalls: true,
		play: func(s *strike) {
			a := s.answer()
			s.write(a, nil)
			for i := range a.body {
				select {
				case <-s.r.Context().Done():
					s.hold() // an end in good order may still reach the client
				case <-s.ended:
					s.hold()
				case <-time.After(50 * time.Millisecond):
				}
				_, _ = s.rw.Write(a.body[i : i+1])
				s.flush()
			}
			s.hold()
		}}
	emptyBody = &fault{name: "empty body", what: "the answer has no body", play: func(s *strike) {
		a := s.shape()
		s.write(a, nil)
	}}
	wrongContentType = &fault{name: "wrong content type", what: "carried out; the answer calls itself `text/plain`", play: func(s *strike) {
		a := s.answer()
		a.header.Set("Content-Type", "text/plain")
		s.write(a, a.body)
	}}

	all = []*fault{
		refusedConnection, dnsFailure, tlsFailure, timeoutBefore, timeoutAfter, resetInBody,
		status400, status401, status403, status404, status429, status500, status503,
		redirectWithin, redirectAcross, redirectHTTP, redirectInside,
		html, truncated, wrongTypes, duplicates, hugeBody, slowDrip, emptyBody, wrongContentType,
	}
)

// gateway is an answer of something that stands before the server and knows nothing of OAuth and
// MCP.
func gateway(status int, name string) *fault {
	f := &fault{name: name, what: fmt.Sprintf("%d with a page of a gateway's", status), status: status}
	header := http.Header{"Content-Type": {"text/html"}}
	switch status {
	case 401:
		f.what = "401 with a page of a gateway's, and without a challenge"
	case 429, 503:
		f.waits = true
		f.what += fmt.Sprintf(", and `Retry-After: %.0f`", retryAfter.Seconds())
		header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	f.play = func(s *strike) { s.write(&answer{status, header.Clone(), nil}, []byte(gatewayPage)) }
	return f
}

func redirect(status int, name, to string, change func(*url.URL)) *fault {
	return &fault{name: name, what: fmt.Sprintf("%d to %s", status, to), status: status, play: func(s *strike) {
		to := &url.URL{Scheme: "https", Host: s.r.Host, Path: s.r.URL.Path, RawQuery: s.r.URL.RawQuery}
		q := to.Query()
		q.Set(moved, "1")
		to.RawQuery = q.Encode()
		change(to)
		s.write(&answer{status, http.Header{"Location": {to.String()}}, nil}, nil)
	}}
}

// answering is a fault of one exchange only.
func answering(name string, status int, body string) *fault {
	return &fault{name: name, status: status, play: func(s *strike) {
		s.write(&answer{status, http.Header{"Content-Type": {"application/json"}}, nil}, []byte(body))
	}}
}

// carriedOut is f, but what is hidden by it has happened.
func carriedOut(f *fault) *fault {
	c := *f
	c.name += ", carried out"
	c.play = func(s *strike) {
		s.answer()
		f.play(s)
	}
	return &c
}

func refuse(ctx context.Context, network, address string) (net.Conn, error) {
	// Nobody has listened on tcpmux for a long time.
	_, err := new(net.Dialer).DialContext(ctx, network, "127.0.0.1:1")
	if e, ok := err.(*net.OpError); ok {
		to := netip.MustParseAddrPort(address)
		return nil, &net.OpError{Op: e.Op, Net: e.Net, Addr: net.TCPAddrFromAddrPort(to), Err: e.Err}
	}
	return nil, fmt.Errorf("the dial of a port where nobody listens: %w", err)
}

func unknownName(_ context.Context, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (e *env) dialStranger(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, e.servers.stranger.Listener.Addr().String())
}

// answer has the request carried out.
func (s *strike) answer() *answer {
	if s.x == mcpGet { // a stream has no end; this one has an event
		return &answer{200, http.Header{"Content-Type": {"text/event-stream"}}, []byte(toolsChanged)}
	}
	resp, err := s.ask(s.r, s.body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	body = []byte(s.outward(string(body)))
	s.keepAnswer(body)
	resp.Header.Del("Content-Length")
	a := &answer{resp.StatusCode, resp.Header, body}
	if len(a.body) == 0 {
		a.body = []byte(`{"revoked":true}`) // that of a revocation has none
		a.header.Set("Content-Type", "application/json")
	}
	if (s.x == mcpPost || s.x == connecting) && s.json {
		a.body = a.body[bytes.IndexByte(a.body, '{') : bytes.LastIndexByte(a.body, '}')+1]
		a.header.Set("Content-Type", "application/json")
	}
	return a
}

// shape is what an answer looks like, without the request being carried out where it spends
// something.
func (s *strike) shape() *answer {
	switch s.x {
	case registration, codeExchange, refreshing, revocation:
		members := map[exchange]string{
			registration: `{"client_id":"client"}`, codeExchange: `{"access_token":"access"}`,
			refreshing: `{"access_token":"access"}`, revocation: `{"revoked":true}`,
		}
		return &answer{200, http.Header{"Content-Type": {"application/json"}}, []byte(members[s.x])}
	}
	return s.answer()
}

// edit returns the body with another object in place of its own, which may be an event's.
func (a *answer) edit(change func([]byte) []byte) []byte {
	start, end := bytes.IndexByte(a.body, '{'), bytes.LastIndexByte(a.body, '}')
	if start < 0 {
		return a.body
	}
	return slices.Concat(a.body[:start], change(a.body[start:end+1]), a.body[end+1:])
}

// write begins an answer with those bytes of a body.
func (s *strike) write(a *answer, body []byte) {
	maps.Copy(s.rw.Header(), a.header)
	s.rw.WriteHeader(a.status)
	_, _ = s.rw.Write(body)
	if a.header.Get("Content-Length") != "" || body == nil {
		s.flush()
	}
}

// goOn keeps a stream open that the client opened by itself.
func (s *strike) goOn() {
	if s.x == mcpGet {
		_, _ = io.WriteString(s.rw, toolsChanged)
		s.flush()
		s.hold()
	}
}

func (s *strike) flush() { _ = http.NewResponseController(s.rw).Flush() }

// hold keeps the answer back until the client has gone, or the fault has.
func (s *strike) hold() {
	select {
	case <-s.r.Context().Done():
	case <-s.ended:
	}
	panic(http.ErrAbortHandler)
}

// reset ends the connection as a router does that has forgotten it.
func (s *strike) reset() {
	// What was written must have arrived, or the reset overtakes it.
	time.Sleep(50 * time.Millisecond)
	conn := s.r.Context().Value(connKey{}).(net.Conn)
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}

// change returns an object whose members are objects, or a response whose result is a string.
func change(object []byte) []byte {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		return []byte(`{}`)
	}
	for name := range members {
		switch {
		case members["jsonrpc"] == nil:
			members[name] = json.RawMessage(`{"of":"another type"}`)
		case name == "result" || name == "method":
			members[name] = json.RawMessage(`["of another type"]`)
		}
	}
	out, _ := json.Marshal(members)
	return out
}

// twice returns an object in which each member comes twice.
func twice(object []byte) []byte {
	members := bytes.TrimSuffix(bytes.TrimPrefix(object, []byte("{")), []byte("}"))
	return slices.Concat([]byte("{"), members, []byte(","), members, []byte("}"))
}

// padded returns an object with a member that is to grow.
func padded(object []byte) []byte {
	return append(bytes.TrimSuffix(slices.Clone(object), []byte("}")), `,"padding":"PADDING"}`...)
}

const legendText = `Each fault is played to each exchange, through the whole client, against a sandbox that is seen as a public
server: names resolve to public addresses, https is spoken, and what breaks is a real connection. The client
holds a session from before, and opens no browser unless it is asked to sign in.

An error is named by what errors.Is and errors.As find in it. Requests are those of the exchange that the client
makes while the fault lasts; of an answer it reads 8 MiB at most, and 1 MiB if it is about OAuth. The store is
compared with what was in it before. Then the fault is taken away, and the same client tries again: it "goes on" if it
succeeds with what it has. Of what the user reads, CAUSE is the fault's own, and TIME and N vary.
`

// legend explains the faults.
func legend(*testing.T, *suite) string {
	var rows [][]string
	for _, f := range all {
		rows = append(rows, []string{f.name, f.what, f.cause})
	}
	return legendText + "\n" + table([]string{"fault", "what happens", "the cause in an error"}, rows)
}
