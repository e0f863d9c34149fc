package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/authcode"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

const (
	appName        = "Acme Board"
	requestTimeout = 30 * time.Second
	sessionLife    = 12 * time.Hour
	signInLife     = 10 * time.Minute // mcpclient refuses an older pending sign-in
	idleLife       = 15 * time.Minute // then the client of an idle user is closed
)

// config is what all replicas of the application share.
type config struct {
	Server string // of MCP; "": Astravue
	URL    string // of this application, as browsers know it
	Store  tokenstore.Store
	Key    []byte
	Log    *slog.Logger
}

// app is the application. It keeps nothing that another replica would need: the cookie says who a
// browser's user is, and tokens are in the store.
type app struct {
	config
	http.Handler
	cookies   *cookies
	transport http.RoundTripper // shared by all users' clients
	users     *users
	begin     turns // to begin a sign-in, which anybody may, and which costs requests
	end       turns // to end one
}

func newApp(c config) (*app, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.Path != "" {
		return nil, fmt.Errorf("application URL %q is not http or https and a host", c.URL)
	}
	a := &app{config: c, transport: mcpclient.NewTransport(c.Server), begin: newTurns(), end: newTurns()}
	a.users = newUsers(a.newClient, idleLife, c.Log)
	if a.cookies, err = newCookies(c.Key, base.Scheme == "https"); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("POST /login", a.login)
	mux.Handle("GET /login", http.RedirectHandler("/", http.StatusSeeOther)) // a bookmark; the button to sign in is at /
	mux.HandleFunc("GET /callback", a.callback)
	mux.HandleFunc("POST /logout", a.logout)
	// Other sites' pages may link here but not post. Only a POST begins or ends a session.
	a.Handler = http.NewCrossOriginProtection().Handler(withTimeout(mux))
	return a, nil
}

// Close closes all clients. Call it when no request is under way.
func (a *app) Close() error {
	err := a.users.Close()
	(&http.Client{Transport: a.transport}).CloseIdleConnections()
	return err
}

func (a *app) newClient(user string) *mcpclient.Client {
	return &mcpclient.Client{
		Name:           appName,
		Server:         a.Server,
		Account:        user,
		Store:          a.Store,
		Registration:   mcpclient.Registration{RedirectURL: a.URL + "/callback"},
		NonInteractive: true, // the user's browser is elsewhere
		Transport:      a.transport,
		Logger:         a.Log,
	}
}

// home shows the board to a user who is signed in, and the button to sign in to all others.
func (a *app) home(w http.ResponseWriter, r *http.Request) {
	id, ok := a.cookies.session(r)
	if !ok {
		a.show(w, http.StatusOK, page{Title: "Sign in", View: "welcome"})
		return
	}
	u := a.users.enter(id)
	defer a.users.leave(u)
	b, err := loadBoard(r.Context(), u)
	switch {
	case errors.Is(err, mcpclient.ErrLoginRequired):
		a.cookies.clear(w, sessionCookie)
		a.show(w, http.StatusOK, page{Title: "Sign in", View: "welcome", Notice: "Your sign-in has ended."})
	case err != nil:
		a.fail(w, r, err)
	default:
		a.show(w, http.StatusOK, page{Title: "Board", View: "board", Board: b})
	}
}

// login begins a sign-in and shows a page that sends the browser to Astravue. It does not redirect:
// browsers apply our Content-Security-Policy's form-action also to redirects after a form, and an
// authorization server may redirect to any host.
//
// This application has no users of its own, so each sign-in makes a new one. An application that has
// users takes their IDs as accounts. Then a second sign-in of a user replaces the tokens of the first.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	if !a.begin.take(r.Context()) {
		a.busy(w)
		return
	}
	defer a.begin.giveBack()
	id := rand.Text()
	client := a.newClient(id)
	defer client.Close()
	address, pending, err := client.BeginLogin(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	sealed, err := pending.Seal(a.cookies.pendingKey)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	// The ID needs no seal: with another ID the sealed sign-in does not open.
	a.cookies.set(w, pendingCookie, id+"."+sealed, signInLife)
	a.show(w, http.StatusOK, page{Title: "Off to Astravue", View: "message", Onward: address,
		Text: "You sign in there, and come back here.", Action: "Go on", Link: address})
}

