package sandbox_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"time"

	"github.com/astravue/mcp-client-go/sandbox"
)

func ExampleStart() {
	srv, err := sandbox.Start(sandbox.Options{AutoApprove: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	resp, err := http.Post(srv.URL(), "application/json", nil) // what a client does first
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	fmt.Println(resp.Status)
	for _, r := range srv.Requests() {
		fmt.Println(r.Step, r.Method, r.Path, r.Status)
	}
	// Output:
	// 401 Unauthorized
	// challenge POST /mcp 401
}

func ExampleServer_Issue() {
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	tokens, err := srv.Issue("mia", sandbox.IssueOptions{})
	if err != nil {
		log.Fatal(err)
	}

	get := func() string {
		req, _ := http.NewRequest(http.MethodGet, srv.APIURL()+"/api/v1/projects", nil)
		req.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		return resp.Status
	}
	fmt.Println(get())
	srv.Advance(30 * time.Minute)
	fmt.Println(get())
	// Output:
	// 200 OK
	// 401 Unauthorized
}

// The server rotates a refresh token and its answer is lost.
func ExampleServer_Fail() {
	srv, err := sandbox.Start(sandbox.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	tokens, err := srv.Issue("mia", sandbox.IssueOptions{})
	if err != nil {
		log.Fatal(err)
	}
	srv.Fail(sandbox.StepRefresh, sandbox.Fault{CarryOut: true, Drop: true, Times: 1})

	for range 2 {
		resp, err := http.PostForm(tokens.TokenEndpoint, url.Values{"grant_type": {"refresh_token"},
			"refresh_token": {tokens.RefreshToken}, "client_id": {tokens.ClientID}})
		if err != nil {
			fmt.Println("no answer")
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%s %s", resp.Status, b)
	}
	// Output:
	// no answer
	// 400 Bad Request {"error":"invalid_grant","error_description":"Maximum allowed refresh token reuse exceeded"}
}
