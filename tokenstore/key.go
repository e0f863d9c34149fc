package tokenstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// hashName returns a name of 32 characters that any keychain and any file
// system takes, for strings that none might take.
func hashName(s ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", s))
	return hex.EncodeToString(sum[:16])
}

// A Key names a record in a store. Make one with [GrantKey] or
// [RegistrationKey]; any string works.
type Key string

const signInSuffix = "#sign-in"

// GrantKey names the grant of one account at one server. The account is the
// caller's own name for it; "" is the default account.
func GrantKey(server, account string) Key { return joinKey("grant", server, account) }

// RegistrationKey names the registration of an application at an issuer for the
// servers of one origin (RFC 6454 §6.2), with these redirect addresses, in any
// order. A client of its own for each origin has the user asked once for each:
// consent to a client (RFC 6749 §3.1) would else be consent to every server
// that names the issuer (RFC 9728 §7.4).
//
// Its first word is "client". Keys of "registration" named no origin: grants of
// that time still name them, and no sign-in uses what is stored there.
func RegistrationKey(issuer, application, origin string, redirectURIs ...string) Key {
	uris := slices.Sorted(slices.Values(redirectURIs))
	return joinKey(append([]string{"client", issuer, application, origin}, uris...)...)
}

// joinKey quotes each part, so that two lists never make the same key.
func joinKey(parts ...string) Key {
	for i, p := range parts {
		parts[i] = fmt.Sprintf("%q", p)
	}
	return Key(strings.Join(parts, " "))
}

// SignIn names the lock that a sign-in for k holds, so that many processes
// open one browser while nobody who refreshes waits for a person.
func (k Key) SignIn() Key { return k + signInSuffix }

// IsSignIn reports whether k came from [Key.SignIn].
func (k Key) IsSignIn() bool { return strings.HasSuffix(string(k), signInSuffix) }
