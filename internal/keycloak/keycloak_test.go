package keycloak

import (
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
	"github.com/astravue/mcp-client-go/mcpclient"
	"github.com/astravue/mcp-client-go/tokenstore"
)

func TestSmoke(t *testing.T) {
	k := testenv.Keycloak(t, "")
	c := &mcpclient.Client{Name: "Acme Notes", Server: k.MCP.URL, Store: &tokenstore.Memory{}, OpenBrowser: newBrowser("olivia").open}
	defer c.Close()
	s, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := c.Status(t.Context())
	t.Logf("%+v %v", st, err)
}
