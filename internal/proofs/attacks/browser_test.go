package attacks

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
)

const (
	neighbour = "another user of this machine"
	asMia     = "the victim works in the attacker's account"
)

// Each of them watches the list of processes, is faster than the browser, and signs in with the
// authorization server as mia where it gets to know the address.
var browserAttacks = append([]attack{
	{
		id: "browser-process-list", who: neighbour, gains: asMia,
		does: "reads the browser's first address in the list of processes, goes there before the browser, signs in and answers",
		play: watched(nil),
	},
	{
		id: "browser-process-list-localhost", who: neighbour, gains: asMia,
		does: "reads the browser's first address in the list of processes and goes there first; the redirect address is on localhost",
		play: watched(func(c *mcpclient.Client) { c.Registration.RedirectURL = "http://localhost/callback" }),
	},
	{
		id: "browser-process-list-ipv6", who: neighbour, gains: asMia,
		does: "reads the browser's first address in the list of processes and goes there first; the redirect address is on [::1]",
		play: watched(func(c *mcpclient.Client) { c.Registration.RedirectURL = "http://[::1]/callback" }),
	},
	{
		id: "browser-process-list-away", who: neighbour, gains: asMia,
		does: "reads the authorization URL in the list of processes and goes there first; the browser is on another computer",
		play: func(t *testing.T) (bool, string) {
			needOther(t)
			address := make(chan string, 1)
			s := sit(t, func(c *mcpclient.Client) {
				c.ShowURL = func(_ context.Context, url string) error { address <- url; return nil }
			})
			return watch(t, s, <-address)
		},
	},
	{
		id: "browser-cookie-none", who: "anybody who has read the authorization URL over a shoulder", gains: asMia,
		does: "signs in there, even as the victim's own user, and answers without a cookie",
		play: func(t *testing.T) (bool, string) {
			s := sit(t, nil)
			answer, _ := s.spied()
			return s.comes(send(answer, "", "open", ""))
		},
	},
	{
		id: "browser-cookie-guessed", who: "anybody who has read the authorization URL over a shoulder", gains: asMia,
		does: "answers with a thousand cookies of names and values that it might have",
		play: func(t *testing.T) (bool, string) {
			s := sit(t, nil)
			answer, right := s.spied()
			name, value, _ := strings.Cut(right, "=")
			var guesses []string
			for range 250 {
				guesses = append(guesses, name+"="+rand.Text(), "sign-in="+value, "sign-in-"+rand.Text()+"="+value, strings.ToLower(name)+"="+value)
			}
			guesses = append(guesses, name+"=", name, name+"="+value[:25], name+"="+value+"A", name+"="+strings.ToLower(value), name+"=%"+value)
			return s.comes(send(answer, strings.Join(guesses, "; "), "open", ""))
		},
	},
	{
		id: "browser-cookie-stolen", who: neighbour, gains: asMia,
		does: "answers with the right state and the very cookie of the victim's browser",
		play: func(t *testing.T) (bool, string) {
			needOther(t)
			s := sit(t, nil)
			answer, cookie := s.spied()
			r := asUser(t, otherUser, task{URL: answer.String(), Cookie: cookie, Way: "open"})()
			return s.comes(strings.Join(r.Answers, ", "))
		},
	},
	{
		id: "browser-page-again", who: neighbour, gains: asMia,
		does: "goes to the start page after the browser",
		play: func(t *testing.T) (bool, string) {
			needOther(t)
			s := sit(t, nil)
			s.spied()
			r := asUser(t, otherUser, task{URL: s.page})()
			return s.comes(strings.Join(r.Answers, ", "))
		},
	},
	{
		id: "browser-page-guessed", who: neighbour, gains: asMia,
		does: "knows the port, and guesses the start page's path: other lengths, another case, with a query, a slash more",
		play: func(t *testing.T) (bool, string) {
			s := sit(t, nil)
			u, _ := url.Parse(s.page)
			for _, path := range []string{
				"/", "/" + rand.Text(), u.Path[:len(u.Path)-1], u.Path + "A", u.Path + "/", "/" + u.Path, strings.ToLower(u.Path), u.Path + "?", u.Path + "?x=y", u.Path + "%00", "/." + u.Path,
			} {
				if status := send(&url.URL{Scheme: "http", Host: u.Host, Opaque: path}, "", "open", ""); strings.HasPrefix(status, "303") {
					return true, "one is taken for the right one"
				}
			}
			return s.comes("none is sent on")
		},
	},
	{
		id: "browser-page-log", who: "anybody who reads the log, or the error of an opener", gains: "the start page's address",
		does: "reads the error of an opener that fails and repeats its arguments",
		play: func(t *testing.T) (bool, string) {
			var log testenv.Buffer
			page := ""
			s := sit(t, func(c *mcpclient.Client) {
				open := c.OpenBrowser
				c.Logger = slog.New(slog.NewTextHandler(&log, nil))
				c.OpenBrowser = func(ctx context.Context, address string) error {
					page = address
					_ = open(ctx, address)
					return errors.New("exec: no display: " + address)
				}
			})
			won, seen := s.comes("the log has it without the address")
			_, random, _ := strings.Cut(page, s.host)
			if strings.Contains(log.String(), random[1:]) {
				return true, "the log has the address"
			}
			return won, seen
		},
	},
	{
		id: "browser-proxy-first", who: neighbour, gains: asMia,
		does: "goes to the start page before the browser, through a proxy of root's that hides the attacker, and answers",
		play: func(t *testing.T) (bool, string) {
			return proxied(t, func(victim func(string) result, browser *http.Client, page string) string {
				answer := begun(t, browser, page)
				answered := make(chan string, 1)
				go func() { answered <- get(browser, answer) }() // is held back
				r := victim("finish")
				<-answered
				return r.Saw + r.Error
			})
		},
	},
	{
		id: "browser-proxy-second", who: neighbour, gains: asMia,
		does: "goes to the start page after the browser, through a proxy of root's that hides the attacker",
		play: func(t *testing.T) (bool, string) {
			return proxied(t, func(victim func(string) result, browser *http.Client, page string) string {
				victim("begin")
				if _, err := testenv.Begin(t.Context(), browser, page); err == nil {
					return "mia knows the authorization URL"
				}
				return victim("finish").Saw
			})
		},
	},
	{
		id: "browser-proxy-slow", who: neighbour, gains: asMia,
		does:   "goes to the start page before the browser, through a proxy of root's that hides the attacker; the browser comes more than two seconds after the answer",
		stands: "The attack needs a proxy that root runs for other users and that reaches any port of this machine. Nothing tells from outside for whom the proxy asks: the comment of `callback.Listener.Start` says so.",
		play: func(t *testing.T) (bool, string) {
			return proxied(t, func(victim func(string) result, browser *http.Client, page string) string {
				get(browser, begun(t, browser, page))
				return victim("finish").Saw
			})
		},
	},
}, waysOfClosing()...)

