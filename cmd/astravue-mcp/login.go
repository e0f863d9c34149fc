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
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// loginFlags are the flags that only login has.
type loginFlags struct {
	registration mcpclient.Registration
	secretFile   string // of the registration's client; "-": standard input
	scopes       string
	noBrowser    bool
	away         bool // the browser is probably on another computer
	yes          bool
}

func (a *app) loginCommand() *cobra.Command {
	var o loginFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in through the browser and keep the session",
		Long: `Sign in through the browser and keep the session.

The sign-in page opens in the program that $BROWSER names, or else in the
system's browser. If none opens, open the printed address yourself, in a browser
on this computer.

If your browser is on another computer, use --no-browser. The address that is
printed then works in any browser; do not show it to others. After the sign-in
that browser stops at a page that it cannot load. Paste the address of that page
into the terminal.

Over SSH and in a container login prints such an address without the flag, and
also opens it if it finds a browser. --no-browser=false says that your browser is
on this computer.

The first login registers a client at the server. If the server does not allow
that, create an app by hand (in Astravue: Settings → Apps → Create App) and give
its ID, and its secret if it has one. They are kept with the session.

Use --issuer if you know from another source than the server where its users
sign in: no other authorization server is used then. If the authorization
server's metadata states another issuer than the MCP server announces, login
asks at the terminal whether to sign in at that issuer; --yes answers yes.

With --output json login prints what status prints. Before that it prints the
address to open, which works in any browser, to standard error:
  {"authorization_url":"…"}`,
		Example: `  astravue-mcp login
  astravue-mcp login --account work
  astravue-mcp login --client-id 3f1c… --client-secret-file secret.txt
  astravue-mcp login --scope "openid offline_access"   # outlives the browser's session`,
		Args: takes(0, 0),
	}
	cmd.RunE = a.bounded(func(ctx context.Context, _ []string) error {
		if o.away = o.noBrowser; !cmd.Flags().Changed("no-browser") {
			o.away = isAway()
		}
		return a.login(ctx, o)
	})
	f := cmd.Flags()
	f.StringVar(&o.registration.ClientID, "client-id", "", "`ID` of an app that was created by hand")
	f.StringVar(&o.secretFile, "client-secret-file", "", "`FILE` with the app's secret; - for standard input")
	f.StringVar(&o.registration.ClientMetadataURL, "client-metadata-url", "", "https `URL` of a client ID metadata document, to use as client ID")
	f.StringVar(&o.registration.RedirectURL, "redirect-url", "", "loopback `URL` that the browser comes back to (default http://127.0.0.1/callback, on any port)")
	f.StringVar(&o.scopes, "scope", "", "`SCOPES` to ask for, separated by spaces, in place of those that the server names; offline_access alone is added to them")
	f.StringVar(&a.issuer, "issuer", "", "`URL` of the only authorization server to use (RFC 8414 issuer)")
	f.BoolVar(&o.yes, "yes", false, "sign in without asking at an issuer that the server does not announce")
	f.BoolVar(&o.noBrowser, "no-browser", false, "only print an address, for a browser on any computer")
	return cmd
}

