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
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func main() {
	noCoreDump()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)         // the first signal interrupts the command, the second one kills it
	log.SetOutput(newPrinter(os.Stderr)) // net/http writes servers' words there
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program, and returns the exit status. Several goroutines write to stdout and stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{args: args, stdin: stdin, stdout: newPrinter(stdout), stderr: newPrinter(stderr)}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	code := a.report(cmd.CommandPath(), err)
	a.asking.Wait() // until the terminal shows again what is typed
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

	args   []string          // of the command line
	client *mcpclient.Client // of the last newClient; bounded closes it
	asking sync.WaitGroup    // passphrase prompts
}

const about = `astravue-mcp connects a terminal, a script or an agent to Astravue MCP, or to
any other MCP server that asks for an OAuth sign-in.

  astravue-mcp demo        see the whole flow, without an account
  astravue-mcp login       sign in once, in a browser
  astravue-mcp tools       list what the server can do
  astravue-mcp call TOOL   call one of its tools

Results go to standard output, everything else to standard error. Tokens are
kept in the operating system's keychain, or with --store file in encrypted
files. They are renewed without asking. Only login and demo --browser open a
browser.

Exit status:
  0  success
  1  failure
  2  wrong usage
  3  login required
  4  the tool itself reported an error

With --output json a command writes one JSON document. An error is one line on
standard error:
  {"error":{"code":"login_required","step":"authcode","message":"…","hint":"…",
   "scopes":["…"]}}
step and hint may be missing. scopes, if the server names any, are those to sign
in for. Members may be added; none is renamed or removed. Values of code:
` + codes + `

Environment:
  ASTRAVUE_MCP_SERVER, ASTRAVUE_MCP_ACCOUNT, ASTRAVUE_MCP_STORE
      defaults of --server, --account and --store
  ASTRAVUE_MCP_PASSPHRASE_FILE
      file with the passphrase of --store file; if not set, the terminal asks
  ASTRAVUE_MCP_IDENTITY_FILE
      file with an age identity for --store file, in place of a passphrase
  BROWSER
      program that opens the sign-in page`

func (a *app) rootCommand() *cobra.Command {
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
				return usagef("there is no command %q; did you mean %s?", args[0], strings.Join(like, " or "))
			}
			return usagef("there is no command %q", args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.checkFlags(cmd)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if wantsJSON(a.args) { // cobra reads no flag behind the wrong one
			a.output = "json"
		}
		return &usageError{err}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", "", "`URL` of the MCP server ($ASTRAVUE_MCP_SERVER; default "+mcpclient.DefaultServer+")")
	f.StringVar(&a.account, "account", "", "`NAME` of your choice for one of several accounts ($ASTRAVUE_MCP_ACCOUNT)")
	f.StringVar(&a.store, "store", "", "keep tokens in `keychain|file` ($ASTRAVUE_MCP_STORE; default keychain)")
	f.StringVarP(&a.output, "output", "o", "text", "print results and errors as `text|json`")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after `DURATION` (default 5m for login, 1m for the rest)")
	f.BoolVar(&a.verbose, "verbose", false, "log each OAuth operation to standard error, without secrets")
	root.AddCommand(a.demoCommand(), a.loginCommand(), a.statusCommand(), a.logoutCommand(),
		a.toolsCommand(), a.callCommand(), a.discoverCommand(), a.sandboxCommand())
	root.Args = takes(0, 1) // one, so that RunE can suggest a command
	return root
}

// takes wants from least to most arguments, with most < 0 any number. The names are
// those of the required ones, for the error.
func takes(least, most int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s needs a %s", cmd.Name(), names[len(args)])
		case most >= 0 && len(args) > most:
			return usagef("%s does not take %q", cmd.Name(), args[most])
		}
		return nil
	}
}

// wantsJSON looks for --output json in arguments that cannot be parsed.
func wantsJSON(args []string) bool {
	line := " " + strings.Join(args, " ") + " "
	return slices.ContainsFunc([]string{" -o json ", " -o=json ", " -ojson ", " --output json ", " --output=json "},
		func(flag string) bool { return strings.Contains(line, flag) })
}

// setDefault sets a flag that was not given from the environment, or else to fallback.
func setDefault(flag *string, name, fallback string) {
	if *flag == "" {
		*flag = os.Getenv("ASTRAVUE_MCP_" + name)
	}
	if *flag == "" {
		*flag = fallback
	}
}

// checkFlags checks the global flags and sets those that were not given.
func (a *app) checkFlags(cmd *cobra.Command) error {
	setDefault(&a.server, "SERVER", mcpclient.DefaultServer)
	setDefault(&a.account, "ACCOUNT", "")
	setDefault(&a.store, "STORE", "keychain")
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
			a.timeout = personTime
		}
	}
	return nil
}

// personTime is the default timeout of a command that waits for a person at a browser.
const personTime = 5 * time.Minute

// bounded makes a command of f that has the time of --timeout. It closes f's client however f
// ends: a program that exits during a refresh loses the session. An error after the time was over,
// or after an interrupt, is an [endedError].
func (a *app) bounded(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), a.timeout, &timeoutError{a.timeout})
		defer cancel()
		err := f(ctx, args)
		if a.client != nil {
			err = errors.Join(err, a.client.Close())
		}
		if err != nil && ctx.Err() != nil {
			return &endedError{err, context.Cause(ctx)}
		}
		return err
	}
}

// newClient returns the client that the global flags describe. [app.bounded] closes it.
func (a *app) newClient() *mcpclient.Client {
	a.client = &mcpclient.Client{
		Name:           "astravue-mcp",
		Version:        version(),
		Server:         a.server,
		Account:        a.account,
		Store:          a.openStore(),
		NonInteractive: true,
		SignInTimeout:  a.timeout + time.Minute, // the error is that of the command's own timeout, which comes first
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
		k.CallTimeout = tokenstore.PromptTimeout // a person can answer the keychain's prompt
	}
	return k
}

func (a *app) logger() *slog.Logger {
	if !a.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// note prints a line for people to standard error. With --output json it prints nothing.
func (a *app) note(format string, args ...any) {
	if a.output == "text" {
		a.stderr.line(format, args...)
	}
}

// version is that of the module, if the build knows it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
