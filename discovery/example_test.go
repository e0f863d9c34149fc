package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/astravue/mcp-client-go/discovery"
)

func ExampleDiscover() {
	hc, _, stop := good.start() // in real life: nil
	defer stop()

	c, err := discovery.Discover(context.Background(), discovery.Request{
		Server:     "https://api.example.com/mcp",
		HTTPClient: hc,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Issuer)
	fmt.Println(c.AuthorizationServer.TokenEndpoint)
	fmt.Println(c.Resource, c.Scopes)
	// Output:
	// https://auth.example.com/realms/x
	// https://auth.example.com/realms/x/token
	// https://api.example.com/mcp [read write]
}

func ExampleNotFoundError() {
	hc, _, stop := pages{path: page(200, "text/html", "<p>Welcome!")}.start()
	defer stop()

	_, err := discovery.Discover(context.Background(), discovery.Request{
		Server:     "https://api.example.com/mcp",
		HTTPClient: hc,
	})
	var e *discovery.NotFoundError
	if errors.As(err, &e) {
		for _, a := range e.Tried {
			fmt.Println(a.URL, "→", a.Err)
		}
	}
	// Output:
	// https://api.example.com/.well-known/oauth-protected-resource/mcp → answer is not JSON but text/html
	// https://api.example.com/.well-known/oauth-protected-resource → answered 404 Not Found
}

func ExampleProbe() {
	hc, _, stop := pages{server: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://api.example.com/meta"`)
		w.WriteHeader(http.StatusUnauthorized)
	}}.start()
	defer stop()

	c, signIn, err := discovery.Probe(context.Background(), hc, "https://api.example.com/mcp")
	fmt.Println(c.ResourceMetadata, signIn, err)
	// Output: https://api.example.com/meta true <nil>
}

func ExampleParseChallenge() {
	c := discovery.ParseChallenge(http.Header{"Www-Authenticate": {
		`Basic realm="old"`,
		`Bearer error="insufficient_scope", scope="files:read files:write"`,
	}})
	fmt.Println(c.Error, c.Scopes())
	// Output: insufficient_scope [files:read files:write]
}
