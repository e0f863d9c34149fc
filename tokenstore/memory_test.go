package tokenstore_test

import (
	"testing"

	"github.com/astravue/mcp-client-go/tokenstore"
	"github.com/astravue/mcp-client-go/tokenstore/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(testing.TB) tokenstore.Store { return new(tokenstore.Memory) })
}
