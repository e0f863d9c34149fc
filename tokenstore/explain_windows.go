package tokenstore

import (
	"errors"

	"golang.org/x/sys/windows"
)

// explain wraps an error of go-keyring in ErrUnavailable, with words for a person.
func explain(err error) error {
	if errors.Is(err, windows.ERROR_NO_SUCH_LOGON_SESSION) {
		return unavailable("Windows keeps no credentials for this kind of session", err)
	}
	return unavailable("the Credential Manager refused", err)
}
