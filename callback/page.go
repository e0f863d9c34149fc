package callback

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"time"
)

// A page is a whole answer. It is rendered before any request, so that it can hold
// nothing of one.
type page struct {
	status int
	body   []byte
}

// pages are all the pages that a listener shows.
type pages struct {
	signedIn   page
	denied     page
	failed     page
	ignored    page // for an answer of another sign-in
	finished   page // for everything after the answer that decided
	elsewhere  page // for an answer of a browser that the start page has not sent
	foreign    page // for an answer of another user of the computer
	stranger   page // for another user who opens the start page
	opened     page // for an unsure browser that opens the start page after the person's
	twice      page // for a second browser that opens it after an unsure one
	notFound   page
	notAllowed page
}

// render makes the pages for an application and a server. Each page says first what
// happened and then what to do.
func render(name, server string) (p pages, err error) {
	app, App := name, name
	if name == "" {
		app, App = "the application", "The application"
	}
	if server == "" {
		server = "the server"
	}
	for _, v := range []struct {
		page              *page
		status            int
		Icon              string
		Title, What, Next string
		App, Style        any
	}{{
		page: &p.signedIn, status: http.StatusOK, Icon: "check",
		Title: "You are signed in",
		What:  App + " is now connected to " + server + ".",
		Next:  "You can close this tab and go back to " + app + ".",
	}, {
		page: &p.denied, status: http.StatusForbidden, Icon: "bar",
		Title: "Access was not allowed",
		What:  App + " was not connected to " + server + ".",
		Next:  "You can close this tab. If you change your mind, sign in again from " + app + ".",
	}, {
		page: &p.failed, status: http.StatusInternalServerError, Icon: "cross",
		Title: "The sign-in failed",
		What:  App + " could not be connected to " + server + ".",
		Next:  "Go back to " + app + " to see why, and sign in again from there. You can close this tab.",
	}, {
		page: &p.ignored, status: http.StatusBadRequest, Icon: "question",
		Title: "This belongs to another sign-in",
		What:  "This address comes from an earlier attempt, or it is incomplete. " + App + " is still waiting.",
		Next:  "Finish the sign-in in the tab that was opened last, or start again from " + app + ".",
	}, {
		page: &p.finished, status: http.StatusGone, Icon: "done",
		Title: "This sign-in is already finished",
		What:  App + " is no longer waiting. It shows how the sign-in ended.",
		Next:  "You can close this tab.",
	}, {
		page: &p.elsewhere, status: http.StatusForbidden, Icon: "question",
		Title: "This is another browser",
		What:  App + " opened another browser, or another window, and waits for that one.",
		Next:  "Go back to the browser that was opened. Or, if you have signed in here, copy the whole address of this page and paste it where " + app + " asks for it.",
	}, {
		page: &p.foreign, status: http.StatusForbidden, Icon: "bar",
		Title: "This is another user’s sign-in",
		What:  "This browser belongs to one user of this computer, but another user has started " + app + ".",
		Next:  "If both users are you, copy the whole address of this page and paste it where " + app + " asks for it.",
	}, {
		page: &p.stranger, status: http.StatusForbidden, Icon: "bar",
		Title: "This is another user’s sign-in",
		What:  "This browser belongs to one user of this computer, but another user has started " + app + ".",
		Next:  "You can close this tab. If both users are you, start " + app + " as the user of this browser.",
	}, {
		page: &p.opened, status: http.StatusConflict, Icon: "question",
		Title: "This sign-in was opened already",
		What:  "A sign-in can be opened once. " + App + " waits for the browser that opened it first.",
		Next:  "Go back to that browser, or start again from " + app + ".",
	}, {
		page: &p.twice, status: http.StatusConflict, Icon: "cross",
		Title: "Somebody else opened this sign-in",
		What:  "Two browsers opened it, and one of them may not be yours. " + App + " was not connected to " + server + ".",
		Next:  "Close this tab and start again from " + app + ".",
	}, {
		page: &p.notFound, status: http.StatusNotFound, Icon: "question",
		Title: "There is nothing here",
		What:  "This address only receives the end of a sign-in for " + app + ".",
		Next:  "You can close this tab.",
	}} {
		v.App, v.Style = app, template.CSS(pageStyle)
		var body bytes.Buffer
		if err := pageTemplate.Execute(&body, v); err != nil {
			return p, err
		}
		*v.page = page{v.status, body.Bytes()}
	}
	p.notAllowed = page{http.StatusMethodNotAllowed, p.notFound.body}
	return p, nil
}

