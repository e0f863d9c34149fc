//go:build !linux

package callback

// ownerOf cannot tell: this system shows the owners of connections to its administrator only, or not
// at all.
func ownerOf(_, _ string) owner { return unsure }
