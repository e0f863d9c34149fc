package mcpclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"

	"github.com/astravue/mcp-client-go/dcr"
	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// A server names its authorization server itself. A hostile one names that of
// an honest one, to be given a token that is good there. So the servers of each
// origin have a client of their own, whose name says which they are.

const (
	// mostRegistrations is how many clients are registered at an issuer by way
	// of a store within countedFor. A server is one, for all its users, and who
	// is led to hundreds of hostile ones does not fill a realm of Keycloak,
	// which takes 200.
	mostRegistrations = 10
	countedFor        = 24 * time.Hour

	mostName = 64 // characters of a client_name
	leastApp = 16 // of which so many are the application's, if it has them
)

// A RegistrationLimitError says that ten clients were registered at an
// authorization server within a day, by all programs that share the store. More
// are not: a client made by hand ([Registration.ClientID]) needs none.
type RegistrationLimitError struct {
	Issuer string
	Until  time.Time // when registrations go on
}

func (e *RegistrationLimitError) Error() string {
	return fmt.Sprintf("%d clients were registered at %s within a day, and no more will be before %s", mostRegistrations, text.Quote(e.Issuer), e.Until.UTC().Format(time.RFC3339))
}

// registrationKey names the client of the server's origin at an issuer.
func (s *state) registrationKey(issuer, redirect string) tokenstore.Key {
	return tokenstore.RegistrationKey(issuer, s.name, oauthhttp.Origin(s.server), redirect)
}

// counted calls register, unless too many clients were registered at the
// issuer. Every registration counts, also in place of a client that the issuer
// seems to have forgotten: it seems so as well where the server asks for a scope
// that the issuer has no page for. What the issuer refuses does not count, nor
// what never reached it.
func (s *state) counted(ctx context.Context, issuer string, register func(context.Context) error) error {
	key := tokenstore.Key(fmt.Sprintf("%q %q", "registrations", issuer))
	return s.store.Update(ctx, key, func(ctx context.Context, l *tokenstore.Locked) error {
		count, err := l.Mark(ctx)
		if err != nil {
			return err
		}
		now := clock.Now()
		switch age := now.Sub(count.At); {
		case count.Pending, age >= countedFor: // it cannot be read, or is over
			count = tokenstore.Mark{At: now}
		case age < 0: // a clock was set back; that makes the day no longer
			count.At = now
		}
		full := count.Tries >= mostRegistrations
		if !full {
			count.Tries++
		}
		if err := l.SetMark(ctx, count); err != nil {
			return err
		}
		if full {
			return &RegistrationLimitError{issuer, count.At.Add(countedFor)}
		}
		watched, outcome := oauthhttp.Watch(ctx)
		err = register(watched)
		if err != nil && (errors.As(err, new(*dcr.Error)) || outcome(err) == oauthhttp.NotSent) {
			count.Tries--
			_ = l.SetMark(context.WithoutCancel(ctx), count) // if not, one fewer is allowed
		}
		return err
	})
}

// clientName is what the user reads on the page that asks for consent. For every
// server but Astravue's own it ends with the server's host, in the form that
// looks like no other (RFC 5891 §4.4): "astravue-mcp (mcp.example.com)".
func (s *state) clientName() string {
	if strings.HasPrefix(DefaultServer, oauthhttp.Origin(s.server)+"/") {
		return s.name
	}
	const around = len(" ()")
	app := strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Ps, unicode.Pe) {
			return -1 // the host's brackets are the only ones
		}
		return r
	}, s.name)
	app = cmp.Or(text.Line(app), defaultName)
	host := last(displayHost(s.server), mostName-around-min(leastApp, len([]rune(app))))
	if r := []rune(app); len(r) > mostName-around-len(host) {
		app = strings.TrimSpace(string(r[:mostName-around-len(host)-1])) + "…"
	}
	return app + " (" + host + ")"
}

// last cuts an ASCII string at its beginning: who owns a host is at its end.
func last(s string, most int) string {
	const cut = "..."
	if len(s) <= most {
		return s
	}
	return cut + s[len(s)-most+len(cut):]
}

// displayHost returns host and port of u in ASCII, the port only if it is not the
// scheme's own. What no host has is escaped.
func displayHost(u *url.URL) string {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		if host = addr.WithZone("").String(); addr.Is6() {
			host = "[" + host + "]"
		}
	} else {
		ascii, err := idna.Lookup.ToASCII(host) // as net/http does
		if err != nil {
			ascii, err = idna.Punycode.ToASCII(host)
		}
		if err == nil {
			host = ascii
		}
		host = strings.ToLower(host)
		var b strings.Builder
		for i := range len(host) {
			if c := host[i]; c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		host = b.String()
	}
	port := strings.TrimLeft(u.Port(), "0")
	if port == "" || port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		return host
	}
	return host + ":" + port
}
