package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/openbrowser"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func (a *app) loginCommand() *cobra.Command {
	var r mcpclient.Registration
	var secretFile, scope string
	var noBrowser, yes bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in through the browser and keep the session",
		Long: `Sign in through the browser and keep the session.

The browser is $BROWSER if that is set, else the system's. Where none opens,
open the printed address yourself, in a browser of this computer.

If your browser is on another computer, use --no-browser: the address that is
printed then is good on any, and is not for others to see. On a terminal you can
paste the address at which that browser ended up. Over SSH and in a container
such an address is printed without the flag, and also opened, if there is
anything to open it with; --no-browser=false says that the browser is here.

A client is registered at the server by itself, once. Where a server does not
allow that, make an app by hand (in Astravue: Settings → Apps → Create App) and
give its ID, and its secret if it has one, here; they are kept with the session.

--issuer is for whoever knows from elsewhere than the server where its users
sign in: no other authorization server is used then. Where the server's own
documents name an issuer that none of them speaks for, login asks on a terminal
whether to sign in there; --yes says yes.

With --output json it prints what status prints, and before that, on standard
error, the address to open, which is good on any computer:
  {"authorization_url":"…"}`,
		Example: `  astravue-mcp login
  astravue-mcp login --account work
  astravue-mcp login --client-id 3f1c… --client-secret-file secret.txt
  astravue-mcp login --scope "openid offline_access"   # outlives the browser's session`,
		Args: a.arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := a.bound(cmd)
			if err := checkLogin(r); err != nil {
				return err
			}
			if secretFile != "" {
				if r.ClientID == "" {
					return usagef("--client-secret-file goes with --client-id")
				}
				secret, err := a.readSecret(ctx, secretFile)
				if err != nil {
					return err
				}
				r.ClientSecret = secret
			}
			c := a.open()
			c.Registration, c.Issuer, c.Scopes = r, a.issuer, strings.Fields(scope)
			tty := a.terminal()
			if secretFile == "-" {
				tty = nil // standard input is used up
			}
			pasted := &pasteboard{tty: tty, lines: make(chan string)}
			away := noBrowser
			if !cmd.Flags().Changed("no-browser") {
				away = isAway()
			}
			if away || a.output == "json" {
				c.ShowURL = func(ctx context.Context, url string) error {
					a.show(url, "in a browser", "If that browser is on another computer, paste", pasted)
					if !noBrowser && away {
						a.browse(ctx, url) // a program of the user's may open it where they are
					}
					return nil
				}
			}
			if !away {
				c.OpenBrowser = func(ctx context.Context, address string) error {
					if a.output == "text" {
						a.show(address, "in a browser of this computer", "If its last page asks you to, paste", pasted)
					}
					a.browse(ctx, address)
					return nil
				}
			}
			if err := tryStore(ctx, c.Store); err != nil {
				return &mcpclient.StepError{Step: mcpclient.StepExchange, Err: err}
			}
			opts := &mcpclient.LoginOptions{
				Pasted:    pasted.lines,
				OnIgnored: func(error) { a.note("That is not the address of this sign-in. Paste the whole address bar.") },
				OnWarning: func(err error) { a.note("Note: %v.", err) },
			}
			err := c.Login(ctx, opts)
			if m := new(discovery.MismatchError); errors.As(err, &m) && m.Field == "issuer" && a.issuer == "" && (yes || a.agrees(ctx, tty, m)) {
				first := c
				if err := first.Close(); err != nil {
					return err
				}
				c = a.open()
				c.Store, c.Registration, c.Scopes = first.Store, first.Registration, first.Scopes
				c.OpenBrowser, c.ShowURL = first.OpenBrowser, first.ShowURL
				c.Issuer = m.Got
				err = c.Login(ctx, opts)
			}
			if err != nil {
				return err
			}
			st, err := c.Status(ctx)
			if err != nil {
				return err
			}
			a.note("Signed in.")
			return a.printStatus(st)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.ClientID, "client-id", "", "`ID` of an app made by hand; none is registered then")
	f.StringVar(&secretFile, "client-secret-file", "", "`FILE` with the app's secret; - is standard input")
	f.StringVar(&r.ClientMetadataURL, "client-metadata-url", "", "https `URL` of a client ID metadata document")
	f.StringVar(&r.RedirectURL, "redirect-url", "", "loopback `URL` that the browser comes back to (default http://127.0.0.1/callback, any port)")
	f.StringVar(&scope, "scope", "", "`SCOPES` to ask for, separated by spaces, in place of those that the server names; offline_access alone comes in addition")
	f.StringVar(&a.issuer, "issuer", "", "`URL` of the one authorization server to sign in at (RFC 8414 issuer)")
	f.BoolVar(&yes, "yes", false, "sign in at an issuer that only the server names, without asking")
	f.BoolVar(&noBrowser, "no-browser", false, "print the address only, for a browser on any computer")
	return cmd
}