// callback ends the sign-in that this browser began, with the URL that the browser came back to.
func (a *app) callback(w http.ResponseWriter, r *http.Request) {
	id, sealed, _ := strings.Cut(a.cookies.get(r, pendingCookie), ".")
	if sealed == "" {
		a.show(w, http.StatusBadRequest, page{Title: "No sign-in is under way", View: "message",
			Text: "This browser has begun none, or has ended it already."})
		return
	}
	if !a.end.take(r.Context()) {
		a.busy(w)
		return
	}
	defer a.end.giveBack()
	client := a.newClient(id)
	defer client.Close()
	pending, err := client.OpenPendingLogin(a.cookies.pendingKey, sealed)
	if err == nil {
		err = client.FinishLogin(r.Context(), pending, r.URL.String())
	}
	if errors.Is(err, authcode.ErrState) {
		a.fail(w, r, err) // of another sign-in; the right callback may still come
		return
	}
	a.cookies.clear(w, pendingCookie)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if before, ok := a.cookies.session(r); ok {
		// This browser had a session, and nothing else has its ID.
		if _, err := a.users.logout(r.Context(), before); err != nil {
			a.Log.Warn("end the session before", "error", err)
		}
	}
	a.cookies.startSession(w, id)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	id, ok := a.cookies.session(r)
	if !ok {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	done, err := a.users.logout(r.Context(), id)
	if err != nil {
		a.fail(w, r, err) // still signed in
		return
	}
	a.cookies.clear(w, sessionCookie)
	text := "Your tokens are deleted, here and at Astravue."
	switch {
	case done.Revocation == mcpclient.RevocationFailed:
		a.Log.Warn("revoke tokens", "error", done.Err)
		fallthrough
	case done.Revocation == mcpclient.RevocationMissing:
		text = "Your tokens are deleted here. Astravue could not be told, so remove " + appName + " from your connected apps as well."
	}
	a.show(w, http.StatusOK, page{Title: "You are signed out", View: "message", Text: text, Action: "Sign in again"})
}

// fail logs err and shows the user what it means to them.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	a.Log.Warn("request failed", "path", r.URL.Path, "error", err)
	status, p := http.StatusBadGateway, page{Title: "Astravue cannot be reached", View: "message",
		Text: "Something went wrong between here and there. Try again in a moment.", Action: "Try again", Link: "/"}
	var refused *authcode.AuthorizationError
	switch {
	case errors.As(err, &refused) && refused.Denied():
		status, p = http.StatusForbidden, page{Title: "You said no", View: "message",
			Text: appName + " got no access to your account, and nothing is kept.", Action: "Sign in after all"}
	case errors.Is(err, authcode.ErrState):
		status, p = http.StatusBadRequest, page{Title: "This is another sign-in", View: "message",
			Text: "It was begun in another window or browser. Go on there, or begin anew here.", Action: "Sign in"}
	case errors.Is(err, mcpclient.ErrPendingLogin):
		status, p = http.StatusBadRequest, page{Title: "This sign-in is over", View: "message",
			Text: "It was used before, or took longer than ten minutes.", Action: "Sign in again"}
	}
	a.show(w, status, p)
}

// busy answers a request that found no turn.
func (a *app) busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", strconv.Itoa(int(turnTime.Seconds())))
	a.show(w, http.StatusServiceUnavailable, page{Title: "Many people sign in right now", View: "message",
		Text: "Try again in a moment.", Action: "Try again"})
}

// withTimeout gives each request a deadline.
func withTimeout(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}
