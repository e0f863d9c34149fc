//go:build unix && !linux

package tokenstore

import "os"

// readOnly is about the secrets of containers, and those run on Linux.
func readOnly(*os.File) bool { return false }

// hasACL does not look at access lists: on these systems they do not show in a
// mode.
func hasACL(string) bool { return false }
