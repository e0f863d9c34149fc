package callback

import (
	"net"
	"net/http"
)

// Serve answers on one more listener.
func (l *Listener) Serve(ln net.Listener) { _ = l.server.Serve(ln) }

// ServeHTTP shows a page that only another user of the machine would get, by the name of its field.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeader(w.Header())
	show(w, map[string]page{
		"/foreign": l.pages.foreign, "/stranger": l.pages.stranger, "/opened": l.pages.opened, "/twice": l.pages.twice,
	}[r.URL.Path])
}
