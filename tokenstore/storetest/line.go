package storetest

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A Line is a proxy between the processes that [RunProcesses] starts and the
// service behind their store. It can be held up.
type Line struct {
	Addr string // where the processes find it

	mu   sync.Mutex
	held chan struct{} // closed: what comes is passed on
}

// NewLine returns a Line that listens on loopback, or with network "unix" in a
// temporary folder, and connects each caller with address until the test ends.
func NewLine(t testing.TB, network, address string) *Line {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "line") // short, as the path of a socket must be
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		at = filepath.Join(dir, "socket")
	}
	listener, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l := &Line{Addr: listener.Addr().String(), held: make(chan struct{})}
	close(l.held)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial(network, address)
			if err != nil {
				_ = near.Close()
				continue
			}
			go l.pass(far, near)
			go l.pass(near, far)
		}
	}()
	return l
}

// Stall holds up both directions until resume is called. If a caller hangs up
// meanwhile, its bytes still arrive then.
func (l *Line) Stall() (resume func()) {
	held := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	return func() { close(held) }
}

func (l *Line) pass(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		held := l.held
		l.mu.Unlock()
		<-held
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
