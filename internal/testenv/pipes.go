package testenv

import (
	"context"
	"net"
)

// Pipes is a listener in memory, and what dials it. Its connections are no sockets, so both ends may be
// in a bubble of testing/synctest. Make it with make. Dial and Accept are safe for concurrent use.
type Pipes chan net.Conn

// Dial connects to the listener, whatever the address.
func (p Pipes) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept returns the other end of a connection that was dialled, or [net.ErrClosed].
func (p Pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close ends Accept. Nobody may dial any more.
func (p Pipes) Close() error { close(p); return nil }

// Addr returns no address that could be dialled.
func (p Pipes) Addr() net.Addr { return &net.TCPAddr{} }
