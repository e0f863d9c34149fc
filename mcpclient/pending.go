package mcpclient

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
	"github.com/astravue/mcp-client-go/tokenstore"
)

// pendingLife is how long a web application's user may take.
const pendingLife = 10 * time.Minute

// A PendingLogin is a sign-in that was begun and waits for its callback. It
// holds the state and the code verifier. So it leaves the process sealed only
// ([PendingLogin.Seal]), and no fmt verb shows what is in it. It serves once. The
// zero value is no sign-in: its use is an [ErrPendingLogin]. Safe for concurrent use.
type PendingLogin struct {
	v    *pendingLogin
	used atomic.Bool
}

type pendingLogin struct {
	ID                 string         `json:"id"`
	Key                tokenstore.Key `json:"key"` // of the grant: says whose sign-in it is
	Started            time.Time      `json:"started"`
	Issuer             string         `json:"issuer"`
	IssuerUnlisted     bool           `json:"issuer_unlisted,omitempty"`
	IssSupported       bool           `json:"iss_supported,omitempty"`
	TokenEndpoint      string         `json:"token_endpoint"`
	RevocationEndpoint string         `json:"revocation_endpoint,omitempty"`
	ClientID           string         `json:"client_id"`
	AuthMethod         string         `json:"auth_method"`
	Registration       tokenstore.Key `json:"registration,omitempty"`
	RedirectURI        string         `json:"redirect_uri"`
	Resource           string         `json:"resource,omitempty"`
	Scopes             []string       `json:"scopes,omitempty"`
	RequestHash        string         `json:"request,omitempty"` // see oauthClient.requestHash

	State    tokenstore.Secret `json:"-"`
	Verifier tokenstore.Secret `json:"-"`
}

// A sealedLogin is a pendingLogin with its secrets, as it is sealed.
type sealedLogin struct {
	*pendingLogin
	State    string `json:"state"`
	Verifier string `json:"verifier"`
}

// Format implements [fmt.Formatter]. It shows nothing of p.
func (p *PendingLogin) Format(f fmt.State, _ rune) { fmt.Fprint(f, "PendingLogin") }

// Seal encrypts p with a 32-byte key (AES-256-GCM) and returns it in base64url, for a
// cookie or a table. Only [Client.OpenPendingLogin] of a client with p's Server and
// Account opens it. A label is part of it, so that nothing else that is sealed with
// that key can take its place. Nonces are random, which is good for 2^32 sign-ins
// with one key (SP 800-38D §8.3).
func (p *PendingLogin) Seal(key []byte) (string, error) {
	if p == nil || p.v == nil {
		return "", fmt.Errorf("%w: there is none", ErrPendingLogin)
	}
	aead, err := sealer(key)
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(sealedLogin{p.v, p.v.State.Reveal(), p.v.Verifier.Reveal()})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plain, pendingLabel(p.v.Key))), nil
}

// openPending opens what Seal made of a sign-in to the grant of grantKey.
func openPending(key []byte, sealed string, grantKey tokenstore.Key) (*PendingLogin, error) {
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(sealed))
	if err != nil {
		return nil, at(StepCallback, fmt.Errorf("%w: it was altered", ErrPendingLogin))
	}
	plain, err := aead.Open(nil, nil, data, pendingLabel(grantKey))
	v := sealedLogin{pendingLogin: new(pendingLogin)}
	if err != nil || json.Unmarshal(plain, &v) != nil {
		return nil, at(StepCallback, fmt.Errorf("%w: it was altered, or sealed for another user or with another key", ErrPendingLogin))
	}
	v.pendingLogin.State, v.pendingLogin.Verifier = tokenstore.NewSecret(v.State), tokenstore.NewSecret(v.Verifier)
	return &PendingLogin{v: v.pendingLogin}, nil
}

// checkPending returns an [ErrPendingLogin] if p is not this client's, or too old.
func (f *flow) checkPending(p *PendingLogin) error {
	if p == nil || p.v == nil {
		return fmt.Errorf("%w: there is none", ErrPendingLogin)
	}
	if p.v.Key != f.key {
		return fmt.Errorf("%w: it is another user's", ErrPendingLogin)
	}
	// Another computer may have begun it, and its clock may be a little ahead.
	if age := clock.Now().Sub(p.v.Started); age > pendingLife || age < -time.Minute {
		return fmt.Errorf("%w: it is %s old", ErrPendingLogin, age.Round(time.Second))
	}
	return nil
}

// secretFor returns the secret of p's client; the zero secret if it has none. p does
// not carry the secret: p goes through the user's browser, sealed, and the secret
// serves all users.
func (f *flow) secretFor(ctx context.Context, p *PendingLogin) (tokenstore.Secret, error) {
	if p.v.Registration == "" {
		return f.registration.ClientSecret, nil
	}
	if p.v.Registration != f.registrationKey(p.v.Issuer, p.v.RedirectURI) {
		// An older version has begun it, with a client that all servers shared.
		return tokenstore.Secret{}, at(StepCallback, fmt.Errorf("%w: its client is not this server's", ErrPendingLogin))
	}
	r, err := f.store.Get(ctx, p.v.Registration)
	if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
		return tokenstore.Secret{}, at(StepExchange, err)
	}
	if r.Registration == nil || r.Registration.ClientID != p.v.ClientID {
		return tokenstore.Secret{}, at(StepCallback, fmt.Errorf("%w: its client is no longer registered", ErrPendingLogin))
	}
	return r.Registration.ClientSecret, nil
}

// pendingLabel is sealed with a pending sign-in. It says what is sealed, and
// whose sign-in it is.
func pendingLabel(key tokenstore.Key) []byte { return []byte("astravue-mcp pending login 1 " + key) }

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("mcpclient: sealing key has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
