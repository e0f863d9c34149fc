package attacks

import (
	"net/http"
	"net/http/cookiejar"
	"sync"

	"filippo.io/age"

	"github.com/astravue/mcp-client-go/tokenstore"
)

// embIdentity seals the stores of the rows.
var embIdentity = sync.OnceValue(func() tokenstore.Secret {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err) // there is randomness
	}
	return tokenstore.NewSecret(id.String())
})

func newEmbJar() http.CookieJar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // it has no error
	}
	return jar
}
