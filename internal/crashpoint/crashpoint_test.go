package crashpoint_test

import (
	"os"
	"slices"
	"testing"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
	"github.com/astravue/mcp-client-go/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Serve(func(at string) bool {
		defer crashpoint.Arm(func(point string) {
			if point == at {
				crashpoint.Kill()
			}
		})()
		crashpoint.Hit("a")
		return true
	})
	os.Exit(m.Run())
}

func TestKillAtThePointNamed(t *testing.T) {
	for at, survives := range map[string]bool{"b": true, "a": false} {
		p := testenv.Spawn(t)
		p.Send(at)
		if alive := p.Receive(new(bool)); alive != survives {
			t.Errorf("to be killed at %q it says that it is alive: %v", at, alive)
		}
	}
}

func TestDisarm(t *testing.T) {
	var got []string
	disarm := crashpoint.Arm(func(p string) { got = append(got, p) })
	crashpoint.Hit("x")
	disarm()
	crashpoint.Hit("y")
	if want := []string{"x"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func BenchmarkHit(b *testing.B) {
	for b.Loop() {
		crashpoint.Hit("x")
	}
}
