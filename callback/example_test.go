package callback_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/url"

	"github.com/astravue/mcp-client-go/callback"
)

func Example() {
	ctx := context.Background()
	l, err := callback.Listen(ctx, callback.Config{Name: "Acme Notes", Server: "Astravue"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	// The browser, sent back by the authorization server.
	go func() {
		res, err := http.Get(l.RedirectURI() + "?state=8Tg0&code=SplxlOBeZQQYbYS6WxSbIA")
		if err == nil {
			res.Body.Close()
		}
	}()

	err = l.Wait(ctx, func(ctx context.Context, v url.Values) error {
		if v.Get("state") != "8Tg0" { // authcode.Check does this, and more
			return callback.ErrIgnored
		}
		fmt.Println("exchange", v.Get("code"))
		return nil
	}, nil)
	fmt.Println("signed in:", err == nil)
	// Output:
	// exchange SplxlOBeZQQYbYS6WxSbIA
	// signed in: true
}
