package tokenstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A Record is what a store keeps under a key. Exactly one of Grant and
// Registration is set.
type Record struct {
	// Generation is random and new at every save. [Locked.Save] sets it. Two reads
	// with one generation read one save.
	Generation string

	Grant        *Grant
	Registration *Registration
}

// A Grant is the OAuth 2.0 tokens of a sign-in (RFC 6749 §5.1), with everything
// that it takes to use, refresh and revoke them. Every refresh replaces it.
// Times that are not known are zero.
type Grant struct {
	Server  string // the server's URL, as the caller named it
	Account string

	// SignIn is random. A sign-in sets a new one and a refresh keeps it, so that a
	// process can tell whether another one has signed in or only refreshed.
	SignIn string

	Issuer             string // of the authorization server; no other one gets these credentials
	IssuerUnlisted     bool   // a person named the issuer; the server's metadata does not
	TokenEndpoint      string
	RevocationEndpoint string // "" if the server offers none

	ClientID     string
	ClientSecret Secret
	AuthMethod   string // token_endpoint_auth_method: none, client_secret_post or client_secret_basic
	Registration Key    // of the dynamic registration that made ClientID; "" if none did

	Resource        string   // RFC 8707 §2, as the code exchange sent it; "" if it sent none
	ScopesRequested []string // by all sign-ins for this grant together
	ScopesGranted   []string // as the server stated; if it did not, as requested

	AccessToken Secret
	ObtainedAt  time.Time // when the request that brought it was sent
	ExpiresAt   time.Time // of the access token; zero: the server did not say

	RefreshToken     Secret    // empty if the server gave none
	RefreshExpiresAt time.Time // zero: unknown, or never where RefreshForever
	RefreshForever   bool      // the server stated that it does not expire
}

// A Registration is a client that an authorization server made for this
// application (RFC 7591 §3.2.1).
type Registration struct {
	Issuer string
	// Server is the URL of the MCP server for which the client was made. Other
	// servers of its origin share it.
	Server       string
	ClientID     string
	ClientSecret Secret
	SecretExpiry time.Time // zero: it does not expire
	AuthMethod   string    // token_endpoint_auth_method
	RedirectURIs []string  // as registered
	// RedirectURI is the address that sign-ins listen at, port included.
	RedirectURI string

	// The address and the token for deleting the registration (RFC 7592 §2.3), and
	// when it was made. This module stores them and does not use them.
	ManagementURI   string
	ManagementToken Secret
	CreatedAt       time.Time
}

// schema is the version of the stored form. A reader refuses a newer version: it
// would drop members that it does not know when it saves.
const schema = 1

type wireRecord struct {
	Schema       int               `json:"schema"`
	Generation   string            `json:"generation"`
	Grant        *wireGrant        `json:"grant,omitempty"`
	Registration *wireRegistration `json:"registration,omitempty"`
}

type wireGrant struct {
	Server             string    `json:"server"`
	Account            string    `json:"account,omitempty"`
	SignIn             string    `json:"sign_in,omitempty"`
	Issuer             string    `json:"issuer"`
	IssuerUnlisted     bool      `json:"issuer_unlisted,omitempty"`
	TokenEndpoint      string    `json:"token_endpoint"`
	RevocationEndpoint string    `json:"revocation_endpoint,omitempty"`
	ClientID           string    `json:"client_id"`
	ClientSecret       string    `json:"client_secret,omitempty"`
	AuthMethod         string    `json:"token_endpoint_auth_method"`
	Registration       Key       `json:"registration_key,omitempty"`
	Resource           string    `json:"resource,omitempty"`
	ScopesRequested    []string  `json:"scopes_requested,omitempty"`
	ScopesGranted      []string  `json:"scopes_granted,omitempty"`
	AccessToken        string    `json:"access_token"`
	ObtainedAt         time.Time `json:"obtained_at,omitzero"`
	ExpiresAt          time.Time `json:"expires_at,omitzero"`
	RefreshToken       string    `json:"refresh_token,omitempty"`
	RefreshExpiresAt   time.Time `json:"refresh_expires_at,omitzero"`
	RefreshForever     bool      `json:"refresh_forever,omitempty"`
}

type wireRegistration struct {
	Issuer          string    `json:"issuer"`
	Server          string    `json:"server,omitempty"`
	ClientID        string    `json:"client_id"`
	ClientSecret    string    `json:"client_secret,omitempty"`
	SecretExpiry    time.Time `json:"client_secret_expires_at,omitzero"`
	AuthMethod      string    `json:"token_endpoint_auth_method"`
	RedirectURIs    []string  `json:"redirect_uris"`
	RedirectURI     string    `json:"redirect_uri,omitempty"`
	ManagementURI   string    `json:"registration_client_uri,omitempty"`
	ManagementToken string    `json:"registration_access_token,omitempty"`
	CreatedAt       time.Time `json:"created_at,omitzero"`
}

