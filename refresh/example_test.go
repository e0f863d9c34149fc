package refresh_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"golang.org/x/oauth2"

	"github.com/astravue/mcp-client-go/refresh"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func Example() {
	authServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the token endpoint is asked for", r.PostFormValue("grant_type"))
		fmt.Fprint(w, `{"access_token": "new", "token_type": "Bearer", "expires_in": 1800, "refresh_token": "rotated"}`)
	}))
	defer authServer.Close()

	// What a sign-in has left, some time ago.
	ctx, store, key := context.Background(), new(tokenstore.Memory), tokenstore.GrantKey("https://api.example/mcp", "")
	err := store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			TokenEndpoint: authServer.URL, ClientID: "client",
			AccessToken: tokenstore.NewSecret("old"), RefreshToken: tokenstore.NewSecret("spendable"),
			ObtainedAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(-time.Minute),
		}})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	source := refresh.New(refresh.Config{Store: store, Key: key})
	defer source.Close()
	for range 3 {
		access, err := source.Access(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("send", access.Token.Reveal())
	}
	// Output:
	// the token endpoint is asked for refresh_token
	// send new
	// send new
	// send new
}

func ExampleSource_OAuth2() {
	ctx := context.Background()
	source := refresh.New(refresh.Config{Store: new(tokenstore.Memory), Key: tokenstore.GrantKey("https://api.example/mcp", "")})
	defer source.Close()

	client := oauth2.NewClient(ctx, source.OAuth2(ctx))
	_, err := client.Get("https://api.example/tasks")
	fmt.Println(err)
	// Output:
	// Get "https://api.example/tasks": refresh: sign-in required: tokenstore: no such record
}
