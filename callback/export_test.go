package callback

import "net"

// Serve answers on one more listener.
func (l *Listener) Serve(ln net.Listener) { _ = l.server.Serve(ln) }
