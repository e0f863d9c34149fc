package callback

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
)

// Names of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h that package syscall lacks.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	tcpListen        = 10

	diagRequestSize = 56 // of inet_diag_req_v2
	diagAnswerSize  = 72 // of inet_diag_msg
)

var errNoAnswer = errors.New("the kernel does not say")

// holder returns the user of the socket at local that is connected to remote. It asks the kernel by
// sock_diag(7). It returns an error if no process holds the socket, and on systems without
// sock_diag. The answer takes microseconds; the table of all sockets takes milliseconds.
func holder(local, remote netip.AddrPort) (uid int, err error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	if err := syscall.Sendto(fd, diagRequest(local, remote), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	// The answer is there when Sendto returns.
	n, from, err := syscall.Recvfrom(fd, answer, syscall.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	if kernel, ok := from.(*syscall.SockaddrNetlink); !ok || kernel.Pid != 0 {
		return 0, errNoAnswer
	}
	return parseHolder(answer[:n], local, remote)
}

// diagRequest asks for the one socket between two addresses.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, 0, syscall.NLMSG_HDRLEN+diagRequestSize)
	b = binary.NativeEndian.AppendUint32(b, uint32(cap(b)))
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence number, and port of the sender
	family := byte(syscall.AF_INET)
	if local.Addr().Is6() {
		family = syscall.AF_INET6
	}
	b = append(b, family, syscall.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in any state
	b = appendEnds(b, local, remote)
	b = append(b, make([]byte, 4)...)                        // of any interface
	return append(b, 255, 255, 255, 255, 255, 255, 255, 255) // with any cookie
}

// appendEnds appends the ports and addresses of an inet_diag_sockid.
func appendEnds(b []byte, local, remote netip.AddrPort) []byte {
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, end := range []netip.AddrPort{local, remote} {
		address := end.Addr().AsSlice()
		b = append(append(b, address...), make([]byte, 16-len(address))...)
	}
	return b
}

// parseHolder returns the user in the answer. The socket must have exactly these ends and a holder: if
// the kernel finds no such socket it answers with a listener at local.
func parseHolder(answer []byte, local, remote netip.AddrPort) (uid int, err error) {
	const (
		header = syscall.NLMSG_HDRLEN
		ends   = header + 4 // after family, state and two timers
		size   = 36         // of the two ports and addresses
	)
	if len(answer) < header+diagAnswerSize || binary.NativeEndian.Uint16(answer[4:]) != sockDiagByFamily {
		return 0, errNoAnswer
	}
	state, inode := answer[header+1], binary.NativeEndian.Uint32(answer[header+68:])
	if state == tcpListen || inode == 0 || !slices.Equal(answer[ends:ends+size], appendEnds(nil, local, remote)) {
		return 0, errNoAnswer
	}
	return int(binary.NativeEndian.Uint32(answer[header+64:])), nil
}
