package gosdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/sandbox"
)

// Discovery.

func anotherResource(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Set: map[string]any{"resource": "https://elsewhere.example/mcp"}})
	api := strings.TrimPrefix(e.srv.APIURL(), "http://")
	e.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Status: http.StatusNotFound, Match: func(r *http.Request) bool {
		return r.Host == api // it is no authorization server
	}})
	p := e.run()
	_, err := e.try(p)
	happened, right := "nothing that was not announced is asked", true
	for _, r := range e.srv.Requests() {
		if r.Path == "/register" {
			happened, right = "registers at `/register` of the MCP server, which announces none", false
		}
	}
	why := err != nil && strings.Contains(err.Error(), "elsewhere.example")
	if !why {
		return happened + "; the error does not say what is wrong", false
	}
	return happened + "; the error names the other resource", right
}

// firstCandidate matches the address of server metadata that is tried first.
func firstCandidate(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/.well-known/oauth-authorization-server")
}

func htmlMetadata(e *env) (string, bool) {
	return e.firstCandidateIs(sandbox.Fault{Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}})
}

func brokenMetadata(e *env) (string, bool) {
	return e.firstCandidateIs(sandbox.Fault{Status: http.StatusInternalServerError, Body: "{}"})
}

func (e *env) firstCandidateIs(f sandbox.Fault) (string, bool) {
	e.serve(sandbox.Options{})
	f.Match = firstCandidate
	e.srv.Fail(sandbox.StepServerMetadata, f)
	p := e.run()
	_, err := e.try(p)
	return "the sign-in " + fate(p, err), err == nil
}

func plainOnly(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"code_challenge_methods_supported": []string{"plain"}}})
	p := e.run()
	_, err := e.try(p)
	return n(e.browser.count(), "browser") + ", the sign-in " + fate(p, err), e.browser.count() == 0 && err != nil
}

func noMetadata(e *env) (string, bool) {
	origin := e.listen(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/mcp":
			rw.Header().Set("WWW-Authenticate", "Bearer")
			rw.WriteHeader(http.StatusUnauthorized)
		case "/register":
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusCreated)
			fmt.Fprint(rw, `{"client_id": "client", "token_endpoint_auth_method": "none"}`)
		default:
			http.NotFound(rw, r)
		}
	})
	e.server = origin + "/mcp"
	_, err := e.try(e.run())
	if e.browser.count() > 0 {
		return "registers, and opens a browser at `/authorize`, without a word of PKCE", false
	}
	return "nothing but metadata is asked for, and no browser opens", err != nil
}

func fileURL(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": "file://localhost/etc/hosts"}})
	_, err := e.try(e.run())
	if e.browser.count() > 0 {
		return "the browser is told to open it", false
	}
	return "the browser is not told to open it", err != nil
}

func loopbackNamed(e *env) (string, bool) {
	var asked atomic.Bool
	local := e.listen(func(rw http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		http.NotFound(rw, r)
	})
	e.wire.hosts = map[string]http.HandlerFunc{"mcp.example.com": func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/oauth-protected-resource/mcp" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{"resource": "https://mcp.example.com/mcp", "authorization_servers": []string{local}})
	}}
	e.server = "https://mcp.example.com/mcp"
	_, err := e.try(e.run())
	if asked.Load() {
		return "a port of this computer is asked, over http", false
	}
	return "this computer is not asked", err != nil
}

// Registration.

func byHandFirst(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.clientID, e.document = e.srv.PublicClient(), "https://acme.example/client.json"
	_, _ = e.try(e.run()) // the sandbox does not fetch that document
	if e.browser.asked(e.t, "client_id") != e.clientID {
		return "the client made by hand is passed over", false
	}
	return "the client made by hand is used", true
}

func documentAsID(e *env) (string, bool) {
	var document string
	acme := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{
			"client_id": document, "client_name": "Acme Notes", "redirect_uris": []string{redirectURL}, "token_endpoint_auth_method": "none",
		})
	}))
	e.ends = append(e.ends, acme.Close)
	document = acme.URL + "/client.json"
	e.serve(sandbox.Options{HTTPClient: acme.Client()})
	e.document = document
	e.connects()
	times, codes := e.wire.sent("code")
	return n(codes, "code") + ", sent " + n(times, "time"), times == codes
}

