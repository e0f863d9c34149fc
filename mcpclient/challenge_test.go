package mcpclient

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/secret"
	"github.com/astravue/mcp-client-go/refresh"
)

// However a server writes the token down that it was sent, no error shows it.
func TestATokenInAChallengeIsHidden(t *testing.T) {
	const token = "the-access-token"
	for _, line := range []string{
		`Bearer error="the-access-token", error_description="the-access-token", scope="the-access-token", resource_metadata="https://h/the-access-token"`,
		`Bearer error="the\-access\-token", error_description="t\he-access-token"`,
		`Bearer error=the-access-token`,
	} {
		resp := &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"Www-Authenticate": {line}}}
		c := challengeOf(resp, &refresh.Access{Token: secret.New(token)})
		if s := fmt.Sprintf("%+v %v", c, forbiddenBy(c)); c.Scheme == "" || strings.Contains(s, token) {
			t.Errorf("%s: %s", line, s)
		}
	}
}
