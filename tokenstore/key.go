package tokenstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// hashName returns 32 hexadecimal digits for any strings. Keys hold characters,
// and have lengths, that some keychains and file systems refuse.
func hashName(s ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", s))
	return hex.EncodeToString(sum[:16])
}

// A Key names a record in a store. [GrantKey] and [RegistrationKey] make the keys
// of this module; a store takes any string.
type Key string

const signInSuffix = "#sign-in"

// GrantKey names the grant of one account at one server, which is a URL. The
// account is any name that the caller gives it; "" is the default account.
func GrantKey(server, account string) Key { return joinKey("grant", server, account) }

// RegistrationKey names the registration of an application at an issuer for the
// servers of one origin (RFC 6454 §6.2), with these redirect addresses in any
// order. Each origin has a client of its own, so that the user is asked once for
// each: otherwise consent to the client (RFC 6749 §3.1) would be consent to every
// server that names this issuer (RFC 9728 §7.4).
//
// The key's first word is "client". Older versions made keys that begin with
// "registration" and name no origin. Grants of that time still name them; no
// sign-in uses the registrations stored there.
func RegistrationKey(issuer, application, origin string, redirectURIs ...string) Key {
	uris := slices.Sorted(slices.Values(redirectURIs))
	return joinKey(append([]string{"client", issuer, application, origin}, uris...)...)
}

// joinKey quotes each part, so that two different lists make two keys.
func joinKey(parts ...string) Key {
	for i, p := range parts {
		parts[i] = fmt.Sprintf("%q", p)
	}
	return Key(strings.Join(parts, " "))
}

// SignIn names the lock that a sign-in for k holds. With it, many processes open
// one browser between them. It is another key than k, so that a refresh never waits for a
// person who is signing in.
func (k Key) SignIn() Key { return k + signInSuffix }

// IsSignIn reports whether k came from [Key.SignIn].
func (k Key) IsSignIn() bool { return strings.HasSuffix(string(k), signInSuffix) }
