package callback

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"sync"
)

// A startPage is where the browser begins. A Listener points to it, so that no fmt verb shows it.
type startPage struct {
	path   string // is random
	target string
	cookie http.Cookie // of the browser that was sent

	mu       sync.Mutex
	opened   bool
	doubtful bool // it was opened by somebody of whom nobody can tell who it is
}

// Start returns the address of a page of the listener's that sends a browser on to target, the
// authorization URL, and has it keep a cookie. From then on [Listener.Wait] takes no
// answer without that cookie, unless Config.AnyBrowser is set. The last call counts.
//
// Open the address in place of target: openers take it as an argument, which every user of the
// computer can read, and whoever knows target can answer for the person. The address
// is a secret all the same, to be logged nowhere.
//
// It serves the user that the process runs as, in any browser and as often as that comes. Another
// user is turned away. Nobody can tell who comes on another system than Linux,
// from another network namespace, as that of a container is, and by way of a
// proxy of root's. There it serves one browser, and when a second one comes Wait ends with
// [ErrOpenedTwice]; an answer counts two seconds after it has come, in which the
// person's own browser should have opened the page. A browser that takes longer comes
// too late to tell.
func (l *Listener) Start(target string) (address string) {
	s := &startPage{path: "/" + rand.Text(), target: target, cookie: http.Cookie{
		Name:     "sign-in-" + rand.Text(), // cookies know no ports, and others have some too
		Value:    rand.Text(),
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode, // the answer is a navigation from another site
	}}
	l.start.Store(s)
	return "http://" + l.uri.Host + s.path
}

// is reports whether a request is for the start page. A nil page is none.
func (s *startPage) is(target string) bool { return s != nil && same(target, s.path) }

// sent reports whether a request comes from a browser that the page has sent.
func (s *startPage) sent(r *http.Request) bool {
	if s == nil {
		return false
	}
	found := false
	for _, c := range r.CookiesNamed(s.cookie.Name) { // another port may have set one too
		found = same(c.Value, s.cookie.Value) || found
	}
	return found
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// isDoubtful reports whether an answer may be that of somebody else who was first.
func (s *startPage) isDoubtful() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubtful
}

// begin sends a browser on.
func (l *Listener) begin(w http.ResponseWriter, r *http.Request, s *startPage) {
	who := l.owner(r)
	p, ok := l.admit(s, who, s.sent(r))
	if !ok {
		show(w, p)
		return
	}
	// The page itself gets the cookie too, to know a browser that is back. No other path does, since
	// the other ports of this host may be other users'.
	for _, path := range []string{l.path, s.path} {
		c := s.cookie
		c.Path = path
		http.SetCookie(w, &c)
	}
	w.Header().Set("Location", s.target)
	w.WriteHeader(http.StatusSeeOther)
}

// admit reports whether the start page serves a browser, which has its cookie or not; or
// which page that gets instead.
func (l *Listener) admit(s *startPage, who owner, sent bool) (page, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.isDone():
		return l.pages.finished, false
	case who == foreign:
		return l.pages.stranger, false
	case who == gone:
		return l.pages.notFound, false // and nobody reads it
	case sent: // it is back, after a crash
	case s.doubtful:
		l.end()
		return l.pages.twice, false
	case who == unsure && s.opened:
		return l.pages.opened, false
	default:
		s.opened, s.doubtful = true, who == unsure
	}
	return page{}, true
}

func (l *Listener) isDone() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
