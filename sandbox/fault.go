package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// A Step names what a request belongs to, in the request log and for faults.
type Step string

// The steps in the order in which a client meets them.
const (
	StepChallenge        Step = "challenge"         // a request without a token to the MCP endpoint or the Public API
	StepResourceMetadata Step = "resource-metadata" // RFC 9728
	StepServerMetadata   Step = "server-metadata"   // RFC 8414, OpenID Connect Discovery, and the key set
	StepRegister         Step = "register"          // RFC 7591, RFC 7592
	StepAuthorize        Step = "authorize"         // the authorization endpoint and the pages behind it
	StepExchange         Step = "exchange"          // token endpoint, every grant but refresh_token
	StepRefresh          Step = "refresh"           // token endpoint, grant_type=refresh_token
	StepRevoke           Step = "revoke"            // RFC 7009, and the end-session endpoint
	StepMCP              Step = "mcp"               // a request with a token to the MCP endpoint
	StepAPI              Step = "api"               // a request with a token to the Public API
)

// A Fault says how requests of a step go wrong. The zero value does nothing.
// Some that happen in the world:
//
//	Fault{Status: 503, Header: http.Header{"Retry-After": {"2"}}}       // overloaded
//	Fault{CarryOut: true, Drop: true, Times: 1}                         // carried out, the answer is lost
//	Fault{Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}} // a proxy's page
//	Fault{Set: map[string]any{"iss": "https://attacker.example"}}        // a mixed-up redirect
//	Fault{Set: map[string]any{"code_challenge_methods_supported": []string{"plain"}}}
//	Fault{Set: map[string]any{"refresh_token": nil}}                     // a member that is missing
type Fault struct {
	Times int                      // how many requests it strikes; 0: all, until it is undone
	Skip  int                      // how many requests it lets pass before that
	Delay time.Duration            // waits before anything else; real time
	Match func(*http.Request) bool // chooses requests; nil: all of the step; it must not read the body

	// Status and Body answer instead of the sandbox. With a Body and no Status
	// it is 200. Content-Type is application/json unless Header says otherwise.
	Status int
	Body   string

	// Header is set on the answer, whether it is the sandbox's own or the one
	// above. A nil value removes a header.
	Header http.Header

	// Set overwrites members of a JSON answer or, if the answer is a redirect,
	// parameters of its query. nil removes one.
	Set map[string]any

	// Drop closes the connection instead of answering, after the first Cut
	// bytes of the answer's body if Cut is above 0.
	Drop bool
	Cut  int

	// CarryOut carries the request out although Status, Body or Drop hide its
	// answer. Header and Set alone imply it. It waits for the whole answer, so it
	// is not for streams.
	CarryOut bool
}

type activeFault struct {
	step Step
	Fault
	struck int
}

// Fail makes requests of a step go wrong until undo is called. If several faults
// apply to a request, the latest one strikes.
func (s *Server) Fail(step Step, f Fault) (undo func()) {
	a := &activeFault{step: step, Fault: f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, a)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(x *activeFault) bool { return x == a })
	}
}

// fault returns the fault that strikes a request, nil if none does.
func (s *Server) fault(step Step, r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range slices.Backward(s.faults) {
		if a.step != step || a.Match != nil && !a.Match(r) || a.Times > 0 && a.struck >= a.Times {
			continue
		}
		if a.Skip > 0 {
			a.Skip--
			continue
		}
		a.struck++
		f := a.Fault
		return &f
	}
	return nil
}

// strike answers r as the fault says.
func (f *Fault) strike(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	replaced := f.Status != 0 || f.Body != ""
	if !replaced && !f.Drop && f.Header == nil && f.Set == nil && !f.CarryOut {
		next.ServeHTTP(w, r)
		return
	}
	rec := &recorder{header: make(http.Header), status: http.StatusOK}
	if f.CarryOut || !replaced && (!f.Drop || f.Cut > 0) {
		next.ServeHTTP(rec, r)
	}
	if replaced {
		*rec = recorder{header: http.Header{"Content-Type": {"application/json"}}, status: f.Status}
		if rec.status == 0 {
			rec.status = http.StatusOK
		}
		rec.body.WriteString(f.Body)
	}
	if f.Set != nil {
		f.rewrite(rec)
	}
	for k, v := range f.Header {
		if v == nil {
			rec.header.Del(k)
		} else {
			rec.header[http.CanonicalHeaderKey(k)] = v
		}
	}
	f.send(w, rec)
}

// send sends the answer that rec keeps, whole or up to where the fault cuts it.
func (f *Fault) send(w http.ResponseWriter, rec *recorder) {
	body := rec.body.Bytes()
	if f.Drop {
		if f.Cut <= 0 {
			panic(http.ErrAbortHandler)
		}
		defer panic(http.ErrAbortHandler)
	}
	for k, v := range rec.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if rec.status >= 200 && (rec.status == http.StatusNoContent || rec.status == http.StatusNotModified) {
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(rec.status)
	if f.Drop {
		body = body[:min(f.Cut, max(0, len(body)-1))]
	}
	w.Write(body)
	if f.Drop {
		http.NewResponseController(w).Flush()
	}
}

// rewrite changes the members of a JSON answer, or the parameters of a redirect, as Set says.
func (f *Fault) rewrite(rec *recorder) {
	if loc := rec.header.Get("Location"); loc != "" && rec.status/100 == 3 {
		u, err := url.Parse(loc)
		if err != nil {
			return
		}
		q := u.Query()
		for k, v := range f.Set {
			if v == nil {
				q.Del(k)
			} else {
				q.Set(k, fmt.Sprint(v))
			}
		}
		u.RawQuery = q.Encode()
		rec.header.Set("Location", u.String())
		return
	}
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(rec.body.Bytes()))
	dec.UseNumber()
	if dec.Decode(&doc) != nil {
		return
	}
	for k, v := range f.Set {
		if v == nil {
			delete(doc, k)
		} else {
			doc[k] = v
		}
	}
	if b, err := json.Marshal(doc); err == nil {
		rec.body.Reset()
		rec.body.Write(b)
	}
}

// A recorder keeps an answer instead of sending it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	wrote  bool
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) Flush()              {}
func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, true
	}
}
func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = true
	return r.body.Write(b)
}
