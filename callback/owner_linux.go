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
	// One socket is quickly found. The table decides what it means that it is not.
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

// A row is of one socket.
type row struct {
	state string
	inode string
	uid   uint64
}

// table is the latest one that was read. To read it takes milliseconds, and anybody may ask: all
// who wait share the next one.
var table struct {
	sync.Mutex
	began time.Time
	err   error
	rows  map[[2]netip.AddrPort]row // by local and remote address
	local map[netip.AddrPort]bool
}

// look looks the two ends up in a table that is not older than the call.
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

// readTable reads both tables: a socket for IPv6 can be connected to an address of IPv4. Of two rows
// the held one counts, since a port can be used anew while the old socket is still dying.
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
