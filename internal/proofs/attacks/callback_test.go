package attacks

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/mcpclient"
)

const aPage = "a program, or a web page that knows the port"

// In rows that send a request, the attacker has more than it could get: a code of its own for this
// sign-in, the right state, and the cookie. Only the form of the request is wrong.
var callbackAttacks = slices.Concat(
	forms("callback-host", "names as Host:", "a page whose name was made to point here (DNS rebinding)", map[string]string{
		"name":        "another name|GET TARGET HTTP/1.1\r\nHost: evil.example\r\nCOOKIE\r\n\r\n",
		"rebound":     "our address as a part of another name|GET TARGET HTTP/1.1\r\nHost: HOST.evil.example\r\nCOOKIE\r\n\r\n",
		"user":        "our address as a user's name|GET TARGET HTTP/1.1\r\nHost: HOST@evil.example\r\nCOOKIE\r\n\r\n",
		"localhost":   "localhost for the literal|GET TARGET HTTP/1.1\r\nHost: localhost:PORT\r\nCOOKIE\r\n\r\n",
		"ipv6":        "[::1] for 127.0.0.1|GET TARGET HTTP/1.1\r\nHost: [::1]:PORT\r\nCOOKIE\r\n\r\n",
		"mapped":      "the address mapped to IPv6|GET TARGET HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:PORT\r\nCOOKIE\r\n\r\n",
		"short":       "127.1|GET TARGET HTTP/1.1\r\nHost: 127.1:PORT\r\nCOOKIE\r\n\r\n",
		"number":      "2130706433|GET TARGET HTTP/1.1\r\nHost: 2130706433:PORT\r\nCOOKIE\r\n\r\n",
		"unspecified": "0.0.0.0|GET TARGET HTTP/1.1\r\nHost: 0.0.0.0:PORT\r\nCOOKIE\r\n\r\n",
		"dot":         "our address and a dot|GET TARGET HTTP/1.1\r\nHost: 127.0.0.1.:PORT\r\nCOOKIE\r\n\r\n",
		"port":        "another port|GET TARGET HTTP/1.1\r\nHost: 127.0.0.1:1\r\nCOOKIE\r\n\r\n",
		"no-port":     "no port|GET TARGET HTTP/1.1\r\nHost: 127.0.0.1\r\nCOOKIE\r\n\r\n",
		"zero-port":   "a port with a zero before it|GET TARGET HTTP/1.1\r\nHost: 127.0.0.1:0PORT\r\nCOOKIE\r\n\r\n",
		"empty":       "nothing|GET TARGET HTTP/1.1\r\nHost:\r\nCOOKIE\r\n\r\n",
		"none":        "none at all|GET TARGET HTTP/1.1\r\nCOOKIE\r\n\r\n",
		"two":         "two, ours first|GET TARGET HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nCOOKIE\r\n\r\n",
		"two-ours":    "two, ours last|GET TARGET HTTP/1.1\r\nHost: evil.example\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"folded":      "another, ours in a folded line|GET TARGET HTTP/1.1\r\nHost: evil.example\r\n HOST\r\nCOOKIE\r\n\r\n",
		"forwarded":   "another, ours as X-Forwarded-Host|GET TARGET HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: HOST\r\nForwarded: host=\"HOST\"\r\nCOOKIE\r\n\r\n",
		"absolute":    "another, ours in the request line|GET http://HOSTTARGET HTTP/1.1\r\nHost: evil.example\r\nCOOKIE\r\n\r\n",
		"http10":      "none, by HTTP/1.0|GET TARGET HTTP/1.0\r\nCOOKIE\r\n\r\n",
	}),
	forms("callback-path", "spells the path with", aPage, map[string]string{
		"absolute":  "the absolute form|GET http://HOSTTARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"slashes":   "two slashes|GET /TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"slash-end": "a slash more|GET PATH/?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"escaped":   "a letter escaped|GET /%63allback?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"question":  "the question mark escaped|GET PATH%3fQUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"dots":      "dots|GET /x/..PATH?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"back":      "a backslash|GET \\callback?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"parameter": "a parameter|GET PATH;x?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"fragment":  "a fragment|GET PATH#?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"case":      "another case|GET /Callback?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"null":      "a NUL|GET PATH\x00?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"null-esc":  "an escaped NUL|GET PATH%00?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"tab":       "a tab|GET PATH\t?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"root":      "the root|GET /?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"no-slash":  "no slash|GET callback?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
	}),
	forms("callback-method", "asks by", aPage, map[string]string{
		"post":     "POST, the query in the address|POST TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\nContent-Length: 0\r\n\r\n",
		"form":     "POST, the query as a form (CSRF; response_mode=form_post)|POST PATH HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: LENGTH\r\n\r\nQUERY",
		"head":     "HEAD|HEAD TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"options":  "OPTIONS|OPTIONS TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"star":     "OPTIONS *|OPTIONS * HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"connect":  "CONNECT|CONNECT HOST HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"lower":    "get, in lower case|get TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"override": "POST with X-HTTP-Method-Override: GET|POST TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n\r\n",
		"trace":    "TRACE, which would show the cookie|TRACE TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"h2":       "the preface of HTTP/2|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"upgrade":  "an upgrade to h2c of another path|GET /x?QUERY HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"tls":      "a TLS handshake, as of a browser that prefers https|\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"http09":   "HTTP/0.9|GET TARGET\r\n\r\n",
	}),
	forms("callback-smuggle", "", aPage, map[string]string{
		"te-cl":     "hides the answer behind Transfer-Encoding and Content-Length|POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"cl-cl":     "hides the answer behind two lengths|POST /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nGET TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"pipeline":  "sends the answer behind another request on one connection|GET /x HTTP/1.1\r\nHost: HOST\r\n\r\nGET TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"body":      "hides the answer in the body of a GET, as a page can by a form of another protocol|GET /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\nGET TARGET HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"line-feed": "ends the request line with a bare carriage return|GET TARGET HTTP/1.1\rHost: HOST\r\nCOOKIE\r\n\r\n",
		"colon":     "writes a space before the colon of Host|GET TARGET HTTP/1.1\r\nHost : HOST\r\nCOOKIE\r\n\r\n",
	}),
	forms("callback-size", "", aPage, map[string]string{
		"query":  "sends a query of 20 KiB|GET TARGET&x=" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"header": "sends a header of 1 MiB|GET TARGET HTTP/1.1\r\nHost: HOST\r\nX: " + strings.Repeat("a", 1<<20) + "\r\nCOOKIE\r\n\r\n",
		"fields": "sends 10,000 parameters|GET TARGET" + strings.Repeat("&a", 10000) + " HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
	}),
	forms("callback-query", "sends", aPage, map[string]string{
		"semicolon": "semicolons in place of ampersands|GET PATH?SEMICOLONS HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"escape":    "an escape that cannot be read|GET TARGET&x=%zz HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"wrong":     "another state|GET PATH?CODE&state=wrong HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"missing":   "no state|GET PATH?CODE HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"empty":     "an empty state|GET PATH?CODE&state= HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"twice":     "the right state twice|GET TARGET&state=STATE HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"two":       "the right state and a wrong one|GET TARGET&state=wrong HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"lower":     "the state in lower case|GET PATH?CODE&state=LOWER HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"short":     "the state without its last letter|GET PATH?CODE&state=SHORT HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"null":      "the state and a NUL|GET PATH?CODE&state=STATE%00 HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"space":     "the state and a space|GET PATH?CODE&state=STATE+ HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"array":     "the state as state[]|GET PATH?CODE&state[]=STATE HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"name":      "the state under the name State|GET PATH?CODE&State=STATE HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"error":     "an error without the state, to end the sign-in|GET PATH?error=access_denied HTTP/1.1\r\nHost: HOST\r\nCOOKIE\r\n\r\n",
		"cookie":    "the state as a cookie|GET PATH?CODE HTTP/1.1\r\nHost: HOST\r\nCOOKIE; state=STATE\r\n\r\n",
	}),
	forms("callback-cookie", "has", "anybody who knows the state", map[string]string{
		"none":     "no cookie|GET TARGET HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"quoted":   "the cookie's name in front of another value|GET TARGET HTTP/1.1\r\nHost: HOST\r\nCookie: NAME=x\r\n\r\n",
		"overflow": "60 KiB of cookies of other ports around it, and no right one|GET TARGET HTTP/1.1\r\nHost: HOST\r\nCookie: " + strings.Repeat("a=b; ", 12000) + "NAME=x\r\n\r\n",
		"header":   "the cookie under another header's name|GET TARGET HTTP/1.1\r\nHost: HOST\r\nX-COOKIE\r\n\r\n",
		"query":    "the cookie in the query|GET TARGET&NAME=VALUE HTTP/1.1\r\nHost: HOST\r\n\r\n",
	}),
	[]attack{
		{
			id: "callback-reflection", who: aPage, gains: "a script of its own on the page",
			does: "sends a script in every parameter, path and header, and looks for it in the answers",
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				_, cookie := s.spied()
				const script = "<script>alert(1)</script>"
				for _, target := range []string{"/callback?state=" + script + "&error=" + script + "&error_description=" + script, "/" + script, "/callback?" + script} {
					for _, text := range []string{
						"GET " + target + " HTTP/1.1\r\nHost: " + s.host + "\r\n" + "Cookie: " + cookie + "\r\nReferer: " + script + "\r\n\r\n",
						"GET " + target + " HTTP/1.1\r\nHost: " + script + "\r\n\r\n",
					} {
						if strings.Contains(raw(t, s.host, text), "alert") {
							return true, "the page has it"
						}
					}
				}
				return s.comes("no answer has it")
			},
		},
		{
			id: "callback-half-open", who: aPage, gains: "the answer does not get through",
			does: "holds 1,000 connections open with half a request on each",
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				for range 1000 {
					conn, err := net.Dial("tcp", s.host)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close() })
					_, _ = io.WriteString(conn, "GET /callback HTTP/1.1\r\n")
				}
				return s.comes("nothing")
			},
		},
		{
			id: "callback-flood", who: aPage, gains: "the answer does not get through",
			does: "sends 500 answers without a cookie, 20 at a time, while the person signs in",
			play: func(t *testing.T) (bool, string) { return flooded(t, nil, "") },
		},
		{
			id: "callback-flood-away", who: aPage, gains: "the answer does not get through",
			does: "sends 500 answers, 20 at a time, while the person signs in, where no cookie is asked for",
			play: func(t *testing.T) (bool, string) {
				return flooded(t, func(c *mcpclient.Client) { c.ShowURL = shown }, "")
			},
		},
		{
			id: "callback-page-slow", who: neighbour, gains: "the browser does not get the start page",
			does: "asks for the start page on 20 connections and reads nothing",
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				for range 20 {
					conn, err := net.Dial("tcp", s.host)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close() })
					_ = conn.(*net.TCPConn).SetReadBuffer(1)
					_, path, _ := strings.Cut(s.page, s.host)
					fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, s.host)
				}
				return s.comes("nothing")
			},
		},
		{
			id: "callback-second", who: aPage, gains: "a second sign-in, or an error after the first",
			does: "sends the victim's own answer again after it has counted",
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				back, err := signInAs("olivia", s.page, s.person)
				if err != nil {
					t.Fatal(err)
				}
				first := get(s.person, back)
				if err := <-s.done; err != nil {
					t.Fatal(err)
				}
				s.done <- nil
				won, seen := s.comes(first + ", then " + get(s.person, back))
				return won, seen
			},
		},
		{
			id: "callback-late-code", who: neighbour, gains: "the victim's tokens",
			does: "listens on the port when the sign-in is over, gets the code by a reload of the page, and redeems it",
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				s.spied()
				back, err := signInAs("olivia", s.address, s.person)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.client.Close() // the person gave up
				ln, err := net.Listen("tcp", s.host)
				if err != nil {
					t.Fatal(err)
				}
				codes := make(chan url.Values, 1)
				go func() {
					_ = http.Serve(ln, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { codes <- r.URL.Query() }))
				}()
				t.Cleanup(func() { _ = ln.Close() })
				get(s.person, back)
				asked, _ := url.Parse(s.address)
				endpoint := strings.TrimSuffix(asked.Path, "/auth") + "/token"
				resp, err := http.PostForm(asked.Scheme+"://"+asked.Host+endpoint, url.Values{
					"grant_type": {"authorization_code"}, "code": {(<-codes).Get("code")},
					"client_id": {asked.Query().Get("client_id")}, "redirect_uri": {asked.Query().Get("redirect_uri")},
				})
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				return resp.StatusCode == http.StatusOK, "the token endpoint answers " + resp.Status
			},
		},
		squatted("callback-squatted", "127.0.0.1", "holds the port of the redirect address before the sign-in"),
		squatted("callback-squatted-all", "0.0.0.0", "holds the port on all addresses, to get every connection that is not for 127.0.0.1"),
		squatted("callback-squatted-ipv6", "[::1]", "holds the port on [::1] alone, where the redirect address is on localhost"),
		{
			id: "callback-shared-port", who: neighbour, gains: "the code and the state",
			does: "listens on the port of a sign-in under way too, with SO_REUSEPORT, on 127.0.0.1, 0.0.0.0 and [::]",
			play: func(t *testing.T) (bool, string) {
				needOther(t)
				s := sit(t, nil)
				_, port, _ := net.SplitHostPort(s.host)
				for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::]"} {
					if r := asUser(t, otherUser, task{Bind: host + ":" + port})(); r.Error == "" {
						return true, host + " is bound"
					}
				}
				return s.comes("the system refuses each")
			},
		},
		{
			id: "callback-two", who: "another sign-in in the same browser", gains: "one counts for the other",
			does: "is under way at the same time on another port: each gets the other's answer, with the cookies of both",
			play: func(t *testing.T) (bool, string) {
				one := sit(t, nil)
				two := sit(t, nil)
				two.person = one.person // and its cookies
				_, _ = one.spied()
				_, _ = two.spied()
				crossed, err := signInAs("olivia", one.address, one.person)
				if err != nil {
					t.Fatal(err)
				}
				crossed.Host = two.host
				status := get(one.person, crossed)
				won, seen := one.comes(status)
				if won {
					return won, seen
				}
				return two.comes(seen)
			},
		},
	},
	chromiumAttacks,
)

