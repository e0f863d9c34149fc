package sandbox

import (
	"time"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// person, client, grant and code are guarded by Server.mu, except for what
// never changes after they were made.

type person struct {
	workspace.User
	password string
	disabled bool
	minSeq   uint64 // older access tokens are refused
}

// Why a refresh token is refused: Keycloak's texts.
const (
	deadReuse   = "Session doesn't have required client"
	deadSession = "Session not active"
	deadStale   = "Stale token"
)

// A grant is what one approval gave: Keycloak's client session.
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

	refresh      string    // jti of the refresh token that is good
	expires      time.Time // of that; zero: never
	dead         string    // why it is refused; "" while it is not
	accessDenied bool      // access tokens are refused too: a code was used twice
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
