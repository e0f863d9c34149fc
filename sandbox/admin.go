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

// ErrUnknown is returned for a user or client that the sandbox does not have.
var ErrUnknown = errors.New("sandbox: no such user or client")

// ExpireAccess has the API host refuse every access token that the user holds,
// as if it had expired, or a key had been changed. Refresh tokens live on.
func (s *Server) ExpireAccess(user string) error {
	return s.withUser(user, func(u *person) { u.minSeq = s.seq + 1 })
}

// EndSession ends the user's sessions, as a sign-out elsewhere or an
// administrator does: the browser is signed out, refresh tokens are refused
// with "Session not active", except offline ones. Access tokens live on until
// they expire, unless CheckSession is set.
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

// RevokeUser takes everything away that the user was given: access tokens,
// refresh tokens (offline ones too), consents, the browser's session. A new
// sign-in is welcome.
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

// DisableUser has the user refused everywhere: at sign-in, refresh and use.
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

// DeleteClient forgets a client and all that it was granted, as an
// administrator does, or a registration that ran out.
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

// EndMCPSessions forgets every session of the MCP endpoint, as a restart of it
// does: streams end, and what carries an old session ID is answered 404.
func (s *Server) EndMCPSessions() {
	if old := s.mcp.Swap(s.newMCP()); old != nil {
		old.end()
	}
}

// Counts is what a sandbox holds and was asked.
type Counts struct {
	Users    int
	Clients  int // registered dynamically
	Browsers int // signed in
	Grants   int // whose refresh token is good
	Requests map[Step]int
}

// Counts returns what the sandbox holds, and how many requests each step got
// since the start or the last ClearRequests.
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
