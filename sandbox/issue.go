package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/astravue/mcp-client-go/sandbox/internal/workspace"
)

// Tokens is a token set of [Server.Issue]. Printing it shows no secret.
type Tokens struct {
	ClientID         string
	TokenEndpoint    string
	Scope            string
	Resource         string // "" if none was asked for
	AccessToken      string
	ExpiresIn        time.Duration
	RefreshToken     string
	RefreshExpiresIn time.Duration // 0: never, as Keycloak states it
	IDToken          string        // with scope openid
}

// Format keeps tokens out of logs.
func (t Tokens) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "sandbox.Tokens{ClientID:%q Scope:%q Resource:%q}", t.ClientID, t.Scope, t.Resource)
}

// IssueOptions say which tokens [Server.Issue] makes.
type IssueOptions struct {
	ClientID   string   // if empty, PublicClient
	Scopes     []string // if nil, openid profile email
	Resource   string   // if empty, the MCP endpoint's
	NoResource bool     // a grant without resource, as for the Public API
}

// Issue gives a user the tokens of a whole sign-in, without a browser, for tests of
// later steps. If the user does not exist it makes one, a member, so that a test can
// have ten thousand. A client that does not exist is [ErrUnknown].
func (s *Server) Issue(user string, o IssueOptions) (Tokens, error) {
	if o.Scopes == nil {
		o.Scopes = []string{"openid", "profile", "email"}
	}
	if unknown := s.unknownScopes(o.Scopes); len(unknown) > 0 {
		return Tokens{}, fmt.Errorf("sandbox: unknown scopes %q", unknown)
	}
	o.Resource = cmp.Or(o.Resource, s.resource)
	if o.NoResource {
		o.Resource = ""
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cli
	if o.ClientID != "" {
		if c = s.clients[o.ClientID]; c == nil {
			return Tokens{}, ErrUnknown
		}
	}
	u := s.member(user)
	g := &grant{sid: uuid(), session: uuid(), user: u, client: c, scopes: o.Scopes, resource: o.Resource,
		offline: slices.Contains(o.Scopes, "offline_access"), authTime: now}
	s.grants.put(g.sid, g)
	a := s.answer(g, g.scopes, now)
	return Tokens{ClientID: c.id, TokenEndpoint: s.realm + oidcPath + "/token", Scope: a.Scope, Resource: g.resource,
		AccessToken: a.AccessToken, ExpiresIn: time.Duration(a.ExpiresIn) * time.Second,
		RefreshToken: a.RefreshToken, RefreshExpiresIn: time.Duration(*a.RefreshExpiresIn) * time.Second, IDToken: a.IDToken}, nil
}

// member returns the user of a name, and makes one if there is none. s.mu is held.
func (s *Server) member(name string) *person {
	u := s.users[name]
	if u == nil {
		u = &person{User: workspace.User{ID: name, Name: name, Email: name + "@brightwater.example", Role: workspace.Member},
			password: name + "-sandbox"}
		s.users[name] = u
	}
	return u
}
