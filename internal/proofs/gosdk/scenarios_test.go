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

func anotherResource(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepResourceMetadata, sandbox.Fault{Set: map[string]any{"resource": "https://elsewhere.example/mcp"}})
	api := strings.TrimPrefix(w.srv.APIURL(), "http://")
	w.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Status: http.StatusNotFound, Match: func(r *http.Request) bool {
		return r.Host == api // it is no authorization server
	}})
	p := w.run()
	_, err := w.try(p)
	happened, right := "nothing that was not announced is asked", true
	for _, r := range w.srv.Requests() {
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

func htmlMetadata(w *world) (string, bool) {
	return w.firstCandidateIs(sandbox.Fault{Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}})
}

func brokenMetadata(w *world) (string, bool) {
	return w.firstCandidateIs(sandbox.Fault{Status: http.StatusInternalServerError, Body: "{}"})
}

func (w *world) firstCandidateIs(f sandbox.Fault) (string, bool) {
	w.serve(sandbox.Options{})
	f.Match = firstCandidate
	w.srv.Fail(sandbox.StepServerMetadata, f)
	p := w.run()
	_, err := w.try(p)
	return "the sign-in " + fate(p, err), err == nil
}

func plainOnly(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"code_challenge_methods_supported": []string{"plain"}}})
	p := w.run()
	_, err := w.try(p)
	return n(w.browser.count(), "browser") + ", the sign-in " + fate(p, err), w.browser.count() == 0 && err != nil
}

func noMetadata(w *world) (string, bool) {
	origin := w.listen(func(rw http.ResponseWriter, r *http.Request) {
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
	w.server = origin + "/mcp"
	_, err := w.try(w.run())
	if w.browser.count() > 0 {
		return "registers, and opens a browser at `/authorize`, without a word of PKCE", false
	}
	return "nothing but metadata is asked for, and no browser opens", err != nil
}

func fileURL(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_endpoint": "file://localhost/etc/hosts"}})
	_, err := w.try(w.run())
	if w.browser.count() > 0 {
		return "the browser is told to open it", false
	}
	return "the browser is not told to open it", err != nil
}

func loopbackNamed(w *world) (string, bool) {
	var asked atomic.Bool
	local := w.listen(func(rw http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		http.NotFound(rw, r)
	})
	w.wire.hosts = map[string]http.HandlerFunc{"mcp.example.com": func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/oauth-protected-resource/mcp" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{"resource": "https://mcp.example.com/mcp", "authorization_servers": []string{local}})
	}}
	w.server = "https://mcp.example.com/mcp"
	_, err := w.try(w.run())
	if asked.Load() {
		return "a port of this computer is asked, over http", false
	}
	return "this computer is not asked", err != nil
}

// Registration.

func byHandFirst(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.clientID, w.document = w.srv.PublicClient(), "https://acme.example/client.json"
	_, _ = w.try(w.run()) // the sandbox does not fetch that document
	if w.browser.asked(w.t, "client_id") != w.clientID {
		return "the client made by hand is passed over", false
	}
	return "the client made by hand is used", true
}

func documentAsID(w *world) (string, bool) {
	var document string
	acme := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{
			"client_id": document, "client_name": "Acme Notes", "redirect_uris": []string{redirectURL}, "token_endpoint_auth_method": "none",
		})
	}))
	w.ends = append(w.ends, acme.Close)
	document = acme.URL + "/client.json"
	w.serve(sandbox.Options{HTTPClient: acme.Client()})
	w.document = document
	w.connects()
	times, codes := w.wire.sent("code")
	return n(codes, "code") + ", sent " + n(times, "time"), times == codes
}