func registrationRefused(e *env) (string, bool) {
	e.serve(sandbox.Options{Registration: "refused"})
	p := e.run()
	_, err := e.try(p)
	if err == nil {
		e.t.Fatal("a sign-in without a client succeeds")
	}
	happened, raw := "the sign-in "+fate(p, err), strings.Contains(err.Error(), `{"error"`)
	if raw {
		happened += " and holds the whole answer"
	}
	if !strings.Contains(err.Error(), "Policy 'Trusted Hosts' rejected") {
		return happened + " and does not say why", false
	}
	return happened + " and says why", p.names(err) != "" && !raw
}

func registrationWithKeys(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepRegister, sandbox.Fault{Set: map[string]any{"jwks": map[string]any{"keys": []any{}}}})
	p := e.run()
	_, err := e.try(p)
	return "the sign-in " + fate(p, err), err == nil
}

func registeredOnce(e *env) (string, bool) {
	e.serve(sandbox.Options{CheckSession: true})
	p, session := e.connects()
	e.signOut()
	if err := e.call(session); err != nil {
		e.t.Fatal(err)
	}
	p.stop()
	e.signOut()
	e.connects()
	return e.registered(), e.steps(sandbox.StepRegister, "") == 1
}

// signOut takes away all that the user was given, so that only a new sign-in helps.
func (e *env) signOut() {
	e.pass(2 * time.Minute) // a token that was new would not be renewed before anybody is asked
	if err := e.srv.RevokeUser("olivia"); err != nil {
		e.t.Fatal(err)
	}
}

// Sign-in.

func unadvertisedIss(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_response_iss_parameter_supported": nil}})
	p := e.run()
	_, err := e.try(p)
	happened := "the sign-in " + fate(p, err)
	if e.acceptIss = true; err != nil {
		p = e.run()
		_, err := e.try(p)
		happened += ", and with `AcceptUnadvertisedIss` it " + fate(p, err)
	}
	return happened, err == nil
}

func deniedOnce(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.deny()
	p := e.run()
	_, err := e.try(p)
	return n(e.browser.count(), "browser") + ", the sign-in " + fate(p, err), e.browser.count() == 1
}

func (e *env) deny() {
	e.srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied"}})
}

func fiveAtOnce(e *env) (string, bool) {
	const calls = 5
	e.serve(sandbox.Options{CheckSession: true})
	_, session := e.connects()
	e.signOut()
	// The user takes so long that whoever is to open a browser has opened it.
	opened, approved := make(chan struct{}, calls), make(chan struct{})
	e.browser.before = func() {
		opened <- struct{}{}
		<-approved
	}
	go func() {
		defer close(approved)
		for range calls {
			select {
			case <-opened:
			case <-time.After(e.kind.browser):
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if err := e.call(session); err != nil {
				e.t.Errorf("call: %v", err)
			}
		})
	}
	wg.Wait()
	again := e.browser.count() - 1
	return n(again, "more browser") + ", " + n(e.steps(sandbox.StepRegister, "")-1, "more client") + " registered", again == 1
}

// Tokens.

// life is that of the sandbox's access tokens.
const life = 30 * time.Minute

func noRefreshToken(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	e.srv.Fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"refresh_token": nil}})
	return e.afterExpiry()
}

func clientDeleted(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	return e.afterExpiry(func() {
		for _, r := range e.srv.Requests() {
			if r.Step == sandbox.StepRegister {
				if err := e.srv.DeleteClient(r.ClientID); err != nil {
					e.t.Fatal(err)
				}
			}
		}
	})
}

// afterExpiry tells what becomes of calls with a token that has ended.
func (e *env) afterExpiry(before ...func()) (string, bool) {
	p, session := e.connects()
	for _, f := range before {
		f()
	}
	e.pass(life + time.Minute)
	was := e.steps(sandbox.StepMCP, "") + e.steps(sandbox.StepChallenge, "")
	err := e.call(session)
	if err == nil {
		return e.registered() + ", the call succeeds", e.browser.count() == 2
	}
	lasts := e.call(session) != nil
	lasts = e.call(session) != nil && lasts
	happened := e.registered() + ", the call " + fate(p, err)
	if lasts {
		happened += " and every later one too"
	}
	if e.steps(sandbox.StepMCP, "")+e.steps(sandbox.StepChallenge, "") == was {
		happened += "; none is sent"
	}
	return happened, false
}