// agrees asks the person at the terminal, if there is one, whether to sign in at
// the issuer that the server's documents name and that does not speak for them.
func (a *app) agrees(ctx context.Context, tty *os.File, m *discovery.MismatchError) bool {
	if tty == nil || a.output != "text" {
		return false
	}
	host := a.server
	if u, err := url.Parse(a.server); err == nil {
		host = u.Host
	}
	a.note("%s names the issuer %s, which is not the one that was asked for.\nIf you go on, a token of that issuer goes to %s. Go on only if the issuer's operator\nhas told you that this is their server.", text.Quote(m.Document), text.Quote(m.Got), text.Line(host))
	fmt.Fprint(a.stderr, "Sign in there? [y/N] ")
	answer := make(chan string, 1)
	go func() {
		var line []byte
		for b := make([]byte, 1); ; line = append(line, b[0]) { // what follows the line is not taken from the next reader
			if n, err := tty.Read(b); n == 0 || err != nil || b[0] == '\n' {
				break
			}
		}
		answer <- strings.ToLower(strings.TrimSpace(string(line)))
	}()
	select {
	case a := <-answer:
		return a == "y" || a == "yes"
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return false
	}
}

// checkLogin refuses addresses that no sign-in here can be done with.
func checkLogin(r mcpclient.Registration) error {
	if u, err := url.Parse(r.RedirectURL); r.RedirectURL != "" && (err != nil || u.Scheme != "http" || !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())) {
		return usagef("--redirect-url is not http on 127.0.0.1, [::1] or localhost")
	}
	// The Internet-Draft "OAuth Client ID Metadata Document" wants a path.
	if u, err := url.Parse(r.ClientMetadataURL); r.ClientMetadataURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "") {
		return usagef("--client-metadata-url is not the https address of a document")
	}
	return nil
}

// tryStore writes to the store, before a person signs in for nothing. It also
// has a passphrase asked for before the terminal takes pasted addresses.
func tryStore(ctx context.Context, store tokenstore.Store) error {
	return store.Update(ctx, "astravue-mcp: try", func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{}}); err != nil {
			return err
		}
		return l.Delete(ctx)
	})
}

// isAway reports whether the person is probably at another computer than this
// one, or at one that this one is a container on.
func isAway() bool {
	for _, name := range []string{"SSH_CONNECTION", "SSH_TTY", "KUBERNETES_SERVICE_HOST", "container"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(mark); err == nil {
			return true
		}
	}
	return false
}

// show shows an address to open, whether a browser opens by itself or not: it
// may do so where nobody looks.
func (a *app) show(address, where, paste string, pasted *pasteboard) {
	if a.output == "json" {
		_ = a.stderr.json(map[string]string{"authorization_url": address}, false) // a string only
		pasted.open()
		return
	}
	a.stderr.line("To sign in, open this address %s:\n\n  %s\n", where, address)
	if pasted.open() {
		a.stderr.line("%s here the address at which it ends up.", paste)
	}
}

// browse opens a browser at an address that was shown.
func (a *app) browse(ctx context.Context, address string) {
	if err := a.openBrowser(ctx, address); err != nil && ctx.Err() == nil {
		a.note("No browser could be opened (%v); open the address above yourself.", err)
	}
}

func (a *app) openBrowser(ctx context.Context, url string) error {
	var out io.Writer = a.stderr
	if a.output == "json" {
		out = io.Discard
	}
	if program := strings.TrimSpace(os.Getenv("BROWSER")); program != "" {
		return browse(ctx, program, url, out)
	}
	return openbrowser.Open(ctx, url, out)
}

// readSecret reads a client secret from a file, never from an argument, which
// other users of the computer can see.
func (a *app) readSecret(ctx context.Context, name string) (tokenstore.Secret, error) {
	var secret tokenstore.Secret
	var err error
	if name == "-" {
		var data []byte
		data, err = io.ReadAll(io.LimitReader(a.stdin, 1<<16))
		secret = tokenstore.NewSecret(string(data))
	} else {
		secret, err = tokenstore.ReadSecretFile(ctx, name)
	}
	if err != nil {
		return tokenstore.Secret{}, &usageError{fmt.Errorf("--client-secret-file: %w", err)}
	}
	text := strings.TrimSpace(secret.Reveal())
	if text == "" {
		return tokenstore.Secret{}, &usageError{errors.New("--client-secret-file: it is empty")}
	}
	return tokenstore.NewSecret(text), nil
}