// show writes p, for at most pageTimeout. It flushes too, since the process may end
// as soon as the handler has returned.
func show(w http.ResponseWriter, p page) {
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(pageTimeout))
	w.Header().Set("Content-Length", strconv.Itoa(len(p.body)))
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body)
	_ = c.Flush()
}

// setHeader sets the header fields of every answer. A page loads nothing and runs
// nothing. Its address, which may hold the code, is not passed on and not cached.
func setHeader(h http.Header) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}}</title>
<style>{{.Style}}</style>
</head>
<body>
<main class="{{.Icon}}">
<div role="status">
<svg viewBox="0 0 48 48" aria-hidden="true">
<circle cx="24" cy="24" r="22"/>
{{- if or (eq .Icon "check") (eq .Icon "done")}}<path d="M15 25l6.5 6.5L34 18"/>
{{- else if eq .Icon "cross"}}<path d="M17 17l14 14M31 17L17 31"/>
{{- else if eq .Icon "bar"}}<path d="M15 24h18"/>
{{- else}}<path d="M19 19a5 5 0 1 1 7.5 4.3c-1.6.9-2.5 1.9-2.5 3.7M24 33.5v.1"/>
{{- end}}
</svg>
<h1>{{.Title}}</h1>
<p>{{.What}}</p>
<p>{{.Next}}</p>
</div>
<footer>This page comes from {{.App}}, on this computer.</footer>
</main>
</body>
</html>
`))

// pageStyle is in a raw string, which never holds a carriage return, even if the
// checkout has them. So the hash in pagePolicy is that of the text in the browser.
const pageStyle = `
:root {
	color-scheme: light dark;
	--back: #f3f4f6; --card: #fff; --line: #d9dde3; --text: #1b1f24; --soft: #4d5661;
	--check: #14783f; --cross: #b3261e; --other: #4d5661;
}
@media (prefers-color-scheme: dark) {
	:root {
		--back: #101317; --card: #1a1f25; --line: #313942; --text: #eceff3; --soft: #b3bcc7;
		--check: #5fd08c; --cross: #ff9a8f; --other: #b3bcc7;
	}
}
* { box-sizing: border-box; margin: 0 }
body {
	min-height: 100vh; min-height: 100svh;
	display: grid; place-items: center; padding: 1.5rem 1rem;
	background: var(--back); color: var(--text);
	font: 1.0625rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
	overflow-wrap: anywhere;
}
main {
	width: 100%; max-width: 30rem; padding: 2.5rem 2rem 1.5rem;
	background: var(--card); border: 1px solid var(--line); border-radius: 1rem;
	text-align: center;
}
svg {
	width: 3.5rem; height: 3.5rem; margin-bottom: 1.25rem;
	fill: none; stroke: currentColor; stroke-width: 3; stroke-linecap: round; stroke-linejoin: round;
	color: var(--other);
}
.check svg { color: var(--check) }
.cross svg { color: var(--cross) }
circle { stroke-width: 2; opacity: .35 }
h1 { font-size: 1.5rem; line-height: 1.25; font-weight: 650; text-wrap: balance }
p { margin-top: .75rem; text-wrap: balance }
footer {
	margin-top: 2rem; padding-top: 1rem; border-top: 1px solid var(--line);
	color: var(--soft); font-size: .875rem; text-wrap: balance;
}
@media (prefers-reduced-motion: no-preference) {
	svg { animation: in .35s ease-out }
	@keyframes in { from { opacity: 0; transform: scale(.8) } }
}
`
