package attacks

import (
	"os/exec"
	"syscall"
)

// as has a process run as another user.
func as(cmd *exec.Cmd, uid uint32) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// shares lets other sockets listen on the address too, as far as the system allows it.
func shares(_, _ string, c syscall.RawConn) (err error) {
	const reusePort = 15 // SO_REUSEPORT, which package syscall lacks
	if bad := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) }); bad != nil {
		return bad
	}
	return err
}
