package sandbox

import (
	"errors"
	"maps"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// An Account is somebody who can sign in.
type Account struct {
	User     string // the name to sign in with
	Password string
	Name     string
	Email    string
	Role     string // owner, admin or member
}

// Accounts returns the people of the sandbox's workspace, owner first. Their
// passwords are for show.
func (s *Server) Accounts() []Account {
	var out []Account
	for _, u := range workspace.Users() {
		out = append(out, Account{User: u.ID, Password: u.ID + "-sandbox", Name: u.Name, Email: u.Email, Role: string(u.Role)})
	}
	return out
}

// ErrUnknown means that the sandbox has no such user or client.
var ErrUnknown = errors.New("sandbox: no such user or client")

// ExpireAccess makes the API host refuse every access token that the user has now,
// as if it had expired. Refresh tokens stay good.
func (s *Server) ExpireAccess(user string) error {
	return s.withUser(user, func(u *person) { u.minSeq = s.seq + 1 })
}

// EndSession ends the user's sessions, as a sign-out elsewhere or an administrator
// does. The browser is signed out, and refresh tokens, except offline ones, are
// refused with "Session not active". Access tokens stay good until they expire,
// unless CheckSession is set.
func (s *Server) EndSession(user string) error {
	return s.withUser(user, func(u *person) {
		for _, g := range s.grants.m {
			if g.user == u && !g.offline {
				g.end(deadSession)
			}
		}
		s.forgetBrowsers(u)
	})
}

// RevokeUser takes away everything that the user was given: access tokens, refresh
// tokens, offline ones included, consents, and the browser's session. The user can
// sign in again.
func (s *Server) RevokeUser(user string) error {
	return s.withUser(user, func(u *person) {
		u.minSeq = s.seq + 1
		for _, g := range s.grants.m {
			if g.user == u {
				g.end(deadStale)
			}
		}
		for _, c := range s.allClients() {
			delete(c.consents, u.ID)
		}
		s.forgetBrowsers(u)
	})
}

// DisableUser makes the sandbox refuse the user everywhere: at sign-in, at refresh,
// and with every access token.
func (s *Server) DisableUser(user string) error {
	return s.withUser(user, func(u *person) {
		u.disabled = true
		s.forgetBrowsers(u)
	})
}

func (s *Server) withUser(name string, do func(*person)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	if u == nil {
		return ErrUnknown
	}
	do(u)
	return nil
}

// DeleteClient deletes a client and all its grants, as an administrator does or as
// the end of a registration's life does.
func (s *Server) DeleteClient(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return ErrUnknown
	}
	s.deleteClient(c)
	return nil
}

// EndMCPSessions forgets every session of the MCP endpoint, as its restart does.
// Streams end, and a request with an old session ID is answered 404.
func (s *Server) EndMCPSessions() {
	if old := s.mcp.Swap(s.newMCP()); old != nil {
		old.end()
	}
}

// Counts are numbers of things that a sandbox holds, and of its requests.
type Counts struct {
	Users    int
	Clients  int // registered dynamically
	Browsers int // signed in
	Grants   int // with a good refresh token
	Requests map[Step]int
}

// Counts counts what the sandbox holds, and the requests of each step since the
// start or the last ClearRequests.
func (s *Server) Counts() Counts {
	now := s.now()
	s.mu.Lock()
	c := Counts{Users: len(s.users), Clients: s.registered()}
	for _, b := range s.browsers.m {
		if now.Before(b.expires) {
			c.Browsers++
		}
	}
	for _, g := range s.grants.m {
		if g.dead == "" && (g.expires.IsZero() || now.Before(g.expires)) {
			c.Grants++
		}
	}
	s.mu.Unlock()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	c.Requests = maps.Clone(s.log.counts)
	return c
}
