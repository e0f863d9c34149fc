package mcpclient

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
)

// agent sets the User-Agent of every request, as Astravue asks for.
type agent struct {
	base http.RoundTripper
	name string
}

func (a *agent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", a.name)
	return a.base.RoundTrip(req)
}

// Intranet reports whether the server is in a private network, if the transport
// below knows. [oauthhttp.CheckNamed] looks for the method, and sees only an agent.
func (a *agent) Intranet(ctx context.Context) bool {
	t, ok := a.base.(interface{ Intranet(context.Context) bool })
	return ok && t.Intranet(ctx)
}

// CloseIdleConnections passes on the call of [http.Client.CloseIdleConnections],
// which looks for the method.
func (a *agent) CloseIdleConnections() {
	if c, ok := a.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// failing is the transport of a client that cannot be used.
type failing struct{ err error }

func (f failing) RoundTrip(req *http.Request) (*http.Response, error) {
	closeBody(req)
	return nil, f.err
}

// userAgent returns what the User-Agent is for a name and a version.
func userAgent(name, version string) string {
	agent := product(name)
	if agent == "" {
		agent = defaultName
	}
	if v := product(version); v != "" {
		agent += "/" + v
	}
	return agent
}

// product makes a token of a User-Agent (RFC 9110 §10.1.5) from a name. It may
// return "", since it drops what a token may not have.
func product(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r > 0x20 && r < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r):
			return r
		case r == ' ':
			return '-'
		}
		return -1
	}, s)
}

// mainVersion returns the version of the running program, if it is known.
func mainVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return ""
}