func registrationRefused(w *world) (string, bool) {
	w.serve(sandbox.Options{Registration: "refused"})
	p := w.run()
	_, err := w.try(p)
	if err == nil {
		w.t.Fatal("a sign-in without a client succeeds")
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

func registrationWithKeys(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepRegister, sandbox.Fault{Set: map[string]any{"jwks": map[string]any{"keys": []any{}}}})
	p := w.run()
	_, err := w.try(p)
	return "the sign-in " + fate(p, err), err == nil
}

func registeredOnce(w *world) (string, bool) {
	w.serve(sandbox.Options{CheckSession: true})
	p, session := w.connects()
	w.signOut()
	if err := w.call(session); err != nil {
		w.t.Fatal(err)
	}
	p.stop()
	w.signOut()
	w.connects()
	return w.registered(), w.steps(sandbox.StepRegister, "") == 1
}

// signOut takes away all that the user was given, so that only a new sign-in helps.
func (w *world) signOut() {
	w.pass(2 * time.Minute) // a token that was new would not be renewed before anybody is asked
	if err := w.srv.RevokeUser("olivia"); err != nil {
		w.t.Fatal(err)
	}
}

// Sign-in.

func unadvertisedIss(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepServerMetadata, sandbox.Fault{Set: map[string]any{"authorization_response_iss_parameter_supported": nil}})
	p := w.run()
	_, err := w.try(p)
	happened := "the sign-in " + fate(p, err)
	if w.acceptIss = true; err != nil {
		p = w.run()
		_, err := w.try(p)
		happened += ", and with `AcceptUnadvertisedIss` it " + fate(p, err)
	}
	return happened, err == nil
}

func deniedOnce(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.deny()
	p := w.run()
	_, err := w.try(p)
	return n(w.browser.count(), "browser") + ", the sign-in " + fate(p, err), w.browser.count() == 1
}

func (w *world) deny() {
	w.srv.Fail(sandbox.StepAuthorize, sandbox.Fault{Set: map[string]any{"code": nil, "error": "access_denied"}})
}

func fiveAtOnce(w *world) (string, bool) {
	const calls = 5
	w.serve(sandbox.Options{CheckSession: true})
	_, session := w.connects()
	w.signOut()
	// The user takes so long that whoever is to open a browser has opened it.
	opened, approved := make(chan struct{}, calls), make(chan struct{})
	w.browser.before = func() {
		opened <- struct{}{}
		<-approved
	}
	go func() {
		defer close(approved)
		for range calls {
			select {
			case <-opened:
			case <-time.After(w.kind.browser):
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if err := w.call(session); err != nil {
				w.t.Errorf("call: %v", err)
			}
		})
	}
	wg.Wait()
	again := w.browser.count() - 1
	return n(again, "more browser") + ", " + n(w.steps(sandbox.StepRegister, "")-1, "more client") + " registered", again == 1
}

// Tokens.

// life is that of the sandbox's access tokens.
const life = 30 * time.Minute

func noRefreshToken(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	w.srv.Fail(sandbox.StepExchange, sandbox.Fault{Set: map[string]any{"refresh_token": nil}})
	return w.afterExpiry()
}