// forms makes a row of each request. In one, HOST, PORT, PATH, QUERY, TARGET, CODE (all of the
// query but the state), STATE and COOKIE stand for what would be right.
func forms(id, what, who string, requests map[string]string) (list []attack) {
	for name, request := range requests {
		does, text, _ := strings.Cut(request, "|")
		list = append(list, attack{
			id: id + "-" + name, who: who, gains: asMia, does: strings.TrimSpace(what + " " + does),
			play: func(t *testing.T) (bool, string) {
				s := sit(t, nil)
				answer, cookie := s.spied()
				q := answer.Query()
				state := q.Get("state")
				q.Del("state")
				_, port, _ := net.SplitHostPort(s.host)
				cookieName, value, _ := strings.Cut(cookie, "=")
				text := strings.NewReplacer(
					"TARGET", answer.RequestURI(), "QUERY", answer.RawQuery, "PATH", answer.Path, "SEMICOLONS", strings.ReplaceAll(answer.RawQuery, "&", ";"),
					"HOST", s.host, "PORT", port, "CODE", q.Encode(), "STATE", state, "LOWER", strings.ToLower(state), "SHORT", state[:len(state)-1],
					"LENGTH", fmt.Sprint(len(answer.RawQuery)), "COOKIE", "Cookie: "+cookie, "NAME", cookieName, "VALUE", value,
				).Replace(text)
				return s.comes(raw(t, s.host, text))
			},
		})
	}
	slices.SortFunc(list, func(a, b attack) int { return strings.Compare(a.id, b.id) })
	return list
}