// EncodeRecord returns the stored form of r, with its secrets in plain text. Only
// implementations of [Store] need it.
func EncodeRecord(r Record) ([]byte, error) {
	if (r.Grant == nil) == (r.Registration == nil) {
		return nil, errors.New("tokenstore: a record holds either a grant or a registration")
	}
	w := wireRecord{Schema: schema, Generation: r.Generation}
	if g := r.Grant; g != nil {
		w.Grant = &wireGrant{
			Server: g.Server, Account: g.Account, SignIn: g.SignIn,
			Issuer: g.Issuer, IssuerUnlisted: g.IssuerUnlisted, TokenEndpoint: g.TokenEndpoint, RevocationEndpoint: g.RevocationEndpoint,
			ClientID: g.ClientID, ClientSecret: g.ClientSecret.Reveal(), AuthMethod: g.AuthMethod, Registration: g.Registration,
			Resource: g.Resource, ScopesRequested: g.ScopesRequested, ScopesGranted: g.ScopesGranted,
			AccessToken: g.AccessToken.Reveal(), ObtainedAt: g.ObtainedAt.UTC(), ExpiresAt: g.ExpiresAt.UTC(),
			RefreshToken: g.RefreshToken.Reveal(), RefreshExpiresAt: g.RefreshExpiresAt.UTC(), RefreshForever: g.RefreshForever,
		}
	}
	if g := r.Registration; g != nil {
		w.Registration = &wireRegistration{
			Issuer: g.Issuer, Server: g.Server, ClientID: g.ClientID, ClientSecret: g.ClientSecret.Reveal(), SecretExpiry: g.SecretExpiry.UTC(),
			AuthMethod: g.AuthMethod, RedirectURIs: g.RedirectURIs, RedirectURI: g.RedirectURI,
			ManagementURI: g.ManagementURI, ManagementToken: g.ManagementToken.Reveal(), CreatedAt: g.CreatedAt.UTC(),
		}
	}
	return json.Marshal(w)
}

// DecodeRecord reads what [EncodeRecord] wrote. Its errors wrap [ErrCorrupt]
// and show nothing of the data.
func DecodeRecord(data []byte) (Record, error) {
	var w wireRecord
	if json.Unmarshal(data, &w) != nil {
		return Record{}, fmt.Errorf("%w: not a record", ErrCorrupt)
	}
	switch {
	case w.Schema > schema:
		return Record{}, fmt.Errorf("%w: written by a newer version (schema %d, this one knows %d)", ErrCorrupt, w.Schema, schema)
	case w.Schema < 1, w.Generation == "", (w.Grant == nil) == (w.Registration == nil):
		return Record{}, fmt.Errorf("%w: not a record", ErrCorrupt)
	}
	r := Record{Generation: w.Generation}
	if g := w.Grant; g != nil {
		r.Grant = &Grant{
			Server: g.Server, Account: g.Account, SignIn: g.SignIn,
			Issuer: g.Issuer, IssuerUnlisted: g.IssuerUnlisted, TokenEndpoint: g.TokenEndpoint, RevocationEndpoint: g.RevocationEndpoint,
			ClientID: g.ClientID, ClientSecret: NewSecret(g.ClientSecret), AuthMethod: g.AuthMethod, Registration: g.Registration,
			Resource: g.Resource, ScopesRequested: g.ScopesRequested, ScopesGranted: g.ScopesGranted,
			AccessToken: NewSecret(g.AccessToken), ObtainedAt: g.ObtainedAt, ExpiresAt: g.ExpiresAt,
			RefreshToken: NewSecret(g.RefreshToken), RefreshExpiresAt: g.RefreshExpiresAt, RefreshForever: g.RefreshForever,
		}
	}
	if g := w.Registration; g != nil {
		r.Registration = &Registration{
			Issuer: g.Issuer, Server: g.Server, ClientID: g.ClientID, ClientSecret: NewSecret(g.ClientSecret), SecretExpiry: g.SecretExpiry,
			AuthMethod: g.AuthMethod, RedirectURIs: g.RedirectURIs, RedirectURI: g.RedirectURI,
			ManagementURI: g.ManagementURI, ManagementToken: NewSecret(g.ManagementToken), CreatedAt: g.CreatedAt,
		}
	}
	// JSON can hold a time with an offset whose year in UTC it cannot. Such a
	// record could be read and never saved.
	if _, err := EncodeRecord(r); err != nil {
		return Record{}, fmt.Errorf("%w: not a record", ErrCorrupt)
	}
	return r, nil
}
