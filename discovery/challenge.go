package discovery

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// A Challenge is the Bearer challenge in the WWW-Authenticate header of a 401 or
// 403 (RFC 6750 §3, RFC 9728 §5.1). The zero value means that there was none. Its
// strings are the server's own words, not cut and not made harmless.
type Challenge struct {
	Scheme           string // "Bearer"; "" if there was no such challenge
	ResourceMetadata string // URL of the protected-resource metadata
	Scope            string // separated by spaces
	Error            string // "invalid_token", "insufficient_scope", …
	ErrorDescription string
}

// Scopes returns the scopes of c, nil if it has none.
func (c Challenge) Scopes() []string {
	if c.Scope == "" {
		return nil
	}
	return strings.Fields(c.Scope)
}

// The grammar of RFC 9110 §11, more lenient in one point: a value without quotes may hold
// every character of a URL. Each pattern includes the comma that ends it.
var (
	schemePattern  = regexp.MustCompile("^[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+|(,)|$)")
	token68Pattern = regexp.MustCompile(`^[0-9A-Za-z._~+/-]+=*[ \t]*(?:,|$)`)
	paramPattern   = regexp.MustCompile("^[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*" +
		`(?:"((?:[^"\\]|\\.)*)"|([^ \t",=][^ \t",]*))[ \t]*(?:,|$)`)
	quotedPair = regexp.MustCompile(`\\(.)`)
)

// ParseChallenge returns the first Bearer challenge of the WWW-Authenticate lines
// in h, or the zero Challenge. A malformed challenge is ignored together with the
// rest of its line; the other lines still count.
func ParseChallenge(h http.Header) Challenge {
	for _, line := range h.Values("WWW-Authenticate") {
		if c := parseLine(line); c.Scheme != "" {
			return c
		}
	}
	return Challenge{}
}

// parseLine returns the first Bearer challenge of one line.
func parseLine(line string) Challenge {
	for line != "" {
		m := schemePattern.FindStringSubmatch(line)
		if m == nil {
			break
		}
		line = line[len(m[0]):]
		params := map[string]string{}
		if m[2] == "" { // no comma: parameters may follow
			var ok bool
			if line, ok = parseParams(line, params); !ok {
				break
			}
		}
		if strings.EqualFold(m[1], "Bearer") {
			return Challenge{
				Scheme:           "Bearer",
				ResourceMetadata: params["resource_metadata"],
				Scope:            params["scope"],
				Error:            params["error"],
				ErrorDescription: params["error_description"],
			}
		}
	}
	return Challenge{}
}

// parseParams reads the parameters of a challenge into params, or skips its token68. It returns the
// rest of the line, and false if the challenge is malformed.
func parseParams(line string, params map[string]string) (rest string, ok bool) {
	for line != "" {
		m := paramPattern.FindStringSubmatch(line)
		if m == nil {
			break
		}
		line = line[len(m[0]):]
		name, value := strings.ToLower(m[1]), m[3]
		if value == "" {
			value = quotedPair.ReplaceAllString(m[2], "$1")
		}
		if _, twice := params[name]; twice {
			return line, false
		}
		params[name] = value
	}
	if line == "" || line[0] == ',' || len(params) > 0 {
		return line, true
	}
	// Without parameters the challenge has one token68, or is malformed.
	m := token68Pattern.FindString(line)
	return line[len(m):], m != ""
}

const probeTimeout = 30 * time.Second

// Probe finds out whether server wants a sign-in. It posts a JSON-RPC ping without
// a token: a 401 means yes, and c is its challenge; any other answer means no. A
// redirect to another origin is an error, and so is no answer within 30 seconds.
// If hc is nil, a hardened client is used. Safe for concurrent use.
func Probe(ctx context.Context, hc *http.Client, server string) (c Challenge, needsSignIn bool, err error) {
	u, err := oauthhttp.CheckURL(server, server)
	if err != nil {
		return Challenge{}, false, fmt.Errorf("discovery: server: %w", err)
	}
	if hc == nil {
		hc = oauthhttp.NewClient(server)
	}
	guarded := *hc
	guarded.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		if oauthhttp.Origin(to.URL) != oauthhttp.Origin(u) || len(via) > 3 {
			return fmt.Errorf("%w: too many, or to another origin", oauthhttp.ErrRedirect)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server,
		strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if err != nil {
		return Challenge{}, false, fmt.Errorf("discovery: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := guarded.Do(req)
	if err != nil {
		return Challenge{}, false, fmt.Errorf("discovery: probe %s: %w", text.URL(server), oauthhttp.WithoutURL(err))
	}
	if resp.StatusCode != http.StatusUnauthorized {
		_ = resp.Body.Close() // it may be a stream
		return Challenge{}, false, nil
	}
	oauthhttp.Drain(resp)
	return ParseChallenge(resp.Header), true, nil
}
