package sandbox

import (
	"time"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// Server.mu guards person, client, grant and code, except for fields that never
// change.

type person struct {
	workspace.User
	password string
	disabled bool
	minSeq   uint64 // older access tokens are refused
}

// Reasons to refuse a refresh token, in Keycloak's words.
const (
	deadReuse   = "Session doesn't have required client"
	deadSession = "Session not active"
	deadStale   = "Stale token"
)

// A grant is the result of one approval: Keycloak's client session.
type grant struct {
	sid      string // of this grant, in its tokens
	session  string // session_state
	user     *person
	client   *client
	scopes   []string
	resource string // as the authorization request sent it; "" if it did not
	offline  bool
	nonce    string
	authTime time.Time

	refresh      string    // jti of the good refresh token
	expires      time.Time // of the refresh token; zero: never
	dead         string    // why the refresh token is refused; "" while it is good
	accessDenied bool      // access tokens are refused too, since the code was used twice
}

func (g *grant) end(why string) {
	if g.dead == "" {
		g.dead = why
	}
}

type code struct {
	grant     *grant
	redirect  string
	challenge string
	expires   time.Time
	used      bool
}