func accessRevoked(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	_, session := e.connects()
	e.pass(2 * time.Minute) // ours does not renew a token that is new
	if err := e.srv.ExpireAccess("olivia"); err != nil {
		e.t.Fatal(err)
	}
	if err := e.call(session); err != nil {
		e.t.Fatal(err)
	}
	refreshes := e.steps(sandbox.StepRefresh, "")
	return n(refreshes, "refresh request") + ", " + n(e.browser.count(), "browser"), refreshes == 1 && e.browser.count() == 1
}

func resourceAtRefresh(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	_, session := e.connects()
	e.pass(life + time.Minute)
	if err := e.call(session); err != nil {
		e.t.Fatal(err)
	}
	for _, r := range e.srv.Requests() {
		if r.Step == sandbox.StepRefresh {
			if r.Params.Get("resource") != e.srv.Resource() {
				return "`resource` is left out", false
			}
			return "`resource` is sent", true
		}
	}
	e.t.Fatal("no refresh")
	return "", false
}

func liveWhileRefreshed(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	_, session := e.connects()
	e.pass(life - 9*time.Second) // x/oauth2 renews in the last ten seconds, ours in the last minute
	held := e.wire.hold()
	called, asked := make(chan error, 1), make(chan struct{})
	go func() { called <- e.call(session) }()
	e.await(held)
	go func() {
		_ = session.ID() // which needs no token
		close(asked)
	}()
	result, enough := called, time.After(e.kind.result)
	for result != nil || asked != nil {
		select {
		case err := <-result:
			if err != nil {
				e.t.Fatal(err)
			}
			result = nil
		case <-asked:
			asked = nil
		case <-enough:
			e.wire.release()
			if result == nil || asked == nil {
				e.t.Fatal("one of the two does not wait")
			}
			if err := <-called; err != nil {
				e.t.Fatal(err)
			}
			return "it waits for the refresh, and so does who asks for the session's ID", false
		}
	}
	return "it has its result before the refresh has ended", true
}

func cancelledWhileRefreshed(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	p, session := e.connects()
	e.pass(life + time.Minute)
	held := e.wire.hold()
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx, session) }()
	e.await(held)
	cancel()
	select {
	case err := <-done:
		return "the call " + fate(p, err) + " at once", true
	case <-time.After(e.kind.result):
	}
	e.wire.release()
	<-done
	return "the call goes on until the refresh has ended", false
}

func notSaved(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	p, session := e.connects()
	e.pass(life + time.Minute)
	mend := e.breakDisk()
	err := e.call(session)
	happened := "while it cannot be saved a call " + fate(p, err) + ", "
	p.stop()
	mend()
	e.connects()
	times, tokens := e.wire.sent("refresh_token")
	return happened + e.spent(), times == tokens && e.browser.count() == 1
}

// breakDisk has nothing that can be written to where programs keep things.
func (e *env) breakDisk() (mend func()) {
	away := e.disk + ".away"
	if err := os.Rename(e.disk, away); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(e.disk, nil, 0o600); err != nil {
		e.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(e.disk); err != nil {
			e.t.Fatal(err)
		}
		if err := os.Rename(away, e.disk); err != nil {
			e.t.Fatal(err)
		}
	}
}

// spent tells how the sessions of all programs fared.
func (e *env) spent() string {
	times, tokens := e.wire.sent("refresh_token")
	happened := "each refresh token is sent once"
	if times > tokens {
		happened = "a refresh token is sent twice"
	}
	if e.steps(sandbox.StepRefresh, "invalid_grant") > 0 {
		happened += " and the server ends the session"
	}
	return happened + "; " + n(e.browser.count(), "browser")
}

func twoProcesses(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	_, one := e.connects()
	_, two := e.connects() // from what the first has saved
	if e.browser.count() != 1 {
		e.t.Fatal("the session was not restored")
	}
	e.pass(life + time.Minute)
	for _, session := range []*mcp.ClientSession{one, two} {
		if err := e.call(session); err != nil {
			e.t.Fatal(err)
		}
	}
	times, tokens := e.wire.sent("refresh_token")
	return e.spent(), times == tokens && e.browser.count() == 1
}

// Scopes and refusals.

