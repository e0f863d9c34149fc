package callback

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// lookAgain is the time between two looks. The kernel takes a socket off its table before it
	// tells the other end, and it hands the table out in pieces: one look can miss a socket.
	lookAgain = 10 * time.Millisecond

	established = "01" // of proc_pid_net(5)'s column st
)

// ownerOf returns the owner of the socket at remote, which is connected to our socket at local. Both
// are an address and a port. It asks the kernel for that one socket first, which is fast. Only if the
// kernel does not name a holder, it reads the table of all sockets to find out why.
//
// The table's user counts only while a process holds the socket: only then the socket has an inode.
// For a closed socket the user reads as 0, which would be root. A socket that was closed with a
// reset is missing in the table, although its data can still be read. So a missing socket is in
// another network namespace only if our own end is still connected.
func ownerOf(local, remote string) owner {
	here, err := netip.ParseAddrPort(local)
	if err != nil {
		return unsure
	}
	there, err := netip.ParseAddrPort(remote)
	if err != nil {
		return unsure
	}
	if uid, err := holder(there, here); err == nil {
		return ownerNamed(uid)
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
		return unsure // it may be a proxy for everybody
	}
	return foreign
}

// sockets are the two ends of a connection, as the table has them.
type sockets struct {
	works     bool // the table has our address; in some sandboxes it is empty
	connected bool // our end is connected
	listed    bool // the other end is in the table
	held      bool // a process holds the other end
	uid       int  // the user of the other end, if it is held
}

// A row of the table is one socket.
type row struct {
	state string
	inode string
	uid   uint64
}

// table is the latest copy of the kernel's. Reading takes milliseconds, and anybody may cause it: all
// callers that wait share the next copy.
var table struct {
	sync.Mutex
	began time.Time // when reading began
	err   error
	rows  map[[2]netip.AddrPort]row // by local and remote address
	local map[netip.AddrPort]bool
}

// look finds the two ends in a table that is not older than the call.
func look(here, there netip.AddrPort) (s sockets, err error) {
	called := time.Now()
	table.Lock()
	defer table.Unlock()
	if !table.began.After(called) {
		table.began = time.Now()
		table.rows, table.local, table.err = readTable()
	}
	ours, ok := table.rows[[2]netip.AddrPort{here, there}]
	s.connected = ok && ours.state == established
	s.works = table.local[here]
	theirs, ok := table.rows[[2]netip.AddrPort{there, here}]
	s.listed, s.held, s.uid = ok, ok && theirs.inode != "0", int(theirs.uid)
	return s, table.err
}

// readTable reads the tables of IPv4 and IPv6, since a socket of IPv6 can be connected to an address of
// IPv4. Of two rows with equal ends the held one counts: a port can be used again while its old socket
// is still closing.
func readTable() (map[[2]netip.AddrPort]row, map[netip.AddrPort]bool, error) {
	rows, locals := map[[2]netip.AddrPort]row{}, map[netip.AddrPort]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, "6") {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) < 10 {
				continue
			}
			local, ok := parseSocket(f[1])
			if !ok || !local.Addr().IsLoopback() {
				continue
			}
			remote, _ := parseSocket(f[2])
			uid, err := strconv.ParseUint(f[7], 10, 32)
			if err != nil {
				continue
			}
			locals[local] = true
			if ends := [2]netip.AddrPort{local, remote}; rows[ends].inode == "" || rows[ends].inode == "0" {
				rows[ends] = row{f[3], f[9], uid}
			}
		}
		_ = f.Close()
		if err := lines.Err(); err != nil {
			return nil, nil, err
		}
	}
	return rows, locals, nil
}

// parseSocket reads an address and a port as the table writes them, in hexadecimal. The address
// consists of words of 32 bits in this machine's byte order.
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
