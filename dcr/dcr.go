package dcr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
	"github.com/astravue/mcp-client-go/internal/text"
)

// Metadata is the client metadata to send (RFC 7591 §2). Register always adds
// grant_types, authorization_code and refresh_token, and response_types, code. It
// sends no scope: Keycloak before 26.8 removes the realm's default scopes from a
// client that names any, and with them the audience of its tokens.
type Metadata struct {
	// ClientName is shown on the consent page.
	ClientName string
	// RedirectURIs are the redirect addresses, at least one. A desktop application
	// gives its loopback address twice, without a port (RFC 8252 §7.3) and with
	// the bound one: some servers accept any port, others only a registered one.
	RedirectURIs []string
	// ApplicationType is "native" or "web" (OpenID Connect Registration §2).
	// Empty: native if every redirect address is on loopback or has a scheme
	// other than http and https; else web.
	ApplicationType string
	// AuthMethod is the token_endpoint_auth_method. Empty: "none", for a public
	// client.
	AuthMethod string
	// ClientURI is the application's home page. Empty: not sent.
	ClientURI string
	// InitialAccessToken allows a client to register at a server that does not let
	// everybody do so (RFC 7591 §3). Empty: not sent.
	InitialAccessToken Secret
}

// A Client is a registered client (RFC 7591 §3.2.1).
type Client struct {
	ID     string
	Secret Secret // empty for a public client
	// SecretExpiry is zero if the secret does not expire.
	SecretExpiry time.Time
	// AuthMethod is how the client authenticates: none, client_secret_post or
	// client_secret_basic. Without a secret it is none. With one it is the method
	// that the server states; if it states none, client_secret_post if that was
	// asked for, else client_secret_basic, the default of RFC 7591 §2.
	AuthMethod string
	// RedirectURIs are the addresses that the server registered, which may be
	// fewer than were sent. If the server does not say, they are those sent.
	RedirectURIs []string
	// ManagementURI and ManagementToken are for [Delete] (RFC 7592 §3). They are
	// empty if the server offers none, or if the address has another origin than
	// the registration endpoint.
	ManagementURI   string
	ManagementToken Secret
	// IssuedAt is zero if the server does not say.
	IssuedAt time.Time
}

// wire is the request (RFC 7591 §3.1).
type wire struct {
	ClientName      string   `json:"client_name,omitempty"`
	RedirectURIs    []string `json:"redirect_uris"`
	ApplicationType string   `json:"application_type,omitempty"`
	AuthMethod      string   `json:"token_endpoint_auth_method,omitempty"`
	GrantTypes      []string `json:"grant_types,omitempty"`
	ResponseTypes   []string `json:"response_types,omitempty"`
	ClientURI       string   `json:"client_uri,omitempty"`
}

// Register registers a client at the registration endpoint. It sends one request.
// If the server refuses it with invalid_client_metadata, a second one follows with
// only client_name and redirect_uris. If hc is nil, a hardened client is used: 30 s
// for a request, public and loopback addresses only.
//
// Errors: ErrUnsupported without an endpoint, *Error if the server refuses,
// *RedirectURIError if it registered none of the addresses, and those of the
// network.
func Register(ctx context.Context, hc *http.Client, endpoint string, m Metadata) (*Client, error) {
	if endpoint == "" {
		return nil, ErrUnsupported
	}
	if len(m.RedirectURIs) == 0 {
		return nil, errors.New("dcr: no redirect address to register")
	}
	w := wire{
		ClientName:      m.ClientName,
		RedirectURIs:    m.RedirectURIs,
		ApplicationType: m.ApplicationType,
		AuthMethod:      m.AuthMethod,
		GrantTypes:      []string{"authorization_code", "refresh_token"},
		ResponseTypes:   []string{"code"},
		ClientURI:       m.ClientURI,
	}
	if w.ApplicationType == "" {
		w.ApplicationType = applicationType(m.RedirectURIs)
	}
	if w.AuthMethod == "" {
		w.AuthMethod = oauthhttp.AuthNone
	}
	c, err := register(ctx, hc, endpoint, m.InitialAccessToken, w)
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == InvalidClientMetadata {
		c, err = register(ctx, hc, endpoint, m.InitialAccessToken, wire{ClientName: w.ClientName, RedirectURIs: w.RedirectURIs})
	}
	return c, err
}

