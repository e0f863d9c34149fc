// Package testenv gives tests the real parts they are run against: a Secret Service, a
// browser, other people's authorization and MCP servers. A part that is not there makes
// the test skip and say so, so that `go test ./...` is the whole loop on a bare machine;
// where every part is installed on purpose, [CI] turns the same skip into a failure.
//
// Everything listens on loopback, on a free port, and ends with the test. Only tests
// import this package. It installs nothing, and of this module's packages it knows the sandbox alone.
package testenv

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

const (
	// CI names the environment variable that, set to 1, makes every absent part a failure.
	CI = "ASTRAVUE_MCP_CI"

	// Artefacts names the environment variable with the folder that keeps what a person
	// may want to look at after the run: screenshots, and what other servers logged.
	Artefacts = "ASTRAVUE_MCP_ARTEFACTS"

	// NodeModules names the environment variable with the node_modules folder that holds
	// what npm/package.json in this folder lists.
	NodeModules = "ASTRAVUE_MCP_NODE_MODULES"

	// Long names the environment variable that, set to 1, asks for the long modes.
	Long = "ASTRAVUE_MCP_LONG"
)

// Need ends the test if part is not available (ok is false): a skip that says which part is
// missing and why, or a failure where [CI] is 1.
func Need(t testing.TB, part string, ok bool, why string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv(CI) == "1" {
		t.Fatalf("%s is missing, and with %s=1 it must be there: %s", part, CI, why)
	}
	t.Skipf("needs %s: %s", part, why)
}

// SideBySide lets n tests that call t.Parallel run at a time, in a package where they wait more than
// they work. Go's own number is that of the processors. -parallel still goes before. TestMain calls it.
func SideBySide(n int) {
	if err := flag.Set("test.parallel", strconv.Itoa(n)); err != nil {
		panic(err)
	}
}
