package tokenstore

import (
	"errors"

	"golang.org/x/sys/windows"
)

// explain gives an error of go-keyring this package's type and a sentence for
// the person before the computer.
func explain(err error) error {
	if errors.Is(err, windows.ERROR_NO_SUCH_LOGON_SESSION) {
		return unavailable("Windows keeps no credentials for this kind of session", err)
	}
	return unavailable("the Credential Manager refused", err)
}
