//go:build unix && !linux

package tokenstore

import "os"

// What is mounted read-only is a container's secret, and that a container of
// Linux.
func readOnly(*os.File) bool { return false }

// hasACL: other systems' lists do not show in a mode, and are not looked at.
func hasACL(string) bool { return false }
