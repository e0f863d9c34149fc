package callback

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/astravue/mcp-client-go/internal/testenv"
)

// What the kernel says of one socket is what its table says, and nothing where the table has to decide.
func TestHolder(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			testenv.Need(t, "a loopback address "+address, false, err.Error())
		}
		defer l.Close()
		theirs, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		ours, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		here, there := netip.MustParseAddrPort(ours.LocalAddr().String()), netip.MustParseAddrPort(ours.RemoteAddr().String())

		table, err := look(here, there)
		testenv.Need(t, "the kernel's table of sockets", err == nil && table.held, fmt.Sprintf("%+v, %v", table, err))
		uid, err := holder(there, here)
		testenv.Need(t, "sock_diag", err == nil, fmt.Sprint(err))
		if uid != table.uid || uid != os.Geteuid() {
			t.Errorf("%s: user %d, and by the table %d", address, uid, table.uid)
		}
		other := netip.AddrPortFrom(there.Addr(), there.Port()^1)
		for name, ends := range map[string][2]netip.AddrPort{
			"a connection that is not": {other, here},
			"a listener":               {here, other},
		} {
			if uid, err := holder(ends[0], ends[1]); err == nil {
				t.Errorf("%s: %s is held by user %d", address, name, uid)
			}
		}
		_ = theirs.Close()
		if uid, err := holder(there, here); err == nil {
			t.Errorf("%s: a closed socket is held by user %d", address, uid)
		}
	}
}

func BenchmarkHolder(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer theirs.Close()
	here, there := netip.MustParseAddrPort(theirs.RemoteAddr().String()), netip.MustParseAddrPort(theirs.LocalAddr().String())
	b.Run("asked", func(b *testing.B) {
		for b.Loop() {
			if _, err := holder(there, here); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("table", func(b *testing.B) {
		for b.Loop() {
			if _, err := look(here, there); err != nil {
				b.Fatal(err)
			}
		}
	})
}