func register(ctx context.Context, hc *http.Client, endpoint string, token Secret, w wire) (*Client, error) {
	status, _, body, err := oauthhttp.PostJSON(ctx, hc, endpoint, token.Reveal(), w)
	if status != 0 && status != http.StatusOK && status != http.StatusCreated {
		return nil, readError(status, body, token)
	}
	if err != nil {
		return nil, fmt.Errorf("dcr: register client: %w", err)
	}
	c, err := parseClient(body, endpoint, w, token)
	if err != nil {
		return nil, fmt.Errorf("dcr: read registered client: %w", err)
	}
	if !slices.ContainsFunc(c.RedirectURIs, func(uri string) bool { return slices.Contains(w.RedirectURIs, uri) }) {
		if c.ManagementURI != "" {
			_ = Delete(ctx, hc, c) // it is useless, and counts against the server's limit
		}
		return nil, &RedirectURIError{Sent: w.RedirectURIs, Registered: c.RedirectURIs}
	}
	return c, nil
}

// Delete deletes the registration of c (RFC 7592 §2.3). It uses only its
// ManagementURI and ManagementToken. Errors: ErrUnsupported without these, *Error
// if the server refuses, and those of the network.
func Delete(ctx context.Context, hc *http.Client, c *Client) error {
	if c.ManagementURI == "" || c.ManagementToken.IsZero() {
		return ErrUnsupported
	}
	status, body, err := oauthhttp.Delete(ctx, hc, c.ManagementURI, c.ManagementToken.Reveal())
	switch {
	case status/100 == 2:
		return nil
	case status != 0:
		return readError(status, body, c.ManagementToken)
	}
	return fmt.Errorf("dcr: delete client: %w", err)
}

// parseClient reads the members that we use and ignores all others, since servers
// differ in them. Its errors do not show sent, the token of the request.
func parseClient(body []byte, endpoint string, w wire, sent Secret) (*Client, error) {
	m, err := oauthhttp.Object(body, sent.Reveal())
	if err != nil {
		return nil, err
	}
	var clientSecret, method, managementURI, managementToken string
	c := &Client{RedirectURIs: slices.Clone(w.RedirectURIs)}
	for name, into := range map[string]any{
		"client_id":                  &c.ID,
		"client_secret":              &clientSecret,
		"token_endpoint_auth_method": &method,
		"redirect_uris":              &c.RedirectURIs,
		"registration_client_uri":    &managementURI,
		"registration_access_token":  &managementToken,
	} {
		if raw, ok := m[name]; ok && string(raw) != "null" && json.Unmarshal(raw, into) != nil {
			return nil, fmt.Errorf("%s has a wrong type", name)
		}
	}
	if c.ID == "" {
		return nil, errors.New("client_id is missing")
	}
	c.Secret = NewSecret(clientSecret)
	c.SecretExpiry = unix(m["client_secret_expires_at"]) // 0: it does not expire
	c.IssuedAt = unix(m["client_id_issued_at"])
	switch {
	case c.Secret.IsZero():
		c.AuthMethod = oauthhttp.AuthNone
	case method != "":
		c.AuthMethod = method
	case w.AuthMethod == oauthhttp.AuthPost:
		c.AuthMethod = w.AuthMethod
	default:
		c.AuthMethod = oauthhttp.AuthBasic
	}
	if !slices.Contains([]string{oauthhttp.AuthNone, oauthhttp.AuthPost, oauthhttp.AuthBasic}, c.AuthMethod) {
		return nil, fmt.Errorf("token_endpoint_auth_method %q is not supported", text.Without(c.AuthMethod, sent.Reveal()))
	}
	// The token can delete the client, so it may go only to the server that gave it.
	if u, err := oauthhttp.CheckURL(managementURI, endpoint); err == nil && managementToken != "" {
		if at, err := url.Parse(endpoint); err == nil && oauthhttp.Origin(u) == oauthhttp.Origin(at) {
			c.ManagementURI, c.ManagementToken = managementURI, NewSecret(managementToken)
		}
	}
	return c, nil
}

// unix reads seconds since 1970. It returns the zero time for 0 and for anything else.
func unix(raw json.RawMessage) time.Time {
	f, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || !(f > 0 && f < 253402300800) { // year 10000
		return time.Time{}
	}
	return time.Unix(int64(f), 0)
}

// applicationType returns the default of Metadata.ApplicationType.
func applicationType(uris []string) string {
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			continue
		}
		if host, err := oauthhttp.Host(u.Hostname()); err != nil || !oauthhttp.IsLoopback(host) {
			return "web"
		}
	}
	return "native"
}
