// Command astravue-mcp signs in to Astravue MCP, lists its tools and calls
// them. Run it without arguments for its manual.
//
// It holds no protocol: flags, printing, and the hints that go with errors.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if a.cancel != nil {
		defer a.cancel()
	}
	if a.client != nil {
		// On every way out: a refresh under way is a session to lose.
		err = errors.Join(err, a.client.Close())
	}
	return a.report(err)
}

// app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	server, account, store, output string
	timeout                        time.Duration
	verbose                        bool

	ctx    context.Context // of the command, with its deadline
	cancel context.CancelFunc
	client *mcpclient.Client
}

const about = `astravue-mcp connects to Astravue MCP, or to any other MCP server that asks for
an OAuth sign-in, from a terminal, a script or an agent.

  astravue-mcp demo        see the whole flow, without an account
  astravue-mcp login       sign in, once; a browser opens
  astravue-mcp tools       what the server can do
  astravue-mcp call TOOL   do it

Results go to standard output, everything else to standard error. Tokens are
kept in the operating system's keychain, or with --store file in encrypted
files, and are renewed without asking. Only login opens a browser.

Exit status: 0 success, 1 failure, 2 usage, 3 login required, 4 the tool itself
reported an error.

With --output json a command writes one JSON document, and an error is one line
on standard error:
  {"error":{"code":"login_required","step":"authcode","message":"…","hint":"…"}}
Members may be added; none is renamed or removed.`

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "astravue-mcp",
		Short:         "Connect to Astravue MCP from a terminal, a script or an agent",
		Long:          about,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.begin(cmd)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", "", "`URL` of the MCP server ($ASTRAVUE_MCP_SERVER; default "+mcpclient.DefaultServer+")")
	f.StringVar(&a.account, "account", "", "`NAME` of one of several accounts, as you like to call it ($ASTRAVUE_MCP_ACCOUNT)")
	f.StringVar(&a.store, "store", "", "where tokens are kept: `keychain|file` ($ASTRAVUE_MCP_STORE; default keychain)")
	f.StringVarP(&a.output, "output", "o", "text", "`text|json`")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after `DURATION` (default 5m for login, 1m for the rest)")
	f.BoolVar(&a.verbose, "verbose", false, "log each OAuth operation to standard error; never a secret")
	root.AddCommand(a.demoCommand(), a.loginCommand(), a.statusCommand(), a.logoutCommand(),
		a.toolsCommand(), a.callCommand(), a.discoverCommand(), a.sandboxCommand())
	for _, c := range root.Commands() {
		args := c.Args
		c.Args = func(cmd *cobra.Command, got []string) error {
			if err := args(cmd, got); err != nil {
				return &usageError{err}
			}
			return nil
		}
	}
	return root
}

// A setting may come from the environment too.
func setting(flag *string, name, fallback string) {
	if *flag == "" {
		*flag = os.Getenv("ASTRAVUE_MCP_" + name)
	}
	if *flag == "" {
		*flag = fallback
	}
}

// begin checks the global flags.
func (a *app) begin(cmd *cobra.Command) error {
	setting(&a.server, "SERVER", mcpclient.DefaultServer)
	setting(&a.account, "ACCOUNT", "")
	setting(&a.store, "STORE", "keychain")
	if a.output != "text" && a.output != "json" {
		bad := a.output
		a.output = "text"
		return usagef("--output is %q, not text or json", bad)
	}
	if a.store != "keychain" && a.store != "file" {
		return usagef("--store is %q, not keychain or file", a.store)
	}
	if a.timeout < 0 {
		return usagef("--timeout is negative")
	}
	if a.timeout == 0 {
		a.timeout = time.Minute
		if cmd.Name() == "login" {
			a.timeout = 5 * time.Minute
		}
	}
	return nil
}

// bound gives a command's context the time it has.
func (a *app) bound(cmd *cobra.Command) context.Context {
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), a.timeout, &timeoutError{a.timeout})
	a.ctx, a.cancel = ctx, cancel
	return ctx
}

// open returns the client that the global flags describe. run closes it.
func (a *app) open() *mcpclient.Client {
	a.client = &mcpclient.Client{
		Name:           "astravue-mcp",
		Version:        version(),
		Server:         a.server,
		Account:        a.account,
		Store:          a.openStore(),
		NonInteractive: true,
		SignInTimeout:  a.timeout,
		Logger:         a.logger(),
	}
	return a.client
}

func (a *app) openStore() tokenstore.Store {
	if a.store == "file" {
		f := &tokenstore.File{IdentityFile: os.Getenv("ASTRAVUE_MCP_IDENTITY_FILE")}
		if f.IdentityFile == "" {
			f.Passphrase = a.passphrase
		}
		return f
	}
	k := &tokenstore.Keychain{}
	if a.terminal() != nil {
		k.CallTimeout = tokenstore.PromptTimeout // somebody is there to answer its prompt
	}
	return k
}

func (a *app) logger() *slog.Logger {
	if !a.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// note writes a line for people.
func (a *app) note(format string, args ...any) {
	if a.output == "text" {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}
