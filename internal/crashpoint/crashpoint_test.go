package crashpoint_test

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/astravue/mcp-client-go/internal/crashpoint"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashpoint.EnvVar) != "" {
		crashpoint.ArmFromEnv()
		for _, p := range []string{"a", "b", "b"} {
			crashpoint.Hit(p)
			os.Stdout.WriteString(p)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestKillAtThePointNamed(t *testing.T) {
	for _, c := range []struct {
		env, out string
		survives bool
	}{
		{"a", "", false},
		{"b", "a", false},
		{"b#2", "ab", false},
		{"b#3", "abb", true},
		{"other", "abb", true},
	} {
		t.Run(c.env, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), crashpoint.EnvVar+"="+c.env)
			out, err := cmd.Output()
			if string(out) != c.out || (err == nil) != c.survives {
				t.Errorf("got output %q and %v, want %q, survives %v", out, err, c.out, c.survives)
			}
		})
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
