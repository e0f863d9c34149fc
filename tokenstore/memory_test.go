package tokenstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

func TestMemory(t *testing.T) {
	t.Parallel() // it waits for locks
	storetest.Run(t, func(testing.TB) tokenstore.Store { return new(tokenstore.Memory) })
}

func TestMemoryPrintsNoRecord(t *testing.T) {
	m := &tokenstore.Memory{}
	err := m.Update(t.Context(), "k", func(ctx context.Context, l *tokenstore.Locked) error {
		_, err := l.Save(ctx, tokenstore.Record{Grant: &tokenstore.Grant{AccessToken: tokenstore.NewSecret("hunter2")}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	hex := fmt.Sprintf("%x", "hunter2")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if out := fmt.Sprintf(format, m); strings.Contains(out, "hunter2") || strings.Contains(out, hex) || strings.Contains(out, strings.Trim(fmt.Sprint([]byte("hunter2")), "[]")) {
			t.Errorf("%s shows the token", format)
		}
	}
}
