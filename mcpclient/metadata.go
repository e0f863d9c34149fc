package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/astravue/mcp-client-go/discovery"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// astravueRealm is the issuer of Astravue's documented endpoints. Their metadata is
// published on the host of [DefaultServer], and may state that host or this realm
// as the issuer.
const astravueRealm = "https://auth.astravue.com/realms/astravue"

// astravueScopes are asked for where neither challenge nor metadata name any.
var astravueScopes = []string{"openid", "profile", "email"}

// ErrNoSignIn says that the server asks for no sign-in, and publishes no
// metadata that a sign-in could be made with.
var ErrNoSignIn = errors.New("the server asks for no sign-in")

// probe asks the server whether it wants a sign-in, and for its challenge.
func (s *settings) probe(ctx context.Context) (c discovery.Challenge, needed bool, err error) {
	start := time.Now()
	c, needed, err = discovery.Probe(ctx, s.oauth, s.serverURL)
	s.audit(ctx, StepDiscovery, "probe", "", start, err)
	return c, needed, at(StepDiscovery, err)
}

// prepare begins step 1 for a sign-in that somebody asked for. If the server wants
// a sign-in for a ping, it returns the challenge alone: the sign-in fetches the
// configuration, unless it can take what another process has got meanwhile.
// Otherwise it fetches the configuration at once, to find out whether there is a
// sign-in at all. The server may want one for more than a ping.
func (s *settings) prepare(ctx context.Context) (discovery.Challenge, *discovery.Configuration, error) {
	c, needed, err := s.probe(ctx)
	if err != nil || needed {
		return c, nil, err
	}
	cfg, err := s.discover(ctx, c)
	if missing := new(discovery.NotFoundError); errors.As(err, &missing) && missing.What == discovery.ResourceMetadata && absent(missing) {
		err = at(StepDiscovery, fmt.Errorf("%w: %w", ErrNoSignIn, missing))
	}
	return c, cfg, err
}

// absent reports whether the server has said, at every address that was tried, that
// there is no such document. A server that is out of order or overloaded has not
// said so: ErrNoSignIn would be final, and the next try may find the document.
func absent(missing *discovery.NotFoundError) bool {
	for _, a := range missing.Tried {
		var se *oauthhttp.StatusError
		switch {
		case errors.As(a.Err, &se) && se.Status < 500 && se.Status != http.StatusTooManyRequests:
		case errors.Is(a.Err, oauthhttp.ErrNotJSON): // a web page that is there for every address
		default:
			return false
		}
	}
	return true
}

// discover takes step 1.
func (s *settings) discover(ctx context.Context, c discovery.Challenge) (*discovery.Configuration, error) {
	return s.discoverAt(ctx, c, s.issuer)
}

// discoverAt takes step 1 with an issuer that is pinned, unless it is "".
func (s *settings) discoverAt(ctx context.Context, c discovery.Challenge, issuer string) (*discovery.Configuration, error) {
	r := discovery.Request{
		Server:     s.serverURL,
		Challenge:  c,
		Issuer:     issuer,
		NoResource: s.resource == NoResource,
		HTTPClient: s.oauth,
	}
	// Astravue's documentation holds for its own server alone.
	if s.defaultServer {
		r.DefaultScopes = astravueScopes
		r.MayState = astravueRealm
	}
	start := time.Now()
	cfg, err := discovery.Discover(ctx, r)
	s.audit(ctx, StepDiscovery, "discover", "", start, err)
	if err != nil {
		return nil, at(StepDiscovery, err)
	}
	switch {
	case s.resource == NoResource:
	case s.resource != "":
		cfg.Resource = s.resource
	case s.defaultServer:
		cfg.Resource = DefaultServer // as documented, even if its metadata names the origin
	}
	return cfg, nil
}
