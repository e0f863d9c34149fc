package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func (a *app) demoCommand() *cobra.Command {
	var withBrowser bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole flow against a local sandbox, step by step",
		Long: `Show the whole flow against a local sandbox, step by step: discovery, PKCE,
registration, sign-in, callback, tokens, tool calls, refresh, sign-out. It needs
no account and no network, and leaves nothing behind. Secrets are shown as
[redacted], although these are worth nothing.

Without --browser it fills in the sandbox's sign-in and consent pages itself.

With --output json it prints the exchanges as an array:
  [{"step":1, "package":"discovery", "title":"…", "method":"GET", "url":"…",
    "sent":{…}, "status":200, "received":{…}}]`,
		Args: takes(0, 0),
		PreRun: func(cmd *cobra.Command, _ []string) {
			if withBrowser && !cmd.Flags().Changed("timeout") {
				a.timeout = personTime
			}
		},
		RunE: a.bounded(func(ctx context.Context, _ []string) error {
			return a.demo(ctx, withBrowser)
		}),
	}
	cmd.Flags().BoolVar(&withBrowser, "browser", false, "sign in yourself, in your browser, within 5 minutes")
	return cmd
}

func (a *app) demo(ctx context.Context, withBrowser bool) error {
	srv, err := sandbox.Start(sandbox.Options{Logger: a.logger()})
	if err != nil {
		return err
	}
	defer srv.Close()
	d := &demonstration{app: a, srv: srv, out: a.stdout}
	if a.output == "json" {
		d.out = quiet()
	}
	d.trace = &trace{srv: srv, show: d.exchange}
	store := &tokenstore.Memory{}
	open := func(account, user string) *mcpclient.Client {
		return &mcpclient.Client{
			Name: "astravue-mcp demo", Version: version(), Server: srv.URL(), Account: account,
			Store: store, Transport: d.trace, SignInTimeout: a.timeout + time.Minute, Logger: a.logger(),
			ShowURL: func(_ context.Context, url string) error { d.trace.authorize(url); return nil },
			OpenBrowser: func(ctx context.Context, address string) error {
				accounts := srv.Accounts()
				who := accounts[slices.IndexFunc(accounts, func(a sandbox.Account) bool { return a.User == user })]
				if withBrowser {
					a.note("Sign in as %s, with the password %s.", who.User, who.Password)
					a.showAddress("To sign in, open this address in a browser of this computer", address, "", &pasteboard{})
					a.tryBrowser(ctx, address)
					return nil
				}
				return person{Account: who, decision: "approve"}.signIn(ctx, address)
			},
		}
	}
	a.client = open("", "olivia")
	err = d.tell(ctx, a.client, func() *mcpclient.Client { return open("second", "mia") })
	if err == nil && a.output == "json" {
		return a.printJSON(d.trace.exchanges)
	}
	return err
}

// A demonstration tells the story: it prints chapters, and in them the exchanges as they happen.
type demonstration struct {
	*app
	srv   *sandbox.Server
	out   *printer
	trace *trace
	title string // of the last exchange; "": the next one prints its title
	brief bool   // print no members but the method
}

func (d *demonstration) say(format string, args ...any) {
	d.out.line(format, args...)
}

