package testenv

import (
	"os"
	"testing"
)

// Keep holds a file beside the test to the text that the test has come to, or with update writes
// it there.
func Keep(t testing.TB, file, text string, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != text {
		t.Errorf("%s is out of date, write it anew with -update; it should say\n%s", file, text)
	}
}
