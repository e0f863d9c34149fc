package callback

// An owner says who holds the other end of a connection to this computer.
type owner int

const (
	unsure  owner = iota // nobody can tell; or root does, for somebody
	ours                 // the user that this process runs as
	foreign              // another user
	gone                 // nobody any more
)
