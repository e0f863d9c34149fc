package mcpclient

import (
	"errors"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// mostOwed bounds the requests of the server's that wait for an answer at a
// time. For each the SDK keeps a goroutine, which may wait for a person, and
// later a connection.
const mostOwed = 100

var errOwed = errors.New("the server has sent more requests than may wait for an answer")

// owed holds the requests of the server's that have no answer yet.
type owed struct {
	mu    sync.Mutex // guards bytes
	bytes map[jsonrpc.ID]int
}

// add takes one more request, and reports whether the SDK may have it. All requests
// together may have most bytes; one alone may always wait. A second request with the
// ID of one that waits is refused, since nobody could tell their answers apart.
func (o *owed) add(id jsonrpc.ID, bytes, most int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := bytes
	for _, n := range o.bytes {
		all += n
	}
	if _, twice := o.bytes[id]; twice || len(o.bytes) == mostOwed || len(o.bytes) > 0 && all > most {
		return false
	}
	if o.bytes == nil {
		o.bytes = make(map[jsonrpc.ID]int)
	}
	o.bytes[id] = bytes
	return true
}

// settle forgets a request, which has its answer or never was there.
func (o *owed) settle(id jsonrpc.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.bytes, id)
}
