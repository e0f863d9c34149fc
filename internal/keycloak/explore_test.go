package keycloak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

func TestExplore(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	k := testenv.Keycloak(t, os.Getenv("FEATURE"))
	fmt.Println("READY", k.Origin, k.MCP.URL)
	time.Sleep(40 * time.Minute)
}
