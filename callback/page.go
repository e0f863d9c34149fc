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

// A page is a whole answer, rendered before anybody asks: nothing of a request
// can reach it.
type page struct {
	status int
	body   []byte
}

// pages are all that is ever shown.
type pages struct {
	signedIn   page
	denied     page
	failed     page
	ignored    page // an answer that is not this sign-in's
	finished   page // whatever comes after the answer that decided
	elsewhere  page // an answer of a browser that was not sent
	foreign    page // an answer of another user of the computer
	stranger   page // another user who opens the start page
	opened     page // a second browser that does, and may be another user's
	twice      page // the same, and the first one may be so too
	notFound   page
	notAllowed page
}

// render makes the pages of an application and a server. Each says what
// happened and then what to do next.
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
		Next:  "Close this tab and go back to " + app + ": it says why. To try again, sign in from there once more.",
	}, {
		page: &p.ignored, status: http.StatusBadRequest, Icon: "question",
		Title: "This belongs to another sign-in",
		What:  "The address may come from an earlier attempt, or be incomplete. " + App + " is still waiting.",
		Next:  "Finish the sign-in in the tab that was opened last, or start again from " + app + ".",
	}, {
		page: &p.finished, status: http.StatusGone, Icon: "done",
		Title: "This sign-in is already finished",
		What:  App + " is no longer waiting for it, and shows how it ended.",
		Next:  "There is nothing left to do here. You can close this tab.",
	}, {
		page: &p.elsewhere, status: http.StatusForbidden, Icon: "question",
		Title: "This is another browser",
		What:  App + " waits for the browser that it opened. This is another one, or a private window of it.",
		Next:  "If you have signed in here, copy the whole address of this page and paste it where " + app + " asks for it. Or go back to the browser that was opened.",
	}, {
		page: &p.foreign, status: http.StatusForbidden, Icon: "bar",
		Title: "This is another user’s sign-in",
		What:  "Another user of this computer has started " + app + ", and not the one whose browser this is.",
		Next:  "If both are you, copy the whole address of this page and paste it where " + app + " asks for it.",
	}, {
		page: &p.stranger, status: http.StatusForbidden, Icon: "bar",
		Title: "This is another user’s sign-in",
		What:  "Another user of this computer has started " + app + ", and not the one whose browser this is.",
		Next:  "You can close this tab. If both are you, start " + app + " as the user of this browser.",
	}, {
		page: &p.opened, status: http.StatusConflict, Icon: "question",
		Title: "This sign-in was opened already",
		What:  "Its address is good once. " + App + " waits for the browser that came first.",
		Next:  "Go on there, or start again from " + app + ".",
	}, {
		page: &p.twice, status: http.StatusConflict, Icon: "cross",
		Title: "Somebody else opened this sign-in",
		What:  "It was opened in two browsers, and one may not be yours. " + App + " was not connected to " + server + ".",
		Next:  "Close this tab, and start again from " + app + ".",
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

// show writes p to its end, or until pageTimeout. It does not leave the flush to
// the server: the process may end as soon as the handler has returned.
func show(w http.ResponseWriter, p page) {
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(pageTimeout))
	w.Header().Set("Content-Length", strconv.Itoa(len(p.body)))
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body)
	_ = c.Flush()
}

// setHeader sets what all answers have in common. The page loads and runs
// nothing, and the address, which holds the code, goes nowhere from it.
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

// A raw string holds no carriage return, whatever the checkout does: the
// policy's hash is that of the text as a browser reads it.
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