// waysOfClosing are attempts to hide who holds a socket: the kernel forgets that of a closed one,
// and a table of it then says that it is root's, or nothing.
func waysOfClosing() (list []attack) {
	for _, way := range []struct{ name, does string }{
		{"open", "and waits for the page"},
		{"half", "and shuts down its side of the connection"},
		{"close", "and closes the connection at once"},
		{"reset", "and resets the connection at once, so that the kernel knows nothing of it"},
	} {
		list = append(list, attack{
			id: "browser-away-" + way.name, who: neighbour, gains: asMia,
			does: "has read the authorization URL that was shown for another computer, where no cookie is asked for, answers " + way.does,
			play: func(t *testing.T) (bool, string) {
				needOther(t)
				s := sit(t, func(c *mcpclient.Client) {
					c.ShowURL = func(context.Context, string) error { return nil }
				})
				answer, _ := s.spied()
				won := 0
				statuses := map[string]bool{}
				for range 5 { // a race may be won once
					r := asUser(t, otherUser, task{URL: answer.String(), Way: way.name})()
					statuses[strings.Join(r.Answers, ", ")] = true
					select {
					case err := <-s.done:
						s.done <- err
						won++
					default:
					}
				}
				if won > 0 {
					return s.comes("the answer counts")
				}
				var seen []string
				for status := range statuses {
					seen = append(seen, status)
				}
				return s.comes("5 times: " + strings.Join(seen, " or "))
			},
		}, attack{
			id: "browser-page-" + way.name, who: neighbour, gains: "the browser finds the start page used up, or the attacker gets the authorization URL",
			does: "asks for the start page " + way.does,
			play: func(t *testing.T) (bool, string) {
				needOther(t)
				s := sit(t, nil)
				r := asUser(t, otherUser, task{URL: s.page, Way: way.name})()
				seen := strings.Join(r.Answers, ", ")
				if strings.HasPrefix(seen, "303") {
					return true, seen
				}
				return s.comes(seen)
			},
		})
	}
	return list
}

// watched is the attack of the finding.
func watched(change func(*mcpclient.Client)) func(*testing.T) (bool, string) {
	return func(t *testing.T) (bool, string) {
		needOther(t)
		s := sit(t, change)
		return watch(t, s, s.page)
	}
}

// watch has the other user wait for the address. The browser goes on when that user is done.
func watch(t *testing.T, s *sitting, address string) (bool, string) {
	mark := "opener-" + rand.Text()
	wait := asUser(t, otherUser, task{Watch: true, Mark: mark})
	opener(t, mark, address)
	r := wait()
	if r.Saw != address || r.Error != "" {
		t.Fatalf("the other user sees %q, %s", r.Saw, r.Error)
	}
	return s.comes(strings.Join(r.Answers, ", "))
}

// proxied attacks a victim who is not root, over sockets of root's, as a proxy's are. It returns who
// is signed in at the end.
func proxied(t *testing.T, play func(victim func(do string) result, browser *http.Client, page string) string) (bool, string) {
	needOther(t)
	srv, err := sandboxForBrowsers()
	if err != nil {
		t.Fatal(err)
	}
	wait, tell := startUser(t, thirdUser, task{Victim: srv.URL()})
	page := wait().Saw
	who := play(func(do string) result {
		if _, err := io.WriteString(tell, do+"\n"); err != nil {
			t.Fatal(err)
		}
		return wait()
	}, testenv.NewBrowser(), page)
	if strings.HasPrefix(who, "mia") {
		return true, "the victim is signed in as mia"
	}
	if who == "olivia" {
		return false, "turned away; then the person signs in"
	}
	return false, "the sign-in ends: " + who
}

// begun goes to the start page, which serves, signs in as mia, and returns the answer.
func begun(t *testing.T, browser *http.Client, page string) *url.URL {
	address, err := testenv.Begin(t.Context(), browser, page)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := signInAs("mia", address, browser)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func get(browser *http.Client, u *url.URL) string {
	resp, err := browser.Get(u.String())
	if err != nil {
		return "no answer"
	}
	_ = resp.Body.Close()
	return resp.Status
}
