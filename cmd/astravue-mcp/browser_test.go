package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/sandbox"
)

// browserMain is the program that scripts name in $BROWSER:
//
//	browser approve|deny USER URL   signs in on the sandbox's pages
//	browser attack USER URL         attacks the callback, then signs in
//	browser keep FILE USER URL      signs in, but writes the callback address to FILE and does not open it
//	browser open FILE URL           writes the address to FILE and does not open it
func browserMain() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	args := os.Args[1:]
	address := args[len(args)-1]
	err := func() error {
		switch args[0] {
		case "open":
			return os.WriteFile(args[1], []byte(address), 0o600)
		case "keep":
			keep := &keeper{file: args[1]}
			http.DefaultTransport = keep
			return someone(args[2], "approve").signIn(ctx, address)
		case "attack":
			browser := testenv.NewBrowser()
			authorization, err := testenv.Begin(ctx, browser, address)
			if err != nil {
				return err
			}
			if err := attack(ctx, browser, authorization); err != nil {
				return err
			}
			return someone(args[1], "approve").signIn(ctx, address)
		}
		return someone(args[1], args[0]).signIn(ctx, address)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

func someone(user, decision string) person {
	return person{sandbox.Account{User: user, Password: user + "-sandbox"}, decision}
}

// A keeper is a transport that writes the callback address to a file and does not reach it.
type keeper struct {
	http.Transport
	file string
}

func (k *keeper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/callback" {
		return k.Transport.RoundTrip(req)
	}
	if err := os.WriteFile(k.file, []byte(req.URL.String()), 0o600); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

// attack sends the callback what other programs and pages could send it, with the cookie of the right
// browser. The callback must not take any of it for the answer.
func attack(ctx context.Context, browser *http.Client, authorization string) error {
	u, err := url.Parse(authorization)
	if err != nil {
		return err
	}
	redirect, state := u.Query().Get("redirect_uri"), url.QueryEscape(u.Query().Get("state"))
	at, err := url.Parse(redirect)
	if err != nil {
		return err
	}
	// An idle connection, and one that is no HTTP.
	for _, text := range []string{"", "\x16\x03\x01 hello\r\n\r\n"} {
		conn, err := net.Dial("tcp", at.Host)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, text); err != nil {
			return err
		}
	}
	for i, r := range []struct {
		method, address, host string
		want                  int
	}{
		{"GET", redirect, "", 400},
		{"GET", redirect + "?code=stolen", "", 400},
		{"GET", redirect + "?code=stolen&state=guessed", "", 400},
		{"GET", redirect + "?code=stolen&state=" + state + "&state=" + state, "", 400},
		{"GET", redirect + "?error=access_denied", "", 400},
		{"GET", redirect + "?error=access_denied&state=guessed", "", 400},
		{"GET", redirect + "?code=%zz&state=" + state, "", 400},
		{"GET", redirect + "?state=" + state + "&code=" + strings.Repeat("x", 1<<15), "", 400},
		{"GET", redirect + "/more?code=stolen&state=" + state, "", 404},
		{"GET", at.Scheme + "://" + at.Host + "/favicon.ico", "", 404},
		{"GET", redirect + "?code=stolen&state=" + state, "attacker.example", 421},
		{"POST", redirect + "?code=stolen&state=" + state, "", 405},
		{"HEAD", redirect + "?code=stolen&state=" + state, "", 200}, // and decides nothing
	} {
		req, err := http.NewRequestWithContext(ctx, r.method, r.address, nil)
		if err != nil {
			return err
		}
		req.Host = r.host
		resp, err := browser.Do(req)
		if err != nil {
			return fmt.Errorf("attack %d: %w", i, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != r.want {
			return fmt.Errorf("attack %d: HTTP %d, want %d", i, resp.StatusCode, r.want)
		}
	}
	return nil
}
