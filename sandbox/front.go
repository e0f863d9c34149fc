package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxBody is the largest form or JSON document that is read.
const maxBody = 256 << 10

// front is the way of every request: checks against pages of other sites, which may make a browser
// send requests here, then the log, then the faults.
func (s *Server) front(host string, next http.Handler) http.Handler {
	foreign := http.NewCrossOriginProtection()
	foreign.AddInsecureBypassPattern("POST " + realmPath + oidcPath + "/auth") // applications may (RFC 6749 §3.1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) { // a page's name was made to point here (DNS rebinding)
			http.Error(w, "not a host of this sandbox", http.StatusMisdirectedRequest)
			return
		}
		if foreign.Check(r) != nil {
			http.Error(w, "not for pages of another origin", http.StatusForbidden)
			return
		}
		e := &Request{Time: s.now(), Host: host, Method: r.Method, Path: clip(r.URL.Path), UserAgent: clip(r.UserAgent())}
		if err := s.identify(w, r, e); err != nil {
			e.Status = http.StatusBadRequest
			if mb := (*http.MaxBytesError)(nil); errors.As(err, &mb) {
				e.Status = http.StatusRequestEntityTooLarge
			}
			s.log.add(e)
			http.Error(w, "unreadable request", e.Status)
			return
		}
		f := s.fault(e.Step, r)
		e.Fault = f != nil
		s.log.add(e)
		r = r.WithContext(context.WithValue(r.Context(), entryKey{}, e))
		lw := &logWriter{ResponseWriter: w, s: s, r: r}
		if s.opts.Logger != nil {
			start := time.Now()
			defer func() { s.print(e, time.Since(start)) }()
		}
		if f != nil {
			f.strike(lw, r, next)
			return
		}
		next.ServeHTTP(lw, r)
	})
}

// loopbackHost reports whether host, with or without a port, is this machine.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// identify fills in the log entry of a request before it is carried out. It reads the body and puts it
// back.
func (s *Server) identify(w http.ResponseWriter, r *http.Request, e *Request) error {
	if e.Host == "api" {
		e.Step = apiStep(r)
		if r.URL.Path == "/mcp" && r.Method == http.MethodPost {
			return peekRPC(w, r, e)
		}
		return nil
	}
	e.Step = authStep(r.URL.Path)
	body, err := readAll(w, r, maxBody)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseForm(); err != nil {
		return err
	}
	if e.Step == StepExchange && r.PostForm.Get("grant_type") == "refresh_token" {
		e.Step = StepRefresh
	}
	for _, k := range harmless {
		if v := r.Form[k]; v != nil {
			if e.Params == nil {
				e.Params = make(url.Values)
			}
			for _, x := range v[:min(len(v), 8)] {
				e.Params.Add(k, clip(x))
			}
		}
	}
	e.ClientID = clip(r.Form.Get("client_id"))
	return nil
}

// apiStep returns the step of a request to the API host, "" if it belongs to none.
func apiStep(r *http.Request) Step {
	switch p := r.URL.Path; {
	case strings.HasPrefix(p, "/.well-known/oauth-protected-resource"):
		return StepResourceMetadata
	case strings.HasPrefix(p, "/.well-known/"):
		return StepServerMetadata
	case p != "/mcp" && !strings.HasPrefix(p, "/api/"):
		return ""
	case r.Header.Get("Authorization") == "":
		return StepChallenge
	case p == "/mcp":
		return StepMCP
	}
	return StepAPI
}

// authStep returns the step of a path of the authorization host, "" if it belongs to none. The
// token endpoint is [StepExchange]; the form alone tells a refresh from it.
func authStep(path string) Step {
	p, realm := strings.CutPrefix(path, realmPath)
	switch {
	case strings.HasPrefix(path, "/.well-known/"), p == "/.well-known/openid-configuration", p == oidcPath+"/certs":
		return StepServerMetadata
	case !realm:
		return ""
	case strings.HasPrefix(p, registrationPath):
		return StepRegister
	case p == oidcPath+"/auth", strings.HasPrefix(p, "/login-actions/"):
		return StepAuthorize
	case p == oidcPath+"/token":
		return StepExchange
	case p == oidcPath+"/revoke", p == oidcPath+"/logout":
		return StepRevoke
	}
	return ""
}

type rpcKey struct{}

// rpcCall holds the members of a JSON-RPC message that the sandbox reads before the
// SDK does.
type rpcCall struct {
	Method string `json:"method"`
	Params struct {
		Name string `json:"name"`
	} `json:"params"`
}

func peekRPC(w http.ResponseWriter, r *http.Request, e *Request) error {
	body, err := readAll(w, r, 4<<20)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var call rpcCall
	if json.Unmarshal(body, &call) == nil {
		e.RPC = clip(call.Method)
		*r = *r.WithContext(context.WithValue(r.Context(), rpcKey{}, call))
	}
	return nil
}

// readAll reads a body of at most max bytes in at most 30 seconds. A timeout of the
// whole server would end streams too.
func readAll(w http.ResponseWriter, r *http.Request, max int64) ([]byte, error) {
	conn := http.NewResponseController(w)
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	defer conn.SetReadDeadline(time.Time{})
	return io.ReadAll(http.MaxBytesReader(w, r.Body, max))
}
