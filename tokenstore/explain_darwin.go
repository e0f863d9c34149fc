package tokenstore

import (
	"errors"
	"os/exec"
)

// explain wraps an error of go-keyring in ErrUnavailable, with words for a person.
// The exit status of security(1) is the low byte of the framework's error.
func explain(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		switch exit.ExitCode() {
		case 36: // errSecInteractionNotAllowed, as over ssh
			return unavailable("the keychain is locked and cannot show its prompt", err)
		case 51: // errSecAuthFailed
			return unavailable("the keychain did not accept the password", err)
		case 128: // errSecUserCanceled
			return unavailable("the keychain's prompt was dismissed", err)
		case 37, 50: // errSecNoDefaultKeychain, errSecNoSuchKeychain
			return unavailable("there is no keychain for this user", err)
		}
	}
	return unavailable("the keychain refused", err)
}
