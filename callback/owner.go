package callback

// An owner says whose the other end of a connection is.
type owner int

const (
	unsure  owner = iota // cannot be told; or root, which may act for anybody
	ours                 // the user of this process
	foreign              // another user
	gone                 // no process holds it any more
)
