package testenv

import (
	"testing"
	"time"
)

// Eventually waits until ok, for something that happens off the test's own path, and ends the test
// if that takes longer than a busy machine may need.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 seconds", what)
		}
	}
}
