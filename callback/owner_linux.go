package callback

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// lookAgain is how long after the first look the second one comes. The kernel takes a socket
	// off its table before it tells the other end, and the table is not read in one go.
	lookAgain = 10 * time.Millisecond

	established = "01" // of proc_pid_net(5)'s column st
)

// ownerOf looks into the kernel's table of sockets for the one at remote, an address and port that
// is connected to local, one of ours.
//
// The user that the table names counts only where somebody holds the socket, which then has an
// inode. That of a closed one is forgotten and reads as 0, which is root's. And a socket
// that was closed with a reset is not in the table, although what it sent can still be read.
// Therefore one that is missing is in another network namespace only if our end is
// still connected.
func ownerOf(local, remote string) owner {
	here, err := netip.ParseAddrPort(local)
	if err != nil {
		return unsure
	}
	there, err := netip.ParseAddrPort(remote)
	if err != nil {
		return unsure
	}
	for again := false; ; again = true {
		t, err := look(here, there)
		switch {
		case err != nil || !t.works:
			return unsure
		case t.held:
			return ownerNamed(t.uid)
		case t.listed || !t.connected:
			return gone
		case again:
			return unsure
		}
		time.Sleep(lookAgain)
	}
}

func ownerNamed(uid int) owner {
	switch {
	case uid == os.Geteuid() || uid == os.Getuid():
		return ours
	case uid == 0:
		return unsure // a proxy for everybody, it may be
	}
	return foreign
}

// sockets is what the table says of a connection.
type sockets struct {
	works     bool // the table has our address at all, as it has not in some sandboxes
	connected bool // our end
	listed    bool // the other end
	held      bool // by a process
	uid       int  // of the other end, if it is held
}

// look reads both tables: a socket for IPv6 can be connected to an address of IPv4.
func look(here, there netip.AddrPort) (s sockets, err error) {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "6") {
			continue
		}
		if err != nil {
			return s, err
		}
		err = s.read(f, here, there)
		_ = f.Close()
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *sockets) read(table io.Reader, here, there netip.AddrPort) error {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		local, ok := parseSocket(f[1])
		if !ok || local != here && local != there {
			continue
		}
		remote, _ := parseSocket(f[2])
		switch {
		case local == here:
			s.works = true
			s.connected = s.connected || remote == there && f[3] == established
		case remote == here:
			s.listed = true
			if uid, err := strconv.ParseUint(f[7], 10, 32); err == nil && f[9] != "0" {
				s.held, s.uid = true, int(uid)
			}
		}
	}
	return lines.Err()
}

// parseSocket reads an address as the table has it: words of 32 bits in the order of this
// machine's bytes, in hexadecimal, and a port.
func parseSocket(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for ; address != ""; address = address[8:] {
		word := b[len(b)-len(address)/2:]
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	ip, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), ok && err == nil
}
