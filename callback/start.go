package callback

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"sync"
)

// A startPage is where the browser begins. A Listener holds a pointer to it, which no fmt verb
// follows.
type startPage struct {
	path   string      // random: its address is a secret
	target string      // the authorization URL
	cookie http.Cookie // marks a browser that the page has sent on

	mu       sync.Mutex // guards the following
	opened   bool       // the page has served a browser
	doubtful bool       // the owner of that browser could not be told: it may be somebody else
}

// Start returns the address of a page that sends a browser on to target, the authorization URL, and
// gives it a cookie. From then on [Listener.Wait] takes no answer without that cookie, unless
// Config.AnyBrowser is set. If Start is called again, only the new page counts.
//
// Open the address instead of target. Programs that open a browser take the address as an argument,
// every user of the computer can read the arguments, and everybody who knows target can answer for
// the person. The address is a secret too: do not log it.
//
// The page serves the user of this process, in any browser and any number of times. It turns other
// users away. On systems other than Linux, from another network namespace, such as a container's,
// and through a proxy of root, nobody can tell which user comes. Then
//   - the page serves one browser, and a second one ends Wait with [ErrOpenedTwice]. If the first
//     one was certainly the person's, the second is only turned away;
//   - an answer counts only two seconds after it came. Within that time the person's own browser
//     should have opened the page, and so have shown that another one was first. If it takes
//     longer, nobody notices.
func (l *Listener) Start(target string) (address string) {
	s := &startPage{path: "/" + rand.Text(), target: target, cookie: http.Cookie{
		Name:     "sign-in-" + rand.Text(), // cookies ignore ports: other listeners have theirs
		Value:    rand.Text(),
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode, // Strict would keep it back when the authorization server redirects
	}}
	l.start.Store(s)
	return "http://" + l.uri.Host + s.path
}

// is reports whether a request target is that of the start page. If s is nil there is no page.
func (s *startPage) is(target string) bool { return s != nil && same(target, s.path) }

// sent reports whether a request comes from a browser that the page has sent on: it has the cookie.
func (s *startPage) sent(r *http.Request) bool {
	if s == nil {
		return false
	}
	found := false
	for _, c := range r.CookiesNamed(s.cookie.Name) { // another port may have set one of that name
		found = same(c.Value, s.cookie.Value) || found
	}
	return found
}

// same compares in a time that does not tell how much is equal.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// isDoubtful reports whether the browser that the page has served may be somebody else's.
func (s *startPage) isDoubtful() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubtful
}

// begin serves the start page: it sends a browser on, or shows why not.
func (l *Listener) begin(w http.ResponseWriter, r *http.Request, s *startPage) {
	who := l.owner(r)
	p, ok := l.admit(s, who, s.sent(r))
	if !ok {
		show(w, p)
		return
	}
	// Cookies ignore ports, and other ports of this host may be other users'. So the cookie is sent to two
	// paths only: the redirect address, and the page itself, which recognizes a browser that is back.
	for _, path := range []string{l.path, s.path} {
		c := s.cookie
		c.Path = path
		http.SetCookie(w, &c)
	}
	w.Header().Set("Location", s.target)
	w.WriteHeader(http.StatusSeeOther)
}

// admit reports whether the start page serves a browser of that owner; sent says whether it has the
// cookie. If not, admit returns the page to show instead.
func (l *Listener) admit(s *startPage, who owner, sent bool) (page, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.isDone():
		return l.pages.finished, false
	case who == foreign:
		return l.pages.stranger, false
	case who == gone:
		return l.pages.notFound, false // nobody is there to read it
	case sent: // it was served before, and is back after a crash
	case s.doubtful: // the second browser after an unsure one: one of them may be somebody else's
		l.end()
		return l.pages.twice, false
	case who == unsure && s.opened: // the first one was the person's
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