// raw sends a text and returns the status and what is wrong with the answer.
func raw(t *testing.T, host, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(conn, text) }() // of a large one not all is read
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if strings.Contains(string(body), "alert") {
		return string(body)
	}
	return resp.Status
}

// squatted holds a port on host before the victim's sign-in begins, for which that port is fixed.
func squatted(id, host, does string) attack {
	return attack{
		id: id, who: neighbour, gains: "the code and the state", does: does,
		play: func(t *testing.T) (bool, string) {
			needOther(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			_ = ln.Close()
			if r := asUser(t, otherUser, task{Bind: host + ":" + port})(); r.Error != "" {
				t.Fatal(r.Error)
			}
			srv, err := sandboxForBrowsers()
			if err != nil {
				t.Fatal(err)
			}
			redirect := "127.0.0.1"
			if host == "[::1]" {
				redirect = "localhost"
			}
			opened := false
			c := &mcpclient.Client{
				Name: "Acme Notes", Server: srv.URL(), Store: memory(), SignInTimeout: time.Second,
				Registration: mcpclient.Registration{RedirectURL: "http://" + redirect + ":" + port + "/callback"},
				OpenBrowser:  opens(&opened),
			}
			t.Cleanup(func() { _ = c.Close() })
			err = c.Login(t.Context(), nil)
			if opened {
				return true, "the browser opens"
			}
			return false, strings.ReplaceAll(reason(err), port, "PORT") + "; no browser opens"
		},
	}
}

// flooded has the person sign in during a flood.
func flooded(t *testing.T, change func(*mcpclient.Client), cookie string) (bool, string) {
	s := sit(t, change)
	u := &url.URL{Scheme: "http", Host: s.host, Path: "/callback", RawQuery: "code=x&state=y"}
	var flood sync.WaitGroup
	for range 20 {
		flood.Go(func() {
			for range 25 {
				send(u, cookie, "open", "")
			}
		})
	}
	won, seen := s.comes("nothing")
	flood.Wait()
	return won, seen
}