func (a *app) login(ctx context.Context, o loginFlags) error {
	if err := checkRegistration(o.registration); err != nil {
		return err
	}
	if o.secretFile != "" {
		if o.registration.ClientID == "" {
			return usagef("--client-secret-file needs --client-id")
		}
		secret, err := a.readSecret(ctx, o.secretFile)
		if err != nil {
			return err
		}
		o.registration.ClientSecret = secret
	}
	tty := a.terminal()
	if o.secretFile == "-" {
		tty = nil // standard input has been read to its end
	}
	pasted := &pasteboard{tty: tty, lines: make(chan string)}
	c := a.signInClient(o, pasted)
	if err := tryStore(ctx, c.Store); err != nil {
		return &mcpclient.StepError{Step: mcpclient.StepExchange, Err: err} // the step that stores tokens
	}
	opts := &mcpclient.LoginOptions{
		Pasted: pasted.lines,
		OnIgnored: func(error) {
			a.note("That is not the address of this sign-in. Paste the whole address from the address bar.")
		},
		OnWarning: func(err error) { a.note("Note: %v.", err) },
	}
	err := c.Login(ctx, opts)
	if m := new(discovery.MismatchError); errors.As(err, &m) && m.Field == "issuer" && a.issuer == "" && (o.yes || a.agrees(ctx, tty, m)) {
		// A client keeps the issuer that it began with, so another one signs in.
		if err := c.Close(); err != nil {
			return err
		}
		store := c.Store // it knows the passphrase already
		c = a.signInClient(o, pasted)
		c.Store, c.Issuer = store, m.Got
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
}

// signInClient returns a client that shows and opens the sign-in page.
//
// A browser on this computer gets a page of the client's own, through OpenBrowser. Only that browser
// can use its address, so other users of the computer may see it. A browser elsewhere gets the
// authorization URL, through ShowURL. With JSON a program gets that too, since it may pass it on.
func (a *app) signInClient(o loginFlags, pasted *pasteboard) *mcpclient.Client {
	c := a.newClient()
	c.Registration, c.Issuer, c.Scopes = o.registration, a.issuer, strings.Fields(o.scopes)
	if o.away || a.output == "json" {
		c.ShowURL = func(ctx context.Context, address string) error {
			a.showAddress("To sign in, open this address in a browser", address,
				"If that browser is on another computer, it stops at a page that it cannot load: paste here the address of that page.", pasted)
			if o.away && !o.noBrowser {
				a.tryBrowser(ctx, address) // over SSH, $BROWSER may open it where the person is
			}
			return nil
		}
	}
	if !o.away {
		c.OpenBrowser = func(ctx context.Context, address string) error {
			if a.output == "text" {
				a.showAddress("To sign in, open this address in a browser of this computer", address,
					"If its last page asks you to, paste here the address of that page.", pasted)
			}
			a.tryBrowser(ctx, address)
			return nil
		}
	}
	return c
}

// agrees asks the person at the terminal, if there is one, whether to sign in at an issuer that the
// authorization server's metadata states and the MCP server does not announce.
func (a *app) agrees(ctx context.Context, tty *os.File, m *discovery.MismatchError) bool {
	if tty == nil || a.output != "text" {
		return false
	}
	host := a.server
	if u, err := url.Parse(a.server); err == nil {
		host = u.Host
	}
	a.note("%s states the issuer %s, which is not the one that was announced.\nIf you go on, a token of that issuer goes to %s. Go on only if the issuer's operator\nhas told you that this is their server.", text.Quote(m.Document), text.Quote(m.Got), text.Line(host))
	answer, err := a.ask(ctx, tty, "Sign in there? [y/N] ")
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}

// checkRegistration refuses addresses that this command cannot sign in with.
func checkRegistration(r mcpclient.Registration) error {
	if u, err := url.Parse(r.RedirectURL); r.RedirectURL != "" && (err != nil || u.Scheme != "http" || !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())) {
		return usagef("--redirect-url is not http on 127.0.0.1, [::1] or localhost")
	}
	// The Internet-Draft "OAuth Client ID Metadata Document" wants a path.
	if u, err := url.Parse(r.ClientMetadataURL); r.ClientMetadataURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "") {
		return usagef("--client-metadata-url is not the https address of a document")
	}
	return nil
}

// tryStore writes and deletes a record under a key of its own, so that nobody signs in for a session
// that cannot be kept. The store asks for its passphrase here too, before the terminal is read for
// pasted addresses.
func tryStore(ctx context.Context, store tokenstore.Store) error {
	return store.Update(ctx, "astravue-mcp: try", func(ctx context.Context, l *tokenstore.Locked) error {
		if _, err := l.Save(ctx, tokenstore.Record{Registration: &tokenstore.Registration{}}); err != nil {
			return err
		}
		return l.Delete(ctx)
	})
}

// readSecret reads a client secret from a file. It is never an argument, which other users of the
// computer can see.
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
	trimmed := strings.TrimSpace(secret.Reveal())
	if trimmed == "" {
		return tokenstore.Secret{}, &usageError{errors.New("--client-secret-file: the file is empty")}
	}
	return tokenstore.NewSecret(trimmed), nil
}
