package authcode

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

// ClientAuth says which client asks and how it proves that. An empty Method is
// "none", for a public client. No other method is tried: a failed try would spend
// the code.
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
	Code        Secret     // REQUIRED: from [Check.Code]
	RedirectURI string     // REQUIRED: exactly that of the authorization request
	Verifier    Secret     // REQUIRED: that of the challenge (RFC 7636 §4.5)
	Resource    string     // exactly that of the authorization request; empty: not sent

	// HTTPClient sends the request. If nil, a hardened one does: TLS 1.2 or newer,
	// 30 seconds, public and loopback addresses only.
	HTTPClient *http.Client
}

// Token sends the exchange, at most once: it follows no redirect and repeats
// nothing (internal/oauthhttp.RequestToken, which package refresh uses too). Errors
// are a [*TokenError]; only an Exchange without code or verifier is another error,
// and nothing is sent.
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
