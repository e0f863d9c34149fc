// Command astravue-mcp signs in to Astravue MCP, lists its tools and calls
// them. Run it without arguments for its manual.
//
// It holds no protocol: flags, printing, and the hints that go with errors.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func main() {
	noCoreDump()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)         // the first signal asks it to end, the second one ends it
	log.SetOutput(newPrinter(os.Stderr)) // net/http quotes servers there
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program. It returns the exit status. It writes to stdout and stderr from several
// goroutines.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{args: args, stdin: stdin, stdout: newPrinter(stdout), stderr: newPrinter(stderr)}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if a.client != nil {
		// On every way out: a refresh under way is a session to lose.
		err = errors.Join(err, a.client.Close())
	}
	code := a.report(err)
	if a.cancel != nil {
		a.cancel()
	}
	a.asking.Wait() // the terminal shows again what is typed
	return code
}

// app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr *printer

	server, account, store, output string
	issuer                         string // of login and discover
	timeout                        time.Duration
	verbose                        bool

	args   []string
	usage  string          // the command line as far as it names a command
	ctx    context.Context // of the command, with its deadline
	cancel context.CancelFunc
	client *mcpclient.Client
	asking sync.WaitGroup // passphrase prompts
	called atomic.Bool    // a tool
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
  {"error":{"code":"login_required","step":"authcode","message":"…","hint":"…",
   "scopes":["…"]}}
Members may be added; none is renamed or removed. step and hint may be missing;
scopes are those to sign in for, where the server named any.
Values of code:
` + codes + `

Environment:
  ASTRAVUE_MCP_SERVER, ASTRAVUE_MCP_ACCOUNT, ASTRAVUE_MCP_STORE
      what --server, --account and --store default to
  ASTRAVUE_MCP_PASSPHRASE_FILE
      file with the passphrase of --store file; else the terminal is asked
  ASTRAVUE_MCP_IDENTITY_FILE
      file with an age identity for --store file, in place of a passphrase
  BROWSER
      program that login opens the sign-in page with`

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "astravue-mcp",
		Short:         "Connect to Astravue MCP from a terminal, a script or an agent",
		Long:          about,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
				return usagef("there is no command %q; like it is %s", args[0], strings.Join(like, ", "))
			}
			return usagef("there is no command %q", args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.begin(cmd)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.usage = cmd.CommandPath()
		if wantsJSON(a.args) { // behind the flag that is wrong
			a.output = "json"
		}
		return &usageError{err}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", "", "`URL` of the MCP server ($ASTRAVUE_MCP_SERVER; default "+mcpclient.DefaultServer+")")
	f.StringVar(&a.account, "account", "", "`NAME` for one of several accounts, of your choice ($ASTRAVUE_MCP_ACCOUNT)")
	f.StringVar(&a.store, "store", "", "keep tokens in `keychain|file` ($ASTRAVUE_MCP_STORE; default keychain)")
	f.StringVarP(&a.output, "output", "o", "text", "print results and errors as `text|json`")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after `DURATION` (default 5m for login, 1m for the rest)")
	f.BoolVar(&a.verbose, "verbose", false, "log each OAuth operation to standard error; never a secret")
	root.AddCommand(a.demoCommand(), a.loginCommand(), a.statusCommand(), a.logoutCommand(),
		a.toolsCommand(), a.callCommand(), a.discoverCommand(), a.sandboxCommand())
	root.Args = a.arguments(0, 1) // which RunE refuses, with a suggestion
	return root
}

// arguments wants from least to most arguments; the names are for the complaint.
func (a *app) arguments(least, most int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		a.usage = cmd.CommandPath()
		switch {
		case len(args) < least:
			return usagef("%s needs a %s", cmd.Name(), names[len(args)])
		case most >= 0 && len(args) > most:
			return usagef("%s does not take %q", cmd.Name(), args[most])
		}
		return nil
	}
}

func wantsJSON(args []string) bool {
	line := " " + strings.Join(args, " ") + " "
	return slices.ContainsFunc([]string{" -o json ", " -o=json ", " -ojson ", " --output json ", " --output=json "},
		func(flag string) bool { return strings.Contains(line, flag) })
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
		SignInTimeout:  a.timeout + time.Minute, // the command's own time is over first, and says so
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
		a.stderr.line(format, args...)
	}
}