func clientDeleted(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	return w.afterExpiry(func() {
		for _, r := range w.srv.Requests() {
			if r.Step == sandbox.StepRegister {
				if err := w.srv.DeleteClient(r.ClientID); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	})
}

// afterExpiry tells what becomes of calls with a token that has ended.
func (w *world) afterExpiry(before ...func()) (string, bool) {
	p, session := w.connects()
	for _, f := range before {
		f()
	}
	w.pass(life + time.Minute)
	was := w.steps(sandbox.StepMCP, "") + w.steps(sandbox.StepChallenge, "")
	err := w.call(session)
	if err == nil {
		return w.registered() + ", the call succeeds", w.browser.count() == 2
	}
	lasts := w.call(session) != nil
	lasts = w.call(session) != nil && lasts
	happened := w.registered() + ", the call " + fate(p, err)
	if lasts {
		happened += " and every later one too"
	}
	if w.steps(sandbox.StepMCP, "")+w.steps(sandbox.StepChallenge, "") == was {
		happened += "; none is sent"
	}
	return happened, false
}

func accessRevoked(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	_, session := w.connects()
	w.pass(2 * time.Minute) // ours does not renew a token that is new
	if err := w.srv.ExpireAccess("olivia"); err != nil {
		w.t.Fatal(err)
	}
	if err := w.call(session); err != nil {
		w.t.Fatal(err)
	}
	refreshes := w.steps(sandbox.StepRefresh, "")
	return n(refreshes, "refresh request") + ", " + n(w.browser.count(), "browser"), refreshes == 1 && w.browser.count() == 1
}

func resourceAtRefresh(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	_, session := w.connects()
	w.pass(life + time.Minute)
	if err := w.call(session); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range w.srv.Requests() {
		if r.Step == sandbox.StepRefresh {
			if r.Params.Get("resource") != w.srv.Resource() {
				return "`resource` is left out", false
			}
			return "`resource` is sent", true
		}
	}
	w.t.Fatal("no refresh")
	return "", false
}

func liveWhileRefreshed(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	_, session := w.connects()
	w.pass(life - 9*time.Second) // x/oauth2 renews in the last ten seconds, ours in the last minute
	held := w.wire.hold()
	called, asked := make(chan error, 1), make(chan struct{})
	go func() { called <- w.call(session) }()
	w.await(held)
	go func() {
		_ = session.ID() // which needs no token
		close(asked)
	}()
	result, enough := called, time.After(w.kind.result)
	for result != nil || asked != nil {
		select {
		case err := <-result:
			if err != nil {
				w.t.Fatal(err)
			}
			result = nil
		case <-asked:
			asked = nil
		case <-enough:
			w.wire.release()
			if result == nil || asked == nil {
				w.t.Fatal("one of the two does not wait")
			}
			if err := <-called; err != nil {
				w.t.Fatal(err)
			}
			return "it waits for the refresh, and so does who asks for the session's ID", false
		}
	}
	return "it has its result before the refresh has ended", true
}

func cancelledWhileRefreshed(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	p, session := w.connects()
	w.pass(life + time.Minute)
	held := w.wire.hold()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx, session) }()
	w.await(held)
	cancel()
	select {
	case err := <-done:
		return "the call " + fate(p, err) + " at once", true
	case <-time.After(w.kind.result):
	}
	w.wire.release()
	<-done
	return "the call goes on until the refresh has ended", false
}

func notSaved(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	p, session := w.connects()
	w.pass(life + time.Minute)
	mend := w.breakDisk()
	err := w.call(session)
	happened := "while it cannot be saved a call " + fate(p, err) + ", "
	p.stop()
	mend()
	w.connects()
	times, tokens := w.wire.sent("refresh_token")
	return happened + w.spent(), times == tokens && w.browser.count() == 1
}

// breakDisk has nothing that can be written to where programs keep things.
func (w *world) breakDisk() (mend func()) {
	away := w.disk + ".away"
	if err := os.Rename(w.disk, away); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.disk, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(w.disk); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Rename(away, w.disk); err != nil {
			w.t.Fatal(err)
		}
	}
}

// spent tells how the sessions of all programs fared.
func (w *world) spent() string {
	times, tokens := w.wire.sent("refresh_token")
	happened := "each refresh token is sent once"
	if times > tokens {
		happened = "a refresh token is sent twice"
	}
	if w.steps(sandbox.StepRefresh, "invalid_grant") > 0 {
		happened += " and the server ends the session"
	}
	return happened + "; " + n(w.browser.count(), "browser")
}

func twoProcesses(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	_, one := w.connects()
	_, two := w.connects() // from what the first has saved
	if w.browser.count() != 1 {
		w.t.Fatal("the session was not restored")
	}
	w.pass(life + time.Minute)
	for _, session := range []*mcp.ClientSession{one, two} {
		if err := w.call(session); err != nil {
			w.t.Fatal(err)
		}
	}
	times, tokens := w.wire.sent("refresh_token")
	return w.spent(), times == tokens && w.browser.count() == 1
}

// Scopes and refusals.

// stepUp is a sandbox with a tool that needs another scope than a sign-in gives.
var stepUp = sandbox.Options{
	ChallengeScopes: []string{"openid", "email"},
	ToolScopes:      map[string]string{"list_spaces": "spaces:read"},
}

