package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/astravue/mcp-client-go/tokenstore"
)

func ExampleMemory() {
	ctx := context.Background()
	store := new(tokenstore.Memory)
	key := tokenstore.GrantKey("https://mcp.example.com", "work")

	err := store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{
			Issuer:      "https://auth.example.com",
			AccessToken: tokenstore.NewSecret("an access token"),
		}})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	record, err := store.Get(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.Grant.Issuer, record.Grant.AccessToken)

	_, err = store.Get(ctx, tokenstore.GrantKey("https://mcp.example.com", "home"))
	fmt.Println(errors.Is(err, tokenstore.ErrNotFound))
	// Output:
	// https://auth.example.com [redacted]
	// true
}

func ExampleFile() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store := &tokenstore.File{
		Dir: dir,
		// As age-keygen makes them; a machine has IdentityFile mounted.
		Identity: tokenstore.NewSecret("AGE-SECRET-KEY-1LE4Z4URKQGZ2MSKZV8QU7JMLAC7R4FQ3GMCZTSZWEXVYFNTSPGDSGDSD3Q"),
	}
	key := tokenstore.GrantKey("https://mcp.example.com", "")

	err = store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{ClientID: "app"}})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// Another process opens the same folder.
	record, err := (&tokenstore.File{Dir: dir, Identity: store.Identity}).Get(ctx, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.Grant.ClientID)
	// Output: app
}

func ExampleKeychain() {
	store := &tokenstore.Keychain{Service: "acme-notes"}

	_, err := store.Get(context.Background(), tokenstore.GrantKey("https://mcp.example.com", ""))
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		fmt.Println("nobody has signed in")
	case errors.Is(err, tokenstore.ErrUnavailable):
		fmt.Println("no keychain here:", err)
	}
}

// A refresh spends a token that must be spent once: it reads again under the
// lock, and leaves a mark while the answer is under way.
func ExampleStore_update() {
	ctx := context.Background()
	var store tokenstore.Store = new(tokenstore.Memory)
	key := tokenstore.GrantKey("https://mcp.example.com", "")

	err := store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		record, err := l.Get(ctx)
		if err != nil {
			return err // a logout came first
		}
		if err := l.SetMark(ctx, tokenstore.Mark{Pending: true, Generation: record.Generation}); err != nil {
			return err
		}
		record.Grant.AccessToken = tokenstore.NewSecret("from the token endpoint")
		if _, err := l.Save(ctx, record); err != nil {
			return err
		}
		return l.SetMark(ctx, tokenstore.Mark{})
	})
	fmt.Println(err)
	// Output: tokenstore: no such record
}
