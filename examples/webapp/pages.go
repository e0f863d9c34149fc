package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var styleSource string

var (
	// Browsers hash the style without carriage returns, which an archive or an editor may have put in.
	style     = strings.ReplaceAll(styleSource, "\r\n", "\n")
	pages     = template.Must(template.New("page").Funcs(template.FuncMap{"words": words, "initials": initials, "due": due}).Parse(pageSource))
	styleHash = func() string {
		sum := sha256.Sum256([]byte(style))
		return base64.StdEncoding.EncodeToString(sum[:])
	}()
)

// page is what the template shows. Each view uses some of the fields.
type page struct {
	View  string // welcome, board or message
	Title string

	Notice string // above the welcome
	Board  *board

	Text         string // the message
	Action, Link string // the button below it; Link "": it begins a sign-in
	Onward       string // where the browser goes without a click
}

func (page) App() string         { return appName }
func (page) Style() template.CSS { return template.CSS(style) }

// show writes a page. Its headers let it load and run nothing, post to this application only, and
// stay in no cache.
func (a *app) show(w http.ResponseWriter, status int, p page) {
	var b bytes.Buffer
	if err := pages.Execute(&b, p); err != nil {
		a.Log.Error("make page", "view", p.View, "error", err)
		http.Error(w, "This page cannot be shown.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+styleHash+"'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // the address of the callback holds a code
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // the browser may have left
}

// words turns in_progress into "In progress".
func words(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + strings.ReplaceAll(s[1:], "_", " ")
}

func initials(name string) string {
	var out string
	for _, w := range strings.Fields(name) {
		out += string([]rune(w)[:1])
	}
	return out
}

// A deadline is a day with its name for people.
type deadline struct {
	Date, Text string
	Late       bool
}

// due returns the deadline on a date, or nil if there is no date.
func due(date string) *deadline {
	day, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return nil
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	d := &deadline{Date: date, Text: day.Format("2 Jan 2006"), Late: day.Before(today)}
	switch day.Sub(today) / (24 * time.Hour) {
	case -1:
		d.Text = "Yesterday"
	case 0:
		d.Text = "Today"
	case 1:
		d.Text = "Tomorrow"
	case 2, 3, 4, 5, 6:
		d.Text = day.Weekday().String()
	}
	return d
}