func scopesOfRestored(w *world) (string, bool) {
	w.serve(stepUp)
	p, _ := w.connects()
	p.stop()
	_, session := w.connects()
	if w.browser.count() != 1 {
		w.t.Fatal("the session was not restored")
	}
	if err := w.call(session); err != nil {
		w.t.Fatal(err)
	}
	scopes := strings.Fields(w.browser.asked(w.t, "scope"))
	slices.Sort(scopes)
	return "asks for `" + strings.Join(scopes, " ") + "`", slices.Equal(scopes, []string{"email", "openid", "spaces:read"})
}

func scopesDenied(w *world) (string, bool) {
	w.serve(stepUp)
	_, session := w.connects()
	w.deny()
	for range 3 {
		if err := w.call(session); err == nil {
			w.t.Fatal("a call without its scope succeeds")
		}
	}
	asked := w.browser.count() - 1
	return n(asked, "more browser") + " for 3 calls", asked == 1
}

func forbidden(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	return w.refused(sandbox.Fault{Status: http.StatusForbidden, Body: "no"})
}

func refusedTwice(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	return w.refused(sandbox.Fault{Status: http.StatusUnauthorized, Body: "no", Header: http.Header{
		"Www-Authenticate": {`Bearer error="invalid_token", resource_metadata="` + w.srv.APIURL() + `/.well-known/oauth-protected-resource"`},
	}})
}

// refused tells what becomes of a session one call of which is refused.
func (w *world) refused(f sandbox.Fault) (string, bool) {
	p, session := w.connects()
	undo := w.srv.Fail(sandbox.StepMCP, f)
	err := w.call(session)
	undo()
	struck := 0
	for _, r := range w.srv.Requests() {
		if r.Fault && r.RPC == "tools/call" {
			struck++
		}
	}
	if err == nil {
		w.t.Fatal("a refused call succeeds")
	}
	after, right := w.goesOn(session)
	return "sent " + n(struck, "time") + ", " + n(w.browser.count(), "browser") + ", the call " + fate(p, err) + "; " + after, right
}

func sessionForgotten(w *world) (string, bool) {
	w.serve(sandbox.Options{Protocol: "legacy"})
	p, session := w.connects()
	w.srv.EndMCPSessions()
	err := w.call(session)
	after, right := w.goesOn(session)
	return "the next call " + fate(p, err) + "; " + after, right
}

// Redirects.

func redirectedElsewhere(w *world) (string, bool) {
	w.serve(sandbox.Options{})
	_, session := w.connects()
	var leaked atomic.Bool
	elsewhere := w.listen(func(rw http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization") != "")
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	w.srv.Fail(sandbox.StepMCP, sandbox.Fault{Status: http.StatusTemporaryRedirect, Body: "x", Header: http.Header{"Location": {elsewhere}}})
	if err := w.call(session); err == nil {
		w.t.Fatal("a redirected call succeeds")
	}
	return sentOn(leaked.Load())
}

func redirectedToHTTP(w *world) (string, bool) {
	const server = "https://mcp.example.com/mcp"
	var leaked, asked atomic.Bool
	w.wire.hosts = map[string]http.HandlerFunc{"mcp.example.com": func(rw http.ResponseWriter, r *http.Request) {
		with := r.Header.Get("Authorization") != ""
		if r.URL.Scheme == "https" {
			asked.Store(asked.Load() || with)
			http.Redirect(rw, r, (&url.URL{Scheme: "http", Host: "mcp.example.com", Path: "/mcp"}).String(), http.StatusTemporaryRedirect)
			return
		}
		leaked.Store(leaked.Load() || with)
		rw.WriteHeader(http.StatusServiceUnavailable)
	}}
	w.server = server
	w.kind.restored(w, server, "token")
	if _, err := w.try(w.run()); err == nil || !asked.Load() {
		w.t.Fatalf("Connect: %v; the token was used: %v", err, asked.Load())
	}
	return sentOn(leaked.Load())
}

func sentOn(leaked bool) (string, bool) {
	if leaked {
		return "the token is sent along", false
	}
	return "the token is not sent along", true
}
