package tokenstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestDropRegistration(t *testing.T) {
	client := func(id string) *tokenstore.Record {
		return &tokenstore.Record{Registration: &tokenstore.Registration{ClientID: id}}
	}
	for name, test := range map[string]struct {
		stored *tokenstore.Record // nil: nothing
		damage bool
		err    error
		gone   bool
	}{
		"the client":      {stored: client("client-1"), gone: true},
		"a newer client":  {stored: client("client-2")},
		"a grant":         {stored: &tokenstore.Record{Grant: &tokenstore.Grant{ClientID: "client-1"}}},
		"nothing":         {gone: true},
		"a damaged entry": {stored: client("client-1"), damage: true, err: tokenstore.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			store := new(tokenstore.Memory)
			if test.stored != nil {
				if err := store.Update(t.Context(), "key", func(ctx context.Context, l *tokenstore.Locked) error {
					_, err := l.Save(ctx, *test.stored)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if test.damage {
				store.Damage(t, "key")
			}
			if err := tokenstore.DropRegistration(t.Context(), store, "key", "client-1"); !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			if _, err := store.Get(t.Context(), "key"); errors.Is(err, tokenstore.ErrNotFound) != test.gone {
				t.Errorf("afterwards Get returns %v", err)
			}
		})
	}
}