func (d *demonstration) tell(ctx context.Context, owner *mcpclient.Client, member func() *mcpclient.Client) error {
	d.say("A sandbox Astravue runs at %s, with its sign-in pages at %s.", d.srv.APIURL(), d.srv.AuthURL())
	d.say("This is everything that a new AI tool does before its first call.")

	session, err := owner.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	d.chapter("Connected. What the server can do:")
	var names []string
	for t, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		names = append(names, t.Name)
	}
	slices.Sort(names)
	d.say("  %d tools, among them %s", len(names), strings.Join(names[:6], ", "))

	d.chapter("Three calls that belong together: a task, its timer, the timesheet.")
	var task struct {
		ID string `json:"id"`
	}
	if err := d.call(ctx, session, "create_project_task", map[string]any{"project_id": "project-1", "title": "Try Astravue MCP"}, &task); err != nil {
		return err
	}
	if err := d.call(ctx, session, "start_project_task_timer", map[string]any{"task_id": task.ID}, nil); err != nil {
		return err
	}

	d.chapter("31 minutes pass. The access token lives for 30, so the next call renews it first. Nobody is asked.")
	d.srv.Advance(31 * time.Minute)
	defer clock.Advance(31 * time.Minute)()
	if err := d.call(ctx, session, "stop_project_task_timer", map[string]any{"task_id": task.ID}, nil); err != nil {
		return err
	}
	today := d.srv.Now().UTC().Format(time.DateOnly)
	if err := d.call(ctx, session, "get_project_timesheet_summary", map[string]any{"project_id": "project-1", "from": today, "to": today}, nil); err != nil {
		return err
	}

	d.brief = true // a sign-in was shown before
	d.chapter("A second account, Mia, is a member. A member may not create a space, and neither may an AI tool that acts for her.")
	second := member()
	err = func() error {
		theirs, err := second.Connect(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = theirs.Close() }()
		err = d.call(ctx, theirs, "create_space", map[string]any{"name": "Mine"}, nil)
		switch {
		case err == nil: // with --browser a person may sign in as anybody
			d.say("  The space was created: you signed in as somebody who may. Mia may not.")
		case !errors.Is(err, errTool):
			return err
		}
		_, err = second.Logout(ctx)
		return err
	}()
	if err := errors.Join(err, second.Close()); err != nil {
		return err
	}

	d.chapter("Signing out: the server revokes the tokens, and they are forgotten here.")
	res, err := owner.Logout(ctx)
	if err != nil {
		return err
	}
	d.say("  %s; nothing is stored any more", res.Revocation)

	d.chapter("That was the whole flow. Where to go next:")
	d.say("  go install github.com/astravue/mcp-client-go/cmd/astravue-mcp@latest")
	d.say("                                       have this command at hand")
	d.say("  astravue-mcp login                   sign in to your own Astravue workspace")
	d.say("  astravue-mcp tools                   see what it offers")
	d.say("  astravue-mcp demo --browser          this demo again, but you sign in yourself")
	d.say("  astravue-mcp sandbox                 a local Astravue to try things with")
	d.say("  go doc github.com/astravue/mcp-client-go/mcpclient")
	d.say("                                       embed it in your own program: three lines")
	return nil
}

func (d *demonstration) chapter(title string) {
	d.title = ""
	d.say("\n%s", title)
}

// call calls a tool and prints its result, which it also decodes into into, if not nil.
func (d *demonstration) call(ctx context.Context, session *mcp.ClientSession, tool string, args map[string]any, into any) error {
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return err
	}
	for _, c := range res.Content {
		if c, ok := c.(*mcp.TextContent); ok {
			lines := strings.Split(strings.TrimSpace(c.Text), "\n")
			if len(lines) > 4 {
				lines = append(lines[:4], "…")
			}
			d.out.body("     ", strings.Join(lines, "\n"))
		}
	}
	if res.IsError {
		return errTool
	}
	if into == nil {
		return nil
	}
	data, err := json.Marshal(res.StructuredContent)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// stepTitles say what each step is for.
var stepTitles = map[mcpclient.Step]string{
	mcpclient.StepDiscovery:    "where do people sign in for this server?",
	mcpclient.StepPKCE:         "a secret that only this program knows, and its hash",
	mcpclient.StepRegistration: "become a client of that server",
	mcpclient.StepAuthorize:    "send the user to the sign-in page",
	mcpclient.StepCallback:     "the browser comes back, to a port that is open for this sign-in only",
	mcpclient.StepExchange:     "exchange the code for tokens, and store them",
	mcpclient.StepConnect:      "send the token with every request",
	mcpclient.StepRefresh:      "exchange the refresh token for new tokens; it can be used only once",
}

// exchange prints one exchange as it happens.
func (d *demonstration) exchange(e *exchange) {
	if e.Title != d.title {
		d.title = e.Title
		d.say("\n%d. %s: %s", e.Step, e.Package, e.Title)
	}
	d.say("   → %s %s", e.Method, e.URL)
	d.members(e.Sent)
	if e.Status != 0 {
		d.say("   ← %d", e.Status)
	}
	d.members(e.Received)
}

func (d *demonstration) members(m map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if d.brief && name != "method" && name != "name" {
			continue
		}
		d.say("       %s: %v", name, m[name])
	}
}
