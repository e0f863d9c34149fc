package mcpclient_test

import (
	"context"
	"fmt"
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

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar} // the sandbox's pages approve by themselves
	client := &mcpclient.Client{
		Name: "Acme Notes",
		// Without these three: Astravue, the OS keychain, the system's browser.
		Server: srv.URL(),
		Store:  &tokenstore.Memory{},
		OpenBrowser: func(_ context.Context, url string) error {
			_, err := browser.Get(url)
			return err
		},
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

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar} // the sandbox's pages approve by themselves
	client := &mcpclient.Client{
		Server: srv.URL(),
		Store:  &tokenstore.Memory{},
		OpenBrowser: func(_ context.Context, url string) error {
			_, err := browser.Get(url)
			return err
		},
	}
	defer client.Close()
	// The first request is answered 401, and so the client signs in. From then on it refreshes.
	resp, err := client.HTTPClient().Get(srv.APIURL() + "/api/v1/projects")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// 200 OK
}

// In this program only Login opens a browser. Without a session a call fails with
// ErrLoginRequired.
func ExampleClient_Login() {
	ctx := context.Background()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar} // the sandbox's pages approve by themselves
	client := &mcpclient.Client{
		NonInteractive: true,
		Server:         srv.URL(),
		Store:          &tokenstore.Memory{},
		OpenBrowser: func(_ context.Context, url string) error {
			_, err := browser.Get(url)
			return err
		},
	}
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

// A web application sends its user's browser to the authorization server. The browser comes back
// with the callback, which another process of the application may serve.
func ExampleClient_BeginLogin() {
	ctx := context.Background()
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	key := make([]byte, 32) // a secret of the application, which all its processes have
	store := &tokenstore.Memory{}
	user := func(id string) *mcpclient.Client {
		return &mcpclient.Client{
			Name: "Acme Notes", Account: id, NonInteractive: true, Server: srv.URL(), Store: store,
			Registration: mcpclient.Registration{RedirectURL: "http://localhost:8080/callback"},
		}
	}

	// POST /login. With a GET any web page could begin a sign-in.
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

	// The user's browser follows redirects there and back. The sandbox's pages approve by
	// themselves.
	browser := &http.Client{CheckRedirect: func(next *http.Request, _ []*http.Request) error {
		if next.URL.Path == "/callback" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := browser.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	callbackURL := resp.Header.Get("Location")

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
