package mcpclient_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/sandbox"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func ExampleClient_Connect() {
	ctx := context.Background()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true}) // a local Astravue
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	client := &mcpclient.Client{
		Name: "Acme Notes",
		// Without these three: Astravue, the OS keychain, the system's browser.
		Server: srv.URL(), Store: &tokenstore.Memory{}, OpenBrowser: openPages,
	}
	defer client.Close()
	session, err := client.Connect(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_spaces", Arguments: map[string]any{}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the tool failed:", res.IsError)
	// Output:
	// the tool failed: false
}

func ExampleClient_HTTPClient() {
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	client := &mcpclient.Client{Server: srv.URL(), Store: &tokenstore.Memory{}, OpenBrowser: openPages}
	defer client.Close()
	// It signs in at the first 401, and refreshes from then on.
	resp, err := client.HTTPClient().Get(srv.APIURL() + "/api/v1/projects")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// 200 OK
}

// A program in which a person says when to sign in, and a call never does.
func ExampleClient_Login() {
	ctx := context.Background()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	client := &mcpclient.Client{NonInteractive: true, Server: srv.URL(), Store: &tokenstore.Memory{}, OpenBrowser: openPages}
	defer client.Close()
	if err := client.Login(ctx, nil); err != nil {
		log.Fatal(err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("signed in:", status.SignedIn, status.ScopesGranted)

	out, err := client.Logout(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("tokens:", out.Revocation)
	// Output:
	// signed in: true [openid profile email]
	// tokens: revoked
}

// A web application sends its user's browser away and is told of the callback
// by another request, perhaps in another process.
func ExampleClient_BeginLogin() {
	ctx := context.Background()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	key := make([]byte, 32) // of the application's secrets
	store := &tokenstore.Memory{}
	user := func(id string) *mcpclient.Client {
		return &mcpclient.Client{
			Name: "Acme Notes", Account: id, NonInteractive: true, Server: srv.URL(), Store: store,
			Registration: mcpclient.Registration{RedirectURL: "http://localhost:8080/callback"},
		}
	}

	// POST /login: with a GET, any page could begin a sign-in
	client := user("u-17")
	defer client.Close()
	url, pending, err := client.BeginLogin(ctx)
	if err != nil {
		log.Fatal(err)
	}
	cookie, err := pending.Seal(key)
	if err != nil {
		log.Fatal(err)
	}

	callbackURL := lastRedirect(url) // the user's browser, on its way

	// GET /callback
	client = user("u-17")
	defer client.Close()
	if pending, err = client.OpenPendingLogin(key, cookie); err != nil {
		log.Fatal(err)
	}
	if err := client.FinishLogin(ctx, pending, callbackURL); err != nil {
		log.Fatal(err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Account, "is signed in:", status.SignedIn)
	// Output:
	// u-17 is signed in: true
}

// openPages is browser enough for pages that approve by themselves.
func openPages(_ context.Context, url string) error {
	jar, _ := cookiejar.New(nil)
	resp, err := (&http.Client{Jar: jar}).Get(url)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close()
}

// lastRedirect returns where pages that approve by themselves send a browser.
func lastRedirect(url string) string {
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		url = req.URL.String()
		if req.URL.Path == "/callback" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	_ = resp.Body.Close()
	return url
}