// stepUp is a sandbox with a tool that needs another scope than a sign-in gives.
var stepUp = sandbox.Options{
	ChallengeScopes: []string{"openid", "email"},
	ToolScopes:      map[string]string{"list_spaces": "spaces:read"},
}

func scopesOfRestored(e *env) (string, bool) {
	e.serve(stepUp)
	p, _ := e.connects()
	p.stop()
	_, session := e.connects()
	if e.browser.count() != 1 {
		e.t.Fatal("the session was not restored")
	}
	if err := e.call(session); err != nil {
		e.t.Fatal(err)
	}
	scopes := strings.Fields(e.browser.asked(e.t, "scope"))
	slices.Sort(scopes)
	return "asks for `" + strings.Join(scopes, " ") + "`", slices.Equal(scopes, []string{"email", "openid", "spaces:read"})
}

func scopesDenied(e *env) (string, bool) {
	e.serve(stepUp)
	_, session := e.connects()
	e.deny()
	for range 3 {
		if err := e.call(session); err == nil {
			e.t.Fatal("a call without its scope succeeds")
		}
	}
	asked := e.browser.count() - 1
	return n(asked, "more browser") + " for 3 calls", asked == 1
}

func forbidden(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	return e.refused(sandbox.Fault{Status: http.StatusForbidden, Body: "no"})
}

func refusedTwice(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	return e.refused(sandbox.Fault{Status: http.StatusUnauthorized, Body: "no", Header: http.Header{
		"Www-Authenticate": {`Bearer error="invalid_token", resource_metadata="` + e.srv.APIURL() + `/.well-known/oauth-protected-resource"`},
	}})
}

// refused tells what becomes of a session one call of which is refused.
func (e *env) refused(f sandbox.Fault) (string, bool) {
	p, session := e.connects()
	undo := e.srv.Fail(sandbox.StepMCP, f)
	err := e.call(session)
	undo()
	struck := 0
	for _, r := range e.srv.Requests() {
		if r.Fault && r.RPC == "tools/call" {
			struck++
		}
	}
	if err == nil {
		e.t.Fatal("a refused call succeeds")
	}
	after, right := e.goesOn(session)
	return "sent " + n(struck, "time") + ", " + n(e.browser.count(), "browser") + ", the call " + fate(p, err) + "; " + after, right
}

func sessionForgotten(e *env) (string, bool) {
	e.serve(sandbox.Options{Protocol: "legacy"})
	p, session := e.connects()
	e.srv.EndMCPSessions()
	err := e.call(session)
	after, right := e.goesOn(session)
	return "the next call " + fate(p, err) + "; " + after, right
}

// Redirects.

func redirectedElsewhere(e *env) (string, bool) {
	e.serve(sandbox.Options{})
	_, session := e.connects()
	var leaked atomic.Bool
	elsewhere := e.listen(func(rw http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization") != "")
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	e.srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: http.StatusTemporaryRedirect, Body: "x", Header: http.Header{"Location": {elsewhere}}})
	if err := e.call(session); err == nil {
		e.t.Fatal("a redirected call succeeds")
	}
	return sentOn(leaked.Load())
}

func redirectedToHTTP(e *env) (string, bool) {
	const server = "https://mcp.example.com/mcp"
	var leaked, asked atomic.Bool
	e.wire.hosts = map[string]http.HandlerFunc{"mcp.example.com": func(rw http.ResponseWriter, r *http.Request) {
		with := r.Header.Get("Authorization") != ""
		if r.URL.Scheme == "https" {
			asked.Store(asked.Load() || with)
			http.Redirect(rw, r, (&url.URL{Scheme: "http", Host: "mcp.example.com", Path: "/mcp"}).String(), http.StatusTemporaryRedirect)
			return
		}
		leaked.Store(leaked.Load() || with)
		rw.WriteHeader(http.StatusServiceUnavailable)
	}}
	e.server = server
	e.kind.restored(e, server, "token")
	if _, err := e.try(e.run()); err == nil || !asked.Load() {
		e.t.Fatalf("Connect: %v; the token was used: %v", err, asked.Load())
	}
	return sentOn(leaked.Load())
}

func sentOn(leaked bool) (string, bool) {
	if leaked {
		return "the token is sent along", false
	}
	return "the token is not sent along", true
}
