package authcode

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// ClientAuth says which client asks and how that is proved; its zero Method is
// "none", a public client. The method is stated, never probed: a probe would
// spend the code.
type ClientAuth = oauthhttp.ClientAuth

// Token is a token endpoint's answer (RFC 6749 §5.1).
type Token = oauthhttp.Token

// TokenError is a failed exchange; its Outcome says whether the code may have
// been spent.
type TokenError = oauthhttp.TokenError

// An Exchange is a token request for an authorization code (RFC 6749 §4.1.3).
type Exchange struct {
	Endpoint    string     // REQUIRED: token_endpoint of the metadata
	Client      ClientAuth // the client of the authorization request
	Code        Secret     // REQUIRED: of [Check.Code]
	RedirectURI string     // REQUIRED: byte for byte that of the authorization request
	Verifier    Secret     // REQUIRED: of the challenge sent (RFC 7636 §4.5)
	Resource    string     // byte for byte that of the authorization request; empty: not sent

	// HTTPClient sends the request. Nil means a hardened one: TLS 1.2, 30
	// seconds, no private address.
	HTTPClient *http.Client
}

// Token sends the exchange, once: no redirect is followed and nothing is sent
// again (internal/oauthhttp.RequestToken, which refresh uses too). Errors are
// a [*TokenError], except that an Exchange without code or verifier is refused
// before anything is sent.
func (e Exchange) Token(ctx context.Context) (*Token, error) {
	if e.Code.IsZero() || e.Verifier.IsZero() {
		return nil, errors.New("authcode: an exchange needs a code and a verifier")
	}
	form := url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {e.Code.Reveal()},
		"redirect_uri":  {e.RedirectURI},
		"code_verifier": {e.Verifier.Reveal()},
	}
	if e.Resource != "" {
		form.Set("resource", e.Resource)
	}
	return oauthhttp.RequestToken(ctx, e.HTTPClient, e.Endpoint, form, e.Client)
}
